"""A folder's JSON files, read within bounds, and config.json's values, each checked when it is
asked for.

The keys are those of transformers' configuration classes, of version 4 as well as of version 5
(`rope_parameters`, `dtype`, a nested `text_config`).
"""

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from app.weights.model import WeightsError

CONFIG_BYTES = 4 * 2**20
LARGEST = 2**31 - 1
LARGEST_FLOAT = 3e38
_THETAS = ("rope_theta", "global_rope_theta", "rope_global_theta", "rotary_emb_base")
_LOCAL_THETAS = ("rope_local_base_freq", "local_rope_theta", "rope_local_theta", "swa_rope_theta")


def read_json(path: Path, name: str, limit: int = CONFIG_BYTES) -> dict[str, Any]:
    """The JSON object in a file of at most `limit` bytes. Raises WeightsError, which names it."""
    with path.open("rb") as file:
        text = file.read(limit + 1)
    if len(text) > limit:
        raise WeightsError(f"{name} has more than {limit} bytes.")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise WeightsError(f"{name} isn't a JSON object.", "Copy the folder again.")
    return value


class Config:
    """Values by key, from the file that `where` names; null counts as absent.

    Every method raises WeightsError where the value has another type or is out of bounds.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "config.json") -> None:
        self.values = values
        self.where = where

    def find(self, *keys: str) -> tuple[str, Any]:
        """The first of `keys` that has a value, and that; the first key and None without one."""
        for key in keys:
            if self.values.get(key) is not None:
                return key, self.values[key]
        return keys[0], None

    def whole(self, *keys: str, least: int = 1, most: int = LARGEST) -> int | None:
        """A whole number from `least` to `most`."""
        key, value = self.find(*keys)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self._wrong(key, value, f"a whole number from {least} to {most}")
        return value

    def need(self, *keys: str) -> int:
        """A whole number above 0 that must be there."""
        value = self.whole(*keys)
        if value is None:
            raise WeightsError(
                f"{self.where} lacks {keys[0]}.",
                "Zip the whole folder that save_pretrained wrote, with its own config.json.",
            )
        return value

    def number(self, *keys: str) -> float | None:
        """A finite number that float32 can hold."""
        key, value = self.find(*keys)
        return None if value is None else self._number(key, value)

    def numbers(self, key: str) -> list[float] | None:
        """A list of numbers."""
        value = self._list(key)
        return None if value is None else [self._number(key, item) for item in value]

    def flag(self, key: str, default: bool = False) -> bool:
        """A truth value."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def text(self, *keys: str) -> str | None:
        """A text."""
        key, value = self.find(*keys)
        if value is not None and not isinstance(value, str):
            raise self._wrong(key, value, "a text")
        return value

    def part(self, key: str) -> "Config | None":
        """The object under `key`."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return Config(value, f"{self.where}'s {key}")

    def per_block(self, key: str, blocks: int) -> list[str] | None:
        """A list of one text for each block."""
        value = self._list(key)
        if value is None:
            return None
        if len(value) != blocks or not all(isinstance(item, str) for item in value):
            raise self._wrong(key, value, f"a list of {blocks} texts, one for each block")
        return value

    def wholes(self, key: str) -> list[int] | None:
        """A list of whole numbers from 0 on."""
        value = self._list(key)
        if value is None:
            return None
        for item in value:
            if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item <= LARGEST:
                raise self._wrong(key, value, "a list of whole numbers")
        return value

    def _list(self, key: str) -> list[Any] | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            raise self._wrong(key, value, "a list")
        return value

    def _number(self, key: str, value: object) -> float:
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not -LARGEST_FLOAT < value < LARGEST_FLOAT
            or not isfinite(value)
        ):
            raise self._wrong(key, value, "a finite number")
        return float(value)

    def _wrong(self, key: str, value: object, wanted: str) -> WeightsError:
        return WeightsError(f"{self.where} has {key}={value!r:.60}; it must be {wanted}.")


def model_config(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Config:
    """The config of the language model: that of `text_config` over that of the whole, both over
    the `defaults` of the model's class."""
    whole = Config(values)
    text = whole.part("text_config")
    given = {key: value for key, value in whole.values.items() if value is not None}
    if text is not None:
        given |= {key: value for key, value in text.values.items() if value is not None}
    return Config({**defaults, **given})


def class_names(values: Mapping[str, Any]) -> Sequence[str]:
    """The model classes that config.json names in `architectures`. Raises WeightsError."""
    names = values.get("architectures")
    if (
        not isinstance(names, list)
        or not 0 < len(names) <= 16
        or not all(isinstance(name, str) for name in names)
    ):
        raise WeightsError(
            "config.json doesn't name the model's class in `architectures`.",
            "Zip the folder that save_pretrained wrote, with its own config.json.",
        )
    return names


class Rope:
    """How positions turn queries and keys: `full` has the keys of transformers 5's
    `rope_parameters`, wherever config.json has them; `sliding` those of the blocks with a sliding
    window, where they have their own."""

    def __init__(self, config: Config) -> None:
        given = config.part("rope_parameters") or config.part("rope_scaling") or Config({})
        full = given.part("full_attention")
        if full is not None:
            self.full, self.sliding = full, given.part("sliding_attention")
            return
        values = {key: value for key, value in given.values.items() if value is not None}
        values.setdefault("rope_theta", config.find(*_THETAS)[1])
        values.setdefault("rope_type", values.get("type"))
        for key in ("partial_rotary_factor", "original_max_position_embeddings"):
            values.setdefault(key, config.values.get(key))
        self.full = Config(values, given.where)
        local = config.find(*_LOCAL_THETAS)[1]
        self.sliding = given.part("sliding_attention")
        if self.sliding is None and local is not None:
            self.sliding = Config({"rope_theta": local}, config.where)

    @property
    def type(self) -> str:
        """The kind of scaling, in small letters; `default` without one."""
        return (self.full.text("rope_type", "type") or "default").lower()
