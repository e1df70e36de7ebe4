"""Names that are nearly right: refused, since a typo that is ignored does something else."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches

CUTOFF = 0.8
LONGEST = 64
MOST_COMPARED = 100
MOST_NAMED = 20
# What other programs, and Ollama's own tools, call it.
_SAID_OTHERWISE = {
    "base_model": "from",
    "quant": "quantize",
    "quantisation": "quantize",
    "quantization": "quantize",
    "param": "parameters",
    "params": "parameters",
    "ollama_name": "model_name_on_ollama",
    "name_on_ollama": "model_name_on_ollama",
    "system_prompt": "system",
    "port": "bind",
    "host": "bind",
    "address": "bind",
    "key": "api_key",
    "max_upload_size": "max_upload_bytes",
}
# Words of their own, which other clients send: each resembles one of ours.
_OTHER_WORDS = frozenset(("fname", "mode", "models", "names", "place", "project"))


def nearest(word: str, known: Collection[str]) -> str | None:
    """The one of `known`, in lower case, that `word` was probably meant to be; None where it is one
    of them, or resembles none.

    Near is: the same but for case and hyphens, the same letters with two of them swapped, or
    difflib's ratio of at least CUTOFF.
    """
    if word in known:
        return None
    plain = word[:LONGEST].strip().lower().replace("-", "_").replace(" ", "_")
    for same in (plain, _SAID_OTHERWISE.get(plain)):
        if same in known:
            return same
    if plain in _OTHER_WORDS or len(word) > LONGEST:
        return None
    for name in known:
        if sorted(plain) == sorted(name) and plain[:1] == name[:1]:
            return name
    close = get_close_matches(plain, known, 1, CUTOFF)
    return close[0] if close else None


def misspelt(words: Iterable[str], known: Collection[str]) -> tuple[str, str] | None:
    """The first of the words that is nearly one of `known`, and that one."""
    for _, word in zip(range(MOST_COMPARED), words, strict=False):
        meant = nearest(word, known)
        if meant is not None:
            return word, meant
    return None
