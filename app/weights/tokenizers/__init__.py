"""From a trainer's tokenizer files to GGUF's `tokenizer.*` metadata.

`tokenizer_metadata` is the way in; `added_tokens` says what a trainer added to a base's vocabulary.
"""

from app.weights.tokenizers.metadata import added_tokens, tokenizer_metadata
from app.weights.tokenizers.vocabulary import Token

__all__ = ["Token", "added_tokens", "tokenizer_metadata"]
