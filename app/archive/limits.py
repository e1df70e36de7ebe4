"""What an archive may claim at most, and what is raised where it claims more."""

from dataclasses import dataclass


class ArchiveError(ValueError):
    """The archive can't be used; the message says which entry and why."""


@dataclass(frozen=True)
class Limits:
    """What an archive may claim at most.

    Deflate can't do better than about 1:1032; weights don't even come near 1:10. So an entry, or
    all of them together, of more than `ratio_from` bytes that claim more than `ratio` are a bomb or
    a lie.
    """

    entries: int = 10_000
    ratio: int = 200
    ratio_from: int = 64 * 2**20
    component_bytes: int = 255
    name_bytes: int = 1024
    depth: int = 32


def check_ratio(what: str, size: int, compressed_size: int, limits: Limits) -> None:
    """Raise ArchiveError for `size` bytes that can't have been compressed that well."""
    if size > limits.ratio_from and size > limits.ratio * compressed_size:
        raise ArchiveError(
            f"{what} claims {size} bytes in {compressed_size} compressed ones, which no model"
            " file does."
        )


def check_count(entries: int, limits: Limits) -> None:
    """Raise ArchiveError for more entries than an archive may have."""
    if entries > limits.entries:
        raise ArchiveError(
            f"The archive has {entries} entries; the limit is {limits.entries}."
            " Zip only the model's files."
        )
