"""What a zip or a model's folder holds, as far as its files' headers tell."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from app.formats import gguf
from app.formats.files import ModelFile
from app.modelfile import grammar as modelfile
from app.modelfile.grammar import Modelfile
from app.planning.folders import read_text, safetensors_parts
from app.planning.parts import Adapter, Base, GgufAdapter, GgufModel, Projector
from app.planning.unusable import Unusable

__all__ = ["Contents", "Unusable", "examine", "unused_pickles"]

PICKLES = (".bin", ".pt", ".ckpt", ".pth", ".pkl")
_NOT_WEIGHTS = (".json", ".txt", ".md", ".jinja", ".model", ".safetensors", ".py", ".yaml", ".yml")
_MODELFILES = ("modelfile", "modelfile.txt")
# What trainers write beside weights: it never was meant for Ollama.
_OF_TRAINING = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state|random_states|trainer_state).*",
    re.IGNORECASE,
)
CHECKPOINT = re.compile(r"checkpoint-\d+", re.IGNORECASE)
_SHARD = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
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


def examine(files: Iterable[ModelFile]) -> Contents:
    """Look at every file's header. Raises Unusable for a weights file that is broken."""
    by_name = _without_checkpoints({file.name: file for file in files})
    kinds: dict[str, list[tuple[ModelFile, gguf.Header]]] = defaultdict(list)
    for file in by_name.values():
        header = _read_gguf(file)
        if header is not None:
            kinds[kind_of(file, header)].append((file, header))
    models, adapters = safetensors_parts(by_name)
    own = _modelfile(by_name)
    return Contents(
        bases=(*_gguf_models(kinds["model"]), *models),
        adapters=(
            *(GgufAdapter(files=(file,), header=header) for file, header in kinds["adapter"]),
            *adapters,
        ),
        projectors=tuple(
            Projector(files=(file,), header=header) for file, header in kinds["mmproj"]
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


def _read_gguf(file: ModelFile) -> gguf.Header | None:
    """The file's header if it is a GGUF by name or by its first bytes."""
    lower = file.name.lower()
    if not lower.endswith(".gguf"):
        if lower.endswith(_NOT_WEIGHTS):
            return None
        with file.open() as stream:
            if stream.read(4) != b"GGUF":
                return None
    try:
        with file.open() as stream:
            return gguf.read_header(stream, file.size)
    except gguf.GGUFError as error:
        raise Unusable(f"{file.name} {error}.") from error


def kind_of(file: ModelFile, header: gguf.Header) -> str:
    """`model`, `adapter`, `mmproj` or `imatrix`; what doesn't say is told by its name."""
    if header.text("general.type") == "imatrix" or "imatrix.chunk_count" in header.metadata:
        return "imatrix"
    by_name = "lora" in PurePosixPath(file.name).name.lower()
    if header.kind == "model" and not header.declares_kind and by_name:
        return "adapter"
    return header.kind


def _gguf_models(files: Iterable[tuple[ModelFile, gguf.Header]]) -> Iterator[GgufModel]:
    """Each base model among the files: whole ones, and complete sets of shards."""
    sets: dict[tuple[str, int], dict[int, tuple[ModelFile, gguf.Header]]] = defaultdict(dict)
    for file, header in files:
        match = _SHARD.fullmatch(file.name)
        split = header.shard
        if match is None and split is not None and split[1] > 1:
            raise Unusable(
                f"{file.name} is shard {split[0] + 1} of {split[1]} but isn't named like one.",
                f"Name it <prefix>-{split[0] + 1:05}-of-{split[1]:05}.gguf, as it was made.",
            )
        if match is None:
            yield GgufModel(files=(file,), headers=(header,))
            continue
        number, count = int(match["number"]), int(match["count"])
        if split is not None and split != (number - 1, count):
            raise Unusable(
                f"{file.name} says inside that it is shard {split[0] + 1} of {split[1]}."
            )
        sets[match["prefix"], count][number] = file, header
    for (prefix, count), shards in sets.items():
        yield _joined(prefix, count, shards)


def _joined(
    prefix: str, count: int, shards: Mapping[int, tuple[ModelFile, gguf.Header]]
) -> GgufModel:
    if set(shards) != set(range(1, count + 1)):
        missing = [number for number in range(1, count + 1) if number not in shards][:5]
        names = ", ".join(f"{prefix}-{number:05}-of-{count:05}.gguf" for number in missing)
        raise Unusable(f"The shards of {prefix} aren't complete: {names} isn't in the zip.")
    in_order = [shards[number] for number in sorted(shards)]
    model = GgufModel(
        files=tuple(file for file, _ in in_order), headers=tuple(header for _, header in in_order)
    )
    declared = model.header.metadata.get("split.tensors.count")
    if isinstance(declared, int) and declared != len(model.tensors):
        raise Unusable(
            f"The shards of {prefix} aren't of one set:"
            f" they hold {len(model.tensors)} tensors where {declared} belong."
        )
    return model


def _modelfile(files: Mapping[str, ModelFile]) -> ModelFile | None:
    """The zip's own Modelfile: the one that is least deep."""
    found = [name for name in files if PurePosixPath(name).name.lower() in _MODELFILES]
    return files[min(found, key=_depth)] if found else None


def _depth(name: str) -> tuple[int, int, str]:
    path = PurePosixPath(name)
    return len(path.parts), _MODELFILES.index(path.name.lower()), name


def _parsed(file: ModelFile) -> Modelfile:
    try:
        content = read_text(file)
        # PowerShell's `>` writes UTF-16; Ollama goes by the mark at the start, too.
        wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        return modelfile.parse(content.decode("utf-16" if wide else "utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Unusable(f"{file.name} isn't text in UTF-8.") from error
    except modelfile.ModelfileError as error:
        raise Unusable(f"The zip's Modelfile can't be read: {error}") from error


def names(parts: Sequence[Base | Adapter | Projector]) -> str:
    """The parts' files, for a sentence."""
    return ", ".join(part.label for part in parts)
