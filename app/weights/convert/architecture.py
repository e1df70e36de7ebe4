"""What has to be known about an architecture to convert it."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES
from gguf.tensor_mapping import TensorNameMap, get_tensor_name_map

from app.weights.convert.config import Config
from app.weights.convert.keys import Keys
from app.weights.convert.places import Place, Step, chained
from app.weights.convert.shapes import Expected
from app.weights.model import Floats, Model

Split = tuple[str, Sequence[tuple[str, Sequence[Step]]]]
_BLOCK = re.compile(r"(?<=\blayers\.)\d+(?=\.)")
_EXPERT = re.compile(r"(?<=\.experts)\.(\d+)(?=\.)")
_WRAPPERS = ("model.language_model.model.", "language_model.model.", "model.language_model.")


def _no_tensors(config: Config) -> Mapping[str, Floats]:
    return {}


@dataclass(frozen=True)
class Architecture:
    """An architecture: GGUF's `name` for it, and the `classes` of transformers that have it.

    `keys` makes GGUF's metadata of config.json, without the architecture's name before each key;
    `shapes` the tensors that there must be. `defaults` are what the class takes for what
    config.json leaves out. `changes` are steps for the tensors whose name a pattern is found in.
    `splits` name the tensors that another one is made into: the first pattern found is replaced by
    each name after it, and those steps done. `extra` makes tensors that no file has.
    """

    name: str
    classes: Sequence[str]
    keys: Callable[[Config], Keys]
    shapes: Callable[[Config], Iterator[tuple[str, Expected]]]
    defaults: Mapping[str, object] = field(default_factory=dict)
    changes: Sequence[tuple[str, Step]] = ()
    splits: Sequence[Split] = ()
    extra: Callable[[Config], Mapping[str, Floats]] = _no_tensors

    def places(self, name: str, model: Model) -> list[Place]:
        """Where the tensor `name` of transformers goes (with `.weight` or `.bias` behind a module's
        name), for the numbers in `model`'s metadata. Empty where GGUF has no such tensor."""
        name = plain_name(name)
        found = _BLOCK.search(name)
        block = int(found[0]) if found else 0
        expert = _EXPERT.search(name)
        number = int(expert[1]) if expert else None
        name = _EXPERT.sub("", _BLOCK.sub("0", name))
        steps = [step for pattern, step in self.changes if re.search(pattern, name)]
        parts: Sequence[tuple[str, Sequence[Step]]] = [(name, ())]
        for pattern, into in self.splits:
            if re.search(pattern, name):
                parts = [(re.sub(pattern, part, name), more) for part, more in into]
                break
        places = []
        for part, more in parts:
            ours = _names(self.name).get_name(part, try_suffixes=(".weight", ".bias", ".scale"))
            if ours is None:
                return []
            change = partial(chained, (*steps, *more), model, block)
            places.append(Place(re.sub(r"^blk\.0\.", f"blk.{block}.", ours), change, number))
        return places


def plain_name(name: str) -> str:
    """A tensor's name as in a model without other parts: `model.layers.0…`, `lm_head.weight`."""
    for wrapper in _WRAPPERS:
        if name.startswith(wrapper):
            return f"model.{name.removeprefix(wrapper)}"
    return name.removeprefix("language_model.")


@lru_cache(maxsize=8)
def _names(architecture: str) -> TensorNameMap:
    """The `gguf` package's names for a model of one block."""
    numbers = {name: number for number, name in MODEL_ARCH_NAMES.items()}
    return get_tensor_name_map(MODEL_ARCH(numbers[architecture]), 1)
