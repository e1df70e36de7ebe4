"""python -m tests.fuzz TARGET SECONDS: fuzz one target with atheris, below 300 MB of memory.

What is found is written to the current folder as `crash-…`; its bytes become a row of a test.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["app"]):
    from tests.fuzz.targets import TARGETS

MEGABYTES = 300


def main() -> None:
    """Run until the time is over, or something is found."""
    name, seconds = sys.argv[1:]
    target, seeds = TARGETS[name]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            Path(corpus, str(number)).write_bytes(seed)
        options = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEGABYTES}", "-timeout=10"]
        atheris.Setup([sys.argv[0], *options, "-max_len=20000", corpus], target)
        atheris.Fuzz()


main()
