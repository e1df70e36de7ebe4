"""What the first bytes of an upload's files tell: refused as soon as they have arrived."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import PurePosixPath

from app.archive.headers import header_is_known
from app.formats.files import UNKNOWN_SIZE, ModelFile
from app.formats.gguf import read_header
from app.planning.contents import CHECKPOINT
from app.planning.gguf_parts import GgufAdapter, GgufModel, kind_of
from app.planning.parts import Adapter, Base
from app.planning.safetensors_parts import (
    ADAPTER_CONFIG,
    MODEL_CONFIG,
    TEXT_BYTES,
    is_adapter_name,
    safetensors_parts,
)


class EarlyLook:
    """Looks at the files of an upload while they arrive, as archive.intake.OnFile.

    It refuses what no file that comes later makes good, but for a Modelfile that sets the refused
    one aside: leave that one out then. It raises ArchiveError, Unusable, and what the checks raise
    that a request's options ask for.
    """

    def __init__(
        self,
        check_base: Callable[[Base], None] | None = None,
        check_adapter: Callable[[Adapter], None] | None = None,
    ) -> None:
        self._check_base = check_base
        self._check_adapter = check_adapter
        # Of each folder, by the config's name: that config, and the first weights it is for.
        self._folders: dict[tuple[str, str], dict[str, ModelFile]] = defaultdict(dict)

    def __call__(self, file: ModelFile) -> bool:
        path = PurePosixPath(file.name)
        if any(CHECKPOINT.fullmatch(parent.name) for parent in path.parents):
            return header_is_known(file)  # It may be set aside.
        if path.name in (ADAPTER_CONFIG, MODEL_CONFIG):
            if file.size > TEXT_BYTES:
                return file.size != UNKNOWN_SIZE
            if not _is_whole(file):
                return False
            self._look_at_folder(file, path.name)
            return True
        if not header_is_known(file):
            return False
        lower = file.name.lower()
        if lower.endswith(".gguf"):
            self._look_at_gguf(file)
        elif lower.endswith(".safetensors"):
            is_adapter = is_adapter_name(path.name)
            self._look_at_folder(file, ADAPTER_CONFIG if is_adapter else MODEL_CONFIG)
        return True

    def _look_at_gguf(self, file: ModelFile) -> None:
        with file.open() as stream:
            header = read_header(stream, file.size)
        kind = kind_of(file, header)
        if kind == "adapter" and self._check_adapter:
            self._check_adapter(GgufAdapter(files=(file,), headers=(header,)))
        if kind == "model" and (header.shard is None or header.shard[1] == 1):
            base = GgufModel(files=(file,), headers=(header,))
            base.check()
            if self._check_base:
                self._check_base(base)

    def _look_at_folder(self, file: ModelFile, config: str) -> None:
        """Look at a config and the first weights that it is for, once both are known."""
        path = PurePosixPath(file.name)
        found = self._folders[str(path.parent), config]
        part = "config" if path.name == config else "weights"
        if part in found:
            return
        found[part] = file
        if len(found) < 2:
            return
        models, adapters = safetensors_parts({each.name: each for each in found.values()})
        for model in models:
            model.check()
        for adapter in adapters:
            adapter.check()
            if self._check_adapter:
                self._check_adapter(adapter)


def _is_whole(file: ModelFile) -> bool:
    with file.open() as stream:
        return len(stream.read(file.size)) == file.size
