"""What others ask of this package, without what the work itself needs: numpy is never loaded."""

QUANTIZATIONS = (
    *("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_0"),
    *("Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K", "IQ4_NL", "IQ4_XS"),
)
"""What a model can be quantised to, named as llama-quantize names it."""
