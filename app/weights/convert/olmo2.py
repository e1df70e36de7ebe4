"""OLMo 2: norms after attention and after the feed-forward network, and of queries and keys."""

from collections.abc import Iterator

from app.weights.convert.architecture import Architecture
from app.weights.convert.config import Config
from app.weights.convert.keys import Keys, common, rotation
from app.weights.convert.shapes import Expected, Shapes, Sizes, attention, decoder, gated, norms


def _olmo2_keys(config: Config) -> Keys:
    return common(config, config.whole("head_dim")) | rotation(config)


def _olmo2_shapes(config: Config) -> Iterator[tuple[str, Expected]]:
    sizes, bias = Sizes(config), config.flag("attention_bias")

    def block(number: int) -> Shapes:
        return {
            **attention(sizes, bias=bias),
            **norms(sizes.queries, "self_attn.q_norm"),
            **norms(sizes.keys, "self_attn.k_norm"),
            **norms(sizes.hidden, "post_attention_layernorm", "post_feedforward_layernorm"),
            **gated("mlp", sizes.hidden, sizes.ff),
        }

    return decoder(config, block)


ARCHITECTURES = (
    Architecture(
        "olmo2",
        ("Olmo2ForCausalLM",),
        _olmo2_keys,
        _olmo2_shapes,
        {"rope_theta": 10000.0, "rms_norm_eps": 1e-5, "max_position_embeddings": 2048},
    ),
)
