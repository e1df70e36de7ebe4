"""The table that holds the last run of a benchmark against this one."""

from pathlib import Path

import pytest

from benchmarks import regressions


def test_each_value_is_held_against_the_last_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regressions, "KEPT", tmp_path / "build")
    size = {"gigabytes": 2}
    first = {"slower": 1.0, "faster": 1.0, "same": 1.0, "gone": 1.0}
    assert "No earlier run is kept" in regressions.report("it", size, first)
    now = {"slower": 1.3, "faster": 0.8, "same": 1.1, "added": 2.0}
    said = regressions.report("it", size, now).splitlines()[1:]
    assert [line.split() for line in said] == [
        ["slower", "1.000", "1.300", "1.30", "slower"],
        ["faster", "1.000", "0.800", "0.80", "faster"],
        ["same", "1.000", "1.100", "1.10"],
        ["added", "2.000", "new"],
        ["gone", "not", "measured"],
    ]
    assert "other settings: {'gigabytes': 2}" in regressions.report("it", {"gigabytes": 4}, now)
    (tmp_path / "build" / "it.json").write_text("torn {")
    assert "No earlier run" in regressions.report("it", size, now)
