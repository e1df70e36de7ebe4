"""PEFT's rank_pattern and alpha_pattern: regular expressions that find a module by its name.

The expressions come from whoever made the adapter, and some would match for ever, so that this is
left to a process that can be ended. Source: peft, utils/other.py, get_pattern_key.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from app.weights.adapters import match_names
from app.weights.model import WeightsError

SECONDS = 4
"""Of processor time, for all of an adapter's names."""


def first_matches(
    key: str, pattern: Mapping[str, float], names: Iterable[str], seconds: int = SECONDS
) -> dict[str, float]:
    """The value of the first expression of `pattern` that matches a name, or its end after a dot,
    for each of `names` that one matches. `key` is what the config calls the pattern.

    Raises WeightsError where an expression isn't one, or matching takes too long.
    """
    names = list(names)
    if not pattern or not names:
        return {}
    job = json.dumps({"patterns": list(pattern), "names": names, "seconds": seconds})
    command = [sys.executable, "-I", "-S", str(Path(match_names.__file__))]
    try:
        done = subprocess.run(
            command,
            input=job,
            capture_output=True,
            text=True,
            timeout=10 * seconds,
            check=True,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        raise WeightsError(
            f"The adapter's {key} has expressions that take too long to be matched.",
            "Write them simpler, or name the modules there.",
        ) from error
    found = json.loads(done.stdout)
    if isinstance(found, dict):
        raise WeightsError(f"The adapter's {key}: {found['error']}.")
    values = list(pattern.values())
    return {
        name: values[number]
        for name, number in zip(names, found, strict=True)
        if number is not None
    }
