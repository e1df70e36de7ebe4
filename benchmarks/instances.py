"""Three instances behind nginx on one models directory, one of them killed again and again.

`python -m benchmarks.instances [--seconds 60]`; on loopback, with the tests' stand-in for Ollama.
It ends with 1 if a request of another instance was lost, or a model is torn.
"""

import argparse
import tempfile
from pathlib import Path

from tests import instances
from tests.standin import Standin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Standin(folder / "ollama", version="0.34.1") as standin:
            found = instances.run(folder, standin.url, kills=1, seconds=seconds)
    print(f"kills           {found.kills}")
    print(f"requests        {sum(found.ended.values())}")
    for what, count in sorted(found.ended.items()):
        print(f"  {count:6} {what}")
    print(f"requests lost   {dict(found.lost_by) or 'none'}")
    print(f"models torn     {found.torn or 'none'} ({found.stored} stored at the end)")
    raise SystemExit(bool(set(found.lost_by) - {"the killed one"} or found.torn))


if __name__ == "__main__":
    main()
