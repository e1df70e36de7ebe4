"""rank_pattern and alpha_pattern, matched as PEFT matches them, and never for long."""

import pytest

from app.weights.adapters.patterns import first_matches
from app.weights.model import WeightsError

NAMES = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.1.self_attn.q_proj",
    "model.layers.1.self_attn.v_proj",
    "model.layers.1.mlp.up_proj",
]


@pytest.mark.parametrize(
    ("pattern", "values"),
    [
        ({}, [None, None, None, None]),
        ({"q_proj": 2}, [2, 2, None, None]),
        ({"proj": 2}, [None, None, None, None]),
        ({r"layers\.1\..*": 2}, [None, 2, 2, 2]),
        ({r"1\.self_attn\.(q|v)_proj": 2, "q_proj": 4}, [4, 2, 2, None]),
        ({"q_proj": 4, r"1\.self_attn\.(q|v)_proj": 2}, [4, 4, 2, None]),
        ({"^model.layers.0.self_attn.q_proj": 2}, [2, None, None, None]),
        ({"^self_attn.q_proj": 2}, [None, None, None, None]),
        ({"self_attn.q": 2}, [None, None, None, None]),
        ({"up_proj|q_proj": 2}, [2, 2, None, 2]),
    ],
    ids=str,
)
def test_the_first_that_matches(pattern: dict[str, float], values: list[float | None]) -> None:
    found = first_matches("alpha_pattern", pattern, NAMES)
    assert [found.get(name) for name in NAMES] == values


@pytest.mark.parametrize("expression", [r"(\w+\W?)+!", "(.*)*(.*)*(.*)*z"])
def test_hostile_expressions_are_ended(expression: str) -> None:
    with pytest.raises(WeightsError) as refusal:
        first_matches("alpha_pattern", {expression: 2}, [NAMES[0] + "a" * 200], seconds=1)
    message = "The adapter's alpha_pattern has expressions that take too long to be matched."
    assert (str(refusal.value), refusal.value.hint) == (
        message,
        "Write them simpler, or name the modules there.",
    )


@pytest.mark.parametrize("expression", ["(x", "(" * 500 + ")" * 500, "a{4294967296}"])
def test_what_is_no_expression(expression: str) -> None:
    with pytest.raises(WeightsError, match="is no regular expression"):
        first_matches("rank_pattern", {expression: 2}, NAMES)
