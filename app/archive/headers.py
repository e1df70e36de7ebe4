"""The headers of model files, looked at while the files still arrive."""

from app.archive.limits import ArchiveError
from app.formats import gguf, safetensors
from app.formats.files import ModelFile


def header_is_known(file: ModelFile) -> bool:
    """Whether the header of `file`, of which only a beginning may be there, has come and is right;
    also where it isn't a file that has one. Raises ArchiveError where it can't be used."""
    name = file.name.lower()
    try:
        with file.open() as stream:
            if name.endswith(".gguf"):
                gguf.read_header(stream, file.size)
            elif name.endswith(".safetensors"):
                safetensors.read_header(stream, file.size)
    except (gguf.Truncated, safetensors.Truncated):
        return False
    except (gguf.GGUFError, safetensors.SafetensorsError) as error:
        raise ArchiveError(f"{file.name} {error}.") from error
    return True
