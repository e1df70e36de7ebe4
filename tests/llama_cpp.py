"""What llama.cpp generates with a model: `python -m tests.llama_cpp MODEL [LORA]`, for tests.

A process of its own, for the package logs to its standard output's descriptor and ends as it likes.
"""

import json
import subprocess
import sys
from pathlib import Path

TOKENS = 12


def generate(model: Path, lora: Path | None = None) -> list[dict[int, float]]:
    """The log-probabilities of the likeliest tokens at each step of a greedy generation, by token;
    the first of each is the one that was taken."""
    command = [sys.executable, "-m", "tests.llama_cpp", model, *([lora] if lora else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    answer = next(line for line in done.stdout.splitlines() if line.startswith('{"steps"'))
    return [
        {int(token): logprob for token, logprob in step} for step in json.loads(answer)["steps"]
    ]


def main() -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.n_ctx = 64
    params.n_parallel = 1
    params.warmup = False
    params.cpuparams.n_threads = 1
    if len(sys.argv) > 2:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(sys.argv[2], 1.0)]
    server = xllamacpp.Server(params)
    answer = server.handle_completions(
        {
            "prompt": [5, 70, 100, 33],
            "max_tokens": TOKENS,
            "temperature": 0,
            "logprobs": 8,
            "ignore_eos": True,
            "cache_prompt": False,
        }
    )
    steps = [
        [(token["id"], token["logprob"]) for token in step["top_logprobs"]]
        for step in answer["choices"][0]["logprobs"]["content"]
    ]
    print("\n" + json.dumps({"steps": steps}), flush=True)


if __name__ == "__main__":
    main()
