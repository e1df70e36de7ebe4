"""Match names with regular expressions, in a process of its own: see patterns.first_matches.

Reads {"patterns": [...], "names": [...], "seconds": n} as JSON; writes the number of the first
expression that matches each name, or null, or {"error": text}. Imports nothing of the service.
"""

import json
import re
import resource
import sys
import warnings

MEMORY_BYTES = 512 * 2**20


def main() -> None:
    """Match within limits; the process is killed beyond them."""
    job = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (job["seconds"], job["seconds"]))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("ignore")
    expressions = []
    for pattern in job["patterns"]:
        try:
            # As peft has it: utils/other.py, get_pattern_key.
            expressions.append(re.compile(rf"(.*\.)?({pattern})$"))
        except (re.error, RecursionError, OverflowError) as error:
            json.dump(
                {"error": f"{pattern!r:.80} is no regular expression: {error!s:.80}"}, sys.stdout
            )
            return
    json.dump(
        [
            next((number for number, each in enumerate(expressions) if each.match(name)), None)
            for name in job["names"]
        ],
        sys.stdout,
    )


if __name__ == "__main__":
    main()
