"""How the service writes and reads JSON: UTF-8 as it is, keys in the order given."""

from typing import Any

from flask.json.provider import DefaultJSONProvider

from app.planning.options import read_json


class JSONProvider(DefaultJSONProvider):
    """Flask's, for clients that match on text: keys aren't sorted, letters aren't escaped, and a
    lone surrogate, which UTF-8 can't carry, becomes a question mark."""

    ensure_ascii = False
    sort_keys = False
    compact = False

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        """`obj` as JSON text that UTF-8 can carry."""
        return super().dumps(obj, **kwargs).encode(errors="replace").decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        """What the JSON says. Raises ValueError; see read_json."""
        return read_json(s)
