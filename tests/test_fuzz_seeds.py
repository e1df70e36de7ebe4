"""What fuzzing starts from goes through its targets: those still say what the service does."""

import pytest

from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_no_seed_raises_what_its_target_may_not(name: str) -> None:
    target, seeds = TARGETS[name]
    for seed in seeds:
        target(seed)
        target(seed[: len(seed) // 2])
        target(seed + b"\0" * 9)
