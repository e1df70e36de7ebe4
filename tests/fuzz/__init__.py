"""Coverage-guided fuzzing of what reads strangers' bytes; see __main__."""
