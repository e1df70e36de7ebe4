"""Log lines that say no more than was logged: what strangers name can't forge or repaint them."""

import logging
import unicodedata

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
