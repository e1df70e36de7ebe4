"""What Go's encoding/json says of a text that isn't JSON, which Ollama passes on.

Source: Go, encoding/json/scanner.go.
"""

import json

_EXPECTED = {
    "Expecting property name": "looking for beginning of object key string",
    "Expecting value": "looking for beginning of value",
    "Expecting ':' delimiter": "after object key",
    "Expecting ',' delimiter": "after object key:value pair",
    "Extra data": "after top-level value",
    "Invalid control character": "in string literal",
    "Invalid \\escape": "in string escape code",
    "Invalid \\uXXXX escape": "in \\u hexadecimal character escape",
    "Illegal trailing comma": "looking for beginning of object key string",
}


def words_of(error: json.JSONDecodeError) -> str:
    """Go's words for what Python's json has found."""
    at = error.doc[error.pos : error.pos + 1]
    after = next((said for msg, said in _EXPECTED.items() if error.msg.startswith(msg)), None)
    if not at or after is None:
        return "unexpected EOF"
    shown = at if at.isprintable() else at.encode("unicode_escape").decode()
    return f"invalid character '{shown}' {after}"
