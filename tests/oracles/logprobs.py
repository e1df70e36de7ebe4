"""What llama.cpp thinks comes next, at every position: `python -m tests.oracles.logprobs MODEL…`.

Its server tells log-probabilities, that is logits less one number for all tokens of a position; the
number is of no account for what is drawn. A process of its own, for the package logs to its
standard output's descriptor and ends as it likes.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]


def of_models(prompts: Mapping[Path, Sequence[int]], vocabulary: int) -> dict[Path, Floats]:
    """For each model, the log-probabilities after each of its tokens: (positions, vocabulary)."""
    jobs = [[str(path), list(tokens), vocabulary] for path, tokens in prompts.items()]
    command = [sys.executable, "-m", "tests.oracles.logprobs", json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"model"')]
    return {Path(line["model"]): np.array(line["logprobs"]) for line in lines}


def main() -> None:
    import xllamacpp

    for path, tokens, vocabulary in json.loads(sys.argv[1]):
        params = xllamacpp.CommonParams()
        params.model.path = path
        params.n_ctx = 64
        params.n_parallel = 1
        params.warmup = False
        params.cpuparams.n_threads = 1
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        server = xllamacpp.Server(params)
        rows = []
        for last in range(1, len(tokens) + 1):
            answer = server.handle_completions(
                {
                    "prompt": tokens[:last],
                    "max_tokens": 1,
                    "temperature": 0,
                    "logprobs": vocabulary,
                    "cache_prompt": False,
                }
            )
            row = [0.0] * vocabulary
            for token in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
                row[token["id"]] = token["logprob"]
            rows.append(row)
        print("\n" + json.dumps({"model": path, "logprobs": rows}), flush=True)


if __name__ == "__main__":
    main()
