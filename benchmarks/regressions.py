"""The last run of a benchmark held against this one, in ratios; see `report`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEPT = Path(__file__).parent.parent / "build" / "benchmarks"
NOTABLE = 1.2
"""What lies between this and its inverse may be the machine's mood."""


def report(name: str, settings: Mapping[str, Any], values: Mapping[str, float]) -> str:
    """A table of each value of the benchmark `name`, last time and now; and keep these for the next
    run, below build/.

    Smaller is better: seconds, or the ratio to what ran in turn with it, which says more. Runs with
    other `settings`, such as another size, are not compared.
    """
    path = KEPT / f"{name}.json"
    last = _read(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"settings": settings, "values": values}, indent=1))
    if last is None:
        return f"No earlier run is kept in {path.parent}: the next one is held against this."
    if last["settings"] != settings:
        return f"The last run had other settings: {last['settings']}."
    return table(last["values"], values)


def table(last: Mapping[str, float], now: Mapping[str, float]) -> str:
    """Each value last time, now, and their ratio; `slower` or `faster` where that is notable."""
    lines = [f"{'against the last run':44}{'last':>9}{'now':>9}{'now/last':>10}"]
    for name, value in now.items():
        if not last.get(name):
            lines.append(f"{name:44}{'':>9}{value:9.3f}       new")
            continue
        ratio = value / last[name]
        said = "slower" if ratio > NOTABLE else "faster" if ratio < 1 / NOTABLE else ""
        lines.append(f"{name:44}{last[name]:9.3f}{value:9.3f}{ratio:10.2f}  {said}".rstrip())
    return "\n".join([*lines, *(f"{name:44} not measured" for name in last if name not in now)])


def _read(path: Path) -> dict[str, Any] | None:
    try:
        kept: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return kept if kept.keys() == {"settings", "values"} else None
