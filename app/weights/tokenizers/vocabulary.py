"""A vocabulary as GGUF has it: every token's text, type and score, and how they are merged."""

from dataclasses import dataclass, field

from gguf import TokenType

from app.weights.model import WeightsError
from app.weights.tokenizers.files import LONGEST_TOKEN

SHOWN = 5

_CONTROL_THOUGH_NOT_SPECIAL = frozenset(("<pad>", "<mask>", "<2mass>", "[@BOS@]"))


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a vocabulary; `type` is GGUF's number for its kind (gguf.TokenType)."""

    id: int
    text: str
    type: int
    score: float = 0.0


@dataclass
class Vocabulary:
    """The tokens by their ids, and what a GGUF says of them: `model` and `pre` are the values of
    `tokenizer.ggml.model` and `.pre`; `scores` and `merges` say which of the two are written."""

    model: str
    pre: str | None
    tokens: dict[int, Token] = field(default_factory=dict)
    merges: list[str] | None = None
    scored: bool = False
    adds_space_prefix: bool | None = None
    character_map: bytes = b""
    removes_extra_spaces: bool | None = None
    notes: list[str] = field(default_factory=list)

    def add(self, token: Token) -> None:
        """Take in a token, in place of what has its id. Raises WeightsError."""
        if len(token.text.encode(errors="surrogatepass")) > LONGEST_TOKEN:
            raise WeightsError(
                f"The tokenizer's token {token.id} has more than {LONGEST_TOKEN} bytes."
            )
        self.tokens[token.id] = token

    def ids(self) -> dict[str, int]:
        """Ids by text."""
        return {token.text: token.id for token in self.tokens.values()}

    def drop_doubles(self) -> None:
        """Leave each text the lowest of its ids: llama.cpp ends itself at a text with two."""
        seen: set[str] = set()
        for id_ in sorted(self.tokens):
            text = self.tokens[id_].text
            if text in seen or not text:
                del self.tokens[id_]
            seen.add(text)

    def fit(self, rows: int, needed: str) -> None:
        """Leave out added tokens that the embedding has no row for, and fill up its other rows.

        `rows` counts the embedding's rows; `needed` is text (templates) whose tokens must have one.
        Raises WeightsError with both numbers where a token without a row is needed.
        """
        above = [token for id_, token in sorted(self.tokens.items()) if id_ >= rows]
        added = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNUSED)
        if any(t.type not in added or (t.text and t.text in needed) for t in above):
            raise WeightsError(
                f"The tokenizer has tokens up to number {above[-1].id} "
                f"({named(above)}), the model's embedding only {rows} rows.",
                "Call resize_token_embeddings(len(tokenizer)) before training, or save the "
                "tokenizer that the model was trained with.",
            )
        if above:
            self.notes.append(
                f"Tokens without a row in the embedding were left out: {named(above)}."
            )
            for token in above:
                del self.tokens[token.id]
        texts = {token.text for token in self.tokens.values()}
        for id_ in range(rows):
            if id_ not in self.tokens:
                text = f"[PAD{id_}]"
                while text in texts:
                    text = f"[{text}]"
                self.tokens[id_] = Token(id_, text, TokenType.UNUSED, -10000.0)


def added_type(text: str, special: bool) -> TokenType:
    """The type of an added token: some trainers save control tokens as not special."""
    looks_special = (
        text in _CONTROL_THOUGH_NOT_SPECIAL
        or (text.startswith("<|") and text.endswith("|>"))
        or (text.startswith("<｜") and text.endswith("｜>"))  # noqa: RUF001
        or (text.startswith("<unused") and text.endswith(">"))
    )
    return TokenType.CONTROL if special or looks_special else TokenType.USER_DEFINED


def added_token(id_: int, text: str, special: bool) -> Token:
    """A token that was added to the model's own vocabulary, as llama.cpp wants it."""
    kind = added_type(text, special)
    if kind == TokenType.USER_DEFINED:
        text = text.replace("▁", " ")
    return Token(id_, text, kind, -1000.0)


def named(tokens: list[Token]) -> str:
    """The first few of them, in words."""
    shown = ", ".join(repr(token.text[:40]) for token in tokens[:SHOWN])
    return shown + (f" and {len(tokens) - SHOWN} more" if len(tokens) > SHOWN else "")
