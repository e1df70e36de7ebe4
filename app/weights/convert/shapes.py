"""The tensors that transformers' decoders have, by name, with their shapes as config.json has them.

What a folder holds is checked against this before a byte of weights is read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from app.weights.convert.config import Config
from app.weights.convert.keys import head_size


class Expected(NamedTuple):
    """A tensor's shape, row-major. One that is `optional` may be missing."""

    shape: tuple[int, ...]
    optional: bool = False


Shapes = dict[str, Expected]
EXPERTS = 1024
BLOCK_NORMS = ("input_layernorm", "post_attention_layernorm")
HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")


class Sizes:
    """The sizes in config.json that most shapes are made of."""

    def __init__(self, config: Config) -> None:
        self.hidden = config.need("hidden_size")
        self.heads = config.need("num_attention_heads")
        self.kv_heads = config.whole("num_key_value_heads") or self.heads
        self.head = head_size(config)
        self.ff = config.whole("intermediate_size", least=0) or 0
        self.vocabulary = config.need("vocab_size")

    @property
    def queries(self) -> int:
        return self.heads * self.head

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head


def linear(name: str, rows: int, columns: int, bias: bool = False) -> Shapes:
    """A linear layer: a row for each output."""
    shapes = {f"{name}.weight": Expected((rows, columns))}
    return shapes | ({f"{name}.bias": Expected((rows,))} if bias else {})


def norms(size: int, *names: str) -> Shapes:
    return {f"{name}.weight": Expected((size,)) for name in names}


def attention(sizes: Sizes, *, bias: bool = False, out_bias: bool | None = None) -> Shapes:
    """Separate projections of queries, keys and values."""
    return {
        **linear("self_attn.q_proj", sizes.queries, sizes.hidden, bias),
        **linear("self_attn.k_proj", sizes.keys, sizes.hidden, bias),
        **linear("self_attn.v_proj", sizes.keys, sizes.hidden, bias),
        **linear(
            "self_attn.o_proj", sizes.hidden, sizes.queries, bias if out_bias is None else out_bias
        ),
    }


def gated(name: str, hidden: int, inner: int, bias: bool = False) -> Shapes:
    """A gated feed-forward network."""
    return {
        **linear(f"{name}.gate_proj", inner, hidden, bias),
        **linear(f"{name}.up_proj", inner, hidden, bias),
        **linear(f"{name}.down_proj", hidden, inner, bias),
    }


def decoder(
    config: Config, block: Callable[[int], Mapping[str, Expected]]
) -> Iterator[tuple[str, Expected]]:
    """All tensors of a decoder whose block number n has the tensors `block(n)`, one after the other
    since config.json may lie about how many there are."""
    sizes = Sizes(config)
    table = (sizes.vocabulary, sizes.hidden)
    yield "model.embed_tokens.weight", Expected(table)
    for number in range(config.need("num_hidden_layers")):
        for name, expected in block(number).items():
            yield f"model.layers.{number}.{name}", expected
    yield from norms(sizes.hidden, "model.norm").items()
    yield "lm_head.weight", Expected(table, config.flag("tie_word_embeddings"))


def usual_decoder(
    config: Config,
    *,
    bias: bool = False,
    out_bias: bool | None = None,
    block_norms: Sequence[str] = BLOCK_NORMS,
    head_norms: Sequence[str] = (),
    mlp: Mapping[str, Expected] | None = None,
) -> Iterator[tuple[str, Expected]]:
    """A decoder of blocks that are alike: separate queries, keys and values, then a gated
    feed-forward network or `mlp`. `bias` and `out_bias` are attention's."""
    sizes = Sizes(config)
    block = {
        **attention(sizes, bias=bias, out_bias=out_bias),
        **norms(sizes.head, *head_norms),
        **norms(sizes.hidden, *block_norms),
        **(gated("mlp", sizes.hidden, sizes.ff) if mlp is None else mlp),
    }
    return decoder(config, lambda number: block)


def experts(config: Config) -> int:
    """How many experts a block has; 0 for none."""
    return config.whole("num_local_experts", "num_experts", least=0, most=EXPERTS) or 0
