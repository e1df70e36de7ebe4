"""What a zip or a model's folder contains, by its files' headers."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from app.archive.names import ARCHIVES
from app.formats import gguf
from app.formats.files import ModelFile
from app.modelfile import grammar as modelfile
from app.modelfile.grammar import Modelfile
from app.planning.gguf_parts import GgufAdapter, Projector, gguf_models, kind_of, read_gguf
from app.planning.parts import Adapter, Base
from app.planning.safetensors_parts import read_text, safetensors_parts
from app.planning.unusable import Unusable

_ARCHIVES = (*ARCHIVES, ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst")
PICKLES = (".bin", ".pt", ".ckpt", ".pth", ".pkl")
MODELFILE_BYTES = 2**20
_MODELFILES = ("modelfile", "modelfile.txt")
# What trainers write beside weights: it never was meant for Ollama.
_OF_TRAINING = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state|random_states|trainer_state).*",
    re.IGNORECASE,
)
CHECKPOINT = re.compile(r"checkpoint-\d+", re.IGNORECASE)
_IMPORTANCE_NAME = re.compile(r"(.*[._-])?imatrix([._-].*)?\.dat|.*\.imatrix", re.IGNORECASE)


@dataclass(frozen=True)
class Contents:
    """Everything usable that was found, and the names of what isn't.

    `importance_matrices` are what llama.cpp's `llama-imatrix` writes, in GGUF or not. `modelfile`
    is the zip's own, whose paths are relative to the folder `modelfile_folder`.
    """

    bases: tuple[Base, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    projectors: tuple[Projector, ...] = ()
    importance_matrices: tuple[ModelFile, ...] = ()
    modelfile: Modelfile | None = None
    modelfile_folder: str = "."
    pickles: tuple[str, ...] = ()
    archives: tuple[str, ...] = ()


def examine(files: Iterable[ModelFile]) -> Contents:
    """Look at every file's header. Raises Unusable for a weights file that is broken."""
    by_name = _without_checkpoints({file.name: file for file in files})
    kinds: dict[str, list[tuple[ModelFile, gguf.Header]]] = defaultdict(list)
    for file in by_name.values():
        header = read_gguf(file)
        if header is not None:
            kinds[kind_of(file, header)].append((file, header))
    models, adapters = safetensors_parts(by_name)
    own = _modelfile(by_name)
    return Contents(
        bases=(*gguf_models(kinds["model"]), *models),
        adapters=(
            *(GgufAdapter(files=(file,), headers=(header,)) for file, header in kinds["adapter"]),
            *adapters,
        ),
        projectors=tuple(
            Projector(files=(file,), headers=(header,)) for file, header in kinds["mmproj"]
        ),
        importance_matrices=(
            *(file for file, _ in kinds["imatrix"]),
            *(
                file
                for name, file in by_name.items()
                if _IMPORTANCE_NAME.fullmatch(PurePosixPath(name).name)
            ),
        ),
        modelfile=_parsed(own) if own else None,
        modelfile_folder=str(PurePosixPath(own.name).parent) if own else ".",
        pickles=tuple(name for name in by_name if name.lower().endswith(PICKLES)),
        archives=tuple(name for name in by_name if name.lower().endswith(_ARCHIVES)),
    )


def unused_pickles(names: Iterable[str]) -> tuple[str, ...]:
    """The names among `names` that are weights in Python pickles, by their endings."""
    return tuple(
        name
        for name in names
        if name.lower().endswith(PICKLES) and not _OF_TRAINING.match(PurePosixPath(name).name)
    )


def _without_checkpoints(files: Mapping[str, ModelFile]) -> dict[str, ModelFile]:
    """The files without a Trainer's checkpoints, where what it trained is in the folder above."""
    weights = {str(PurePosixPath(name).parent) for name in files if _is_safetensors(name)}
    kept = {}
    for name, file in files.items():
        path = PurePosixPath(name)
        above = next(
            (str(each.parent) for each in path.parents if CHECKPOINT.fullmatch(each.name)), None
        )
        if above not in weights:
            kept[name] = file
    return kept


def _is_safetensors(name: str) -> bool:
    return name.lower().endswith(".safetensors")


def _modelfile(files: Mapping[str, ModelFile]) -> ModelFile | None:
    """The zip's own Modelfile: the one that is least deep."""
    found = [name for name in files if PurePosixPath(name).name.lower() in _MODELFILES]
    return files[min(found, key=_depth)] if found else None


def _depth(name: str) -> tuple[int, int, str]:
    path = PurePosixPath(name)
    return len(path.parts), _MODELFILES.index(path.name.lower()), name


def _parsed(file: ModelFile) -> Modelfile:
    try:
        content = read_text(file, MODELFILE_BYTES)
        # PowerShell's `>` writes UTF-16; Ollama goes by the mark at the start, too.
        wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        return modelfile.parse(content.decode("utf-16" if wide else "utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Unusable(f"{file.name} isn't text in UTF-8.") from error
    except modelfile.ModelfileError as error:
        raise Unusable(f"The zip's Modelfile can't be read: {error}") from error
