"""Record what llama.cpp's own quantiser makes of the models in `quantized`."""

import json
import tempfile
from pathlib import Path

import gguf
from cyllama.llama import llama_cpp

from tests.oracles.quantized import CASES, source, summary

TYPES = (
    *("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_0"),
    *("Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K", "IQ4_NL", "IQ4_XS"),
)
FIXTURE = Path(__file__).parent / "fixtures" / "quantized.json"


def main() -> None:
    """Quantise each model to each type, and write FIXTURE."""
    recorded: dict[str, dict[str, dict[str, str]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for case in CASES:
            given, made = source(case, Path(scratch)), Path(scratch, "made.gguf")
            for name in TYPES:
                asked = llama_cpp.LlamaModelQuantizeParams()
                kind = "ALL_F32" if name == "F32" else f"MOSTLY_{name}"
                asked.ftype, asked.nthread = gguf.LlamaFileType[kind].value, 1
                llama_cpp.model_quantize(str(given), str(made), asked)
                recorded.setdefault(case, {})[name] = summary(made)
    FIXTURE.write_text(json.dumps(recorded, indent=0) + "\n")


if __name__ == "__main__":
    main()
