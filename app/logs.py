"""Log lines that nothing a client sends can forge or colour."""

import json
import logging
import unicodedata
from collections.abc import Mapping
from typing import Any

from pythonjsonlogger.json import JsonFormatter

UNPRINTABLE = ("Cc", "Cf", "Zl", "Zp", "Cs")


def escaped(text: str) -> str:
    """`text` with control, format (bidirectional marks too) and line-separating characters as
    backslash escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter.encode("unicode_escape").decode()
        if unicodedata.category(letter) in UNPRINTABLE
        else letter
        for letter in text
    )


class EscapingFormatter(logging.Formatter):
    """One line a record; a traceback's lines follow it, each set in by four spaces."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The record's line."""
        return escaped(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        """The traceback, its lines set in."""
        text = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join("    " + escaped(line) for line in text.split("\n"))


class JSONFormatter(JsonFormatter):
    """Each record as one JSON object on a line, in ASCII; a task's facts are keys of their own.

    What is unprintable is escaped in the values too: whoever decodes them may print them.
    """

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s %(process)d %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
            json_ensure_ascii=True,
        )

    def formatException(self, ei: Any) -> str:
        """The traceback, its line ends alone unescaped."""
        text = logging.Formatter.formatException(self, ei)
        return "\n".join(map(escaped, text.split("\n")))

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """The record's values as they are to be written."""
        return {
            key: escaped(value) if isinstance(value, str) and key != "exc_info" else value
            for key, value in log_data.items()
        }


class NewsOnly(logging.Filter):
    """Leaves out of gunicorn's access log what was answered by 304: that nothing is new, which an
    open page asks again and again."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record, whose arguments are what gunicorn knows of the request, is kept."""
        return not (isinstance(record.args, Mapping) and record.args.get("s") == "304")


def bounded(facts: Mapping[str, Any], most: int) -> dict[str, Any]:
    """The facts, with texts of at most `most` characters: longer ones end in an ellipsis."""
    return {
        key: value[: most - 1] + "…" if isinstance(value, str) and len(value) > most else value
        for key, value in facts.items()
    }


def as_pairs(facts: Mapping[str, Any]) -> str:
    """`key=value` for each fact, escaped; a text is quoted as JSON does where it isn't plainly one
    word."""
    return " ".join(f"{key}={_value(value)}" for key, value in facts.items())


def _value(value: Any) -> str:
    if isinstance(value, str) and value and not set(value) & set(' "=\\'):
        return escaped(value)
    return escaped(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
