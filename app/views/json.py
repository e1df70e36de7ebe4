"""How the service writes and reads JSON: UTF-8 as it is, keys in the order given."""

import re
from typing import Any

from flask.json.provider import DefaultJSONProvider

from app.planning.options import read_json

# Control, format and line-separating characters: some clients end a line at them, or turn text.
_INVISIBLE = re.compile(
    "[\x7f-\x9f\xad\u0600-\u0605\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)


class JSONProvider(DefaultJSONProvider):
    """Flask's, for clients that match on text: keys aren't sorted, letters aren't escaped, but what
    can't be seen is; a lone surrogate, which UTF-8 can't carry, becomes a question mark."""

    ensure_ascii = False
    sort_keys = False
    compact = False

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        """`obj` as JSON text that UTF-8 can carry."""
        text = super().dumps(obj, **kwargs).encode(errors="replace").decode()
        return _INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        """What the JSON says. Raises ValueError; see read_json."""
        return read_json(s)
