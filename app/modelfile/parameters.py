"""A model's parameters: their names, and their values by their types.

They are those of Ollama's api/types.go (v0.33.0-rc2).
"""

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from reprlib import repr as shortened
from typing import Any

from app.modelfile.grammar import Modelfile, ModelfileError

PARAMETERS: Mapping[str, type[Any]] = {
    **dict.fromkeys(("num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "num_ctx"), int),
    **dict.fromkeys(("num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"), int),
    **dict.fromkeys(("temperature", "top_p", "min_p", "typical_p", "repeat_penalty"), float),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), float),
    "use_mmap": bool,
    "stop": list,
}

GIVEN_UP_PARAMETERS = (
    *("penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock"),
    *("mirostat", "mirostat_tau", "mirostat_eta"),
)
_EXPECTED = {
    int: "a whole number of at most 64 bits",
    float: "a finite number",
    bool: "true or false",
    list: "a text or a list of texts",
}
_NUMBERS: Mapping[type[Any], re.Pattern[str]] = {
    int: re.compile(r"[+-]?[0-9]{1,19}"),
    float: re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"),
}
_BOOLS = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}


def check_parameters(values: Mapping[str, object]) -> dict[str, object]:
    """The parameters with their names and types checked; `stop` always as a list.

    Ollama's server takes any, and fails or ignores them when someone chats. Raises ModelfileError
    for a name that it doesn't have and for a value of another type.
    """
    return {name: _checked(name, value) for name, value in values.items()}


def _checked(name: str, value: object) -> object:
    kind = _kind(name)
    if kind is list:
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
            return texts
    elif kind is bool or isinstance(value, bool):
        if kind is type(value):
            return value
    elif isinstance(value, int):
        if -(2**63) <= value < 2**63:
            return value
    elif kind is float and isinstance(value, float) and math.isfinite(value):
        return value
    raise _wrong_value(name, value)


def _kind(name: str) -> type[Any]:
    kind = PARAMETERS.get(name)
    if kind is None:
        near = difflib.get_close_matches(name[:40], PARAMETERS, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"It has {', '.join(PARAMETERS)}."
        raise ModelfileError(f"Ollama has no parameter {shortened(name)}. {hint}")
    return kind


def _wrong_value(name: str, value: object) -> ModelfileError:
    expected = _EXPECTED[_kind(name)]
    return ModelfileError(f"The parameter {name!r} must be {expected}, not {shortened(value)}.")


def merge_parameters(
    stated: Iterable[tuple[str, str]], given: Mapping[str, object]
) -> dict[str, object]:
    """A Modelfile's parameters with their types, and those of `given` in place of its own.

    As in Ollama's client a repeated `stop` adds up, of any other the last one counts, and
    parameters that Ollama has given up are left out. Raises ModelfileError as check_parameters.
    """
    typed: dict[str, object] = {}
    stops: list[str] = []
    for name, text in stated:
        if name == "stop":
            stops.append(text)
            typed["stop"] = stops
        elif name not in GIVEN_UP_PARAMETERS:
            typed[name] = _from_text(name, text)
    return typed | check_parameters(given)


def check_stated(modelfile: Modelfile) -> None:
    """Raise ModelfileError, with the line, for a parameter as check_parameters does."""
    for index, parameter in enumerate(modelfile.parameters):
        try:
            merge_parameters([parameter], {})
        except ModelfileError as error:
            raise modelfile.error("parameter", str(error), index) from error


def _from_text(name: str, text: str) -> object:
    kind = _kind(name)
    if kind is bool and text in _BOOLS:
        return _BOOLS[text]
    if kind in _NUMBERS and _NUMBERS[kind].fullmatch(text):
        return _checked(name, kind(text))
    raise _wrong_value(name, text)
