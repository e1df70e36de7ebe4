"""What a form brings: one archive, or the model's files themselves, and the fields beside them."""

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack

from werkzeug.exceptions import RequestEntityTooLarge

from app.archive.intake import OnFile
from app.archive.names import ARCHIVES, is_junk
from app.archive.several import SeveralFiles
from app.metrics import received
from app.planning.options import BadRequest
from app.planning.safetensors_parts import ADAPTER_CONFIG
from app.service.work import Upload
from app.storage.names import check_name, name_of_upload, without_extension
from app.storage.staging import Staging
from app.views.fields import CONFIG_FIELD, FILE_FIELDS, NEW_NAME, OF_FORM, check_names
from app.views.form import Part, form_parts

MAX_FIELD_BYTES = 500_000
_WEIGHTS = (".gguf", ".safetensors")
_BESIDE_WEIGHTS = (
    *(".json", ".jinja", ".txt", ".md", ".model", ".tiktoken", ".py", ".yaml", ".yml"),
    *(".dat", ".imatrix", ".modelfile"),
)
_WITHOUT_SUFFIX = ("modelfile", "license", "readme", "notice")
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.\w+$")

Fields = Mapping[str, str]
Look = Callable[[Fields], OnFile]
"""Checks the fields that came before the first file, and gives what then looks at the files."""


class FormUpload:
    """A form on its way into `staging`; `query` are the fields that came before it, `size` is
    the form's in bytes. `look` is asked as soon as the first file's part begins."""

    def __init__(
        self, staging: Staging, look: Look, query: Fields, most_files: int, size: int | None
    ) -> None:
        self._staging = staging
        self._look = look
        self._query = query
        self._most_files = most_files
        self._size = size
        self._fields: dict[str, str] = {}
        self._archive: Upload | None = None
        self._files: SeveralFiles | None = None
        self._names: list[str] = []
        self._has_unchosen = False

    @property
    def fields(self) -> Fields:
        """Those of the query too."""
        return {**self._query, **self._fields}

    def read(self, read: Callable[[int], bytes], boundary: str) -> tuple[Upload, Fields]:
        """Read the whole form. Raises what errors.STATUS lists, as soon as what has come tells."""
        with ExitStack() as receiving:
            # One more file than is taken, so that the archive's own rule refuses it.
            for part in form_parts(read, boundary, self._most_files + 1):
                if part.filename is None:
                    self._take_field(part)
                elif not part.filename:
                    self._has_unchosen = True  # a browser's empty field, unless something comes
                    if any(part.content):
                        raise _unchosen()
                else:
                    self._take_file(part, part.filename, receiving)
            self._add_config()
        upload = self._archive or self._several()
        self._staging.hold(upload.name)
        return upload, self.fields

    def _take_field(self, part: Part) -> None:
        left = MAX_FIELD_BYTES - sum(map(len, self._fields.values()))
        self._fields.setdefault(part.name, _text(part.content, left))

    def _take_file(self, part: Part, filename: str, receiving: ExitStack) -> None:
        if part.name not in FILE_FIELDS:
            raise BadRequest(f"The file came in the field {part.name!r}, not in 'Model'.")
        is_archive = not _is_file_of_model(filename, is_first=self._files is None)
        if not (self._archive or self._files):
            check_names(self._fields, OF_FORM)
        if self._archive or (is_archive and self._files):
            raise BadRequest("The form holds more than one file. Send one zip at a time.")
        if is_archive:
            self._archive = Upload(self._staging, filename, name_of_upload(filename))
            self._staging.hold(self._archive.name)
            with self._staging.receive(filename, self._look(self.fields)) as arrival:
                arrival.expect(self._size)
                _pass_on(part, arrival.write)
            return
        filename = filename.replace("\\", "/")  # as Windows scripts write it
        if self._files is None:
            self._hold_early(filename)
            on_file = self._look(self.fields)
            self._files = receiving.enter_context(self._staging.receive_files(on_file))
        self._names.append(filename)
        with self._files.file(filename) as write:
            _pass_on(part, write)

    def _add_config(self) -> None:
        """Make the field with an adapter's config the file that it is, unless that came, too."""
        config = self.fields.get(CONFIG_FIELD)
        if self._files and config and ADAPTER_CONFIG not in self._names:
            self._files.add(ADAPTER_CONFIG, config.encode())

    def _hold_early(self, filename: str) -> None:
        """Hold the model that it will be, as far as the first file and what came before it tell."""
        name = self._asked_name()
        if name is None and "/" in filename:
            name = check_name(filename.partition("/")[0])
        if name is None and filename.lower().endswith(_WEIGHTS):
            name = name_of_upload(filename)
        if name is not None:
            self._staging.hold(name)

    def _asked_name(self) -> str | None:
        asked = self.fields.get("name")
        return check_name(without_extension(asked)) if asked else None

    def _several(self) -> Upload:
        """The files as one upload: named by the field `name`, the folder that all are in, the one
        file of weights among them, or the model's name on Ollama, whichever there is first."""
        if self._files is None:
            raise self._no_file()
        said, named = self._said()
        new_name = re.sub("[/:]", "-", self.fields.get(NEW_NAME, ""))
        name = self._asked_name() or named or new_name
        if not name:
            raise BadRequest(
                "Several files came without a name for the model. Send it in the field 'name'."
            )
        return Upload(self._staging, said or name, check_name(name))

    def _said(self) -> tuple[str, str]:
        """The name of the folder or of the file that the upload is, and the model's for it; empty
        where the files don't tell."""
        names = [name for name in self._names if not is_junk(name)]
        tops = {name.partition("/")[0] for name in names}
        if len(tops) == 1 and all("/" in name for name in names):
            top = tops.pop()
            return top, top
        weights = [name for name in names if name.lower().endswith(_WEIGHTS)]
        if len(names) == 1 or (len(weights) == 1 and not _SHARD.search(weights[0])):
            said = (weights or names)[0].rpartition("/")[2]
            return said, name_of_upload(said)
        return "", ""

    def _no_file(self) -> BadRequest:
        if self._has_unchosen:
            return _unchosen()
        for field in FILE_FIELDS:
            if field in self._fields:
                return BadRequest(
                    f"The field {field!r} holds text, not a file. With curl, a file is"
                    f" -F {field}=@model.zip."
                )
        return BadRequest("The form has no file. Send the zip in the field 'Model'.")


def _is_file_of_model(filename: str, *, is_first: bool) -> bool:
    """Whether it is a file of a model itself, not an archive: in a folder, or by its name. An
    archive that comes in a folder among other files is one of them."""
    lower = filename.lower()
    if is_first and lower.endswith(ARCHIVES):
        return False
    in_folder = bool({"/", "\\"} & set(filename))
    by_name = lower.endswith((*_WEIGHTS, *_BESIDE_WEIGHTS)) or lower in _WITHOUT_SUFFIX
    return in_folder or by_name


def _unchosen() -> BadRequest:
    return BadRequest("No file was chosen. Send a zip in the field 'Model'.")


def _pass_on(part: Part, write: Callable[[bytes], None]) -> None:
    for piece in part.content:
        write(piece)
        received("form", len(piece))


def _text(pieces: Iterable[bytes], most: int) -> str:
    content = bytearray()
    for piece in pieces:
        content += piece
        if len(content) > most:
            raise RequestEntityTooLarge
    return content.decode(errors="replace")
