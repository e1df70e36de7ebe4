"""Gemma 4: heads of two sizes, keys that later blocks share, an input for each block, experts."""

from collections.abc import Iterator, Mapping

import numpy as np

from app.weights.convert.architecture import Architecture, Split
from app.weights.convert.config import Config, Rope
from app.weights.convert.gemma import MORE_NORMS
from app.weights.convert.keys import (
    Keys,
    common,
    flags,
    head_size,
    present,
    real,
    whole,
    wholes,
)
from app.weights.convert.shapes import (
    Expected,
    Shapes,
    Sizes,
    decoder,
    experts,
    gated,
    linear,
    norms,
)
from app.weights.model import Floats, WeightsError

NEVER = 1e30
"""What llama.cpp divides a frequency by that isn't to turn anything."""
EXPERT_NORMS = (
    *("pre_feedforward_layernorm_2", "post_feedforward_layernorm_1"),
    "post_feedforward_layernorm_2",
)
SPLITS: tuple[Split, ...] = (
    (r"layer_scalar$", (("layer_scalar.weight", ()),)),
    (r"router\.scale$", (("router.proj.scale", ()),)),
    (r"router\.per_expert_scale$", (("experts.down_proj.scale", ()),)),
    (r"experts\.(gate_up|down)_proj$", ((r"experts.\1_proj.weight", ()),)),
)


class Blocks:
    """What differs from block to block. Raises WeightsError where GGUF can't say it."""

    def __init__(self, config: Config) -> None:
        self.count = config.need("num_hidden_layers")
        kinds = config.per_block("layer_types", self.count)
        if kinds is None:
            kinds = ["full_attention" if n % 6 == 5 else "sliding_attention" for n in self.numbers]
        if kinds[-1] != "full_attention" or {*kinds} - {"full_attention", "sliding_attention"}:
            raise WeightsError(
                "config.json has layer_types that aren't all sliding_attention or full_attention,"
                " the last one full_attention."
            )
        self.full = [kind == "full_attention" for kind in kinds]
        own = (config.part("per_layer_config") or Config({})).part(str(self.full.index(True)))
        own = own or Config({})
        self.head = head_size(config)
        self.full_head = config.whole("global_head_dim") or own.whole("head_dim") or 512
        self.full_kv_heads = config.whole("num_global_key_value_heads")
        self.full_kv_heads = self.full_kv_heads or own.whole("num_key_value_heads")
        self.kv_heads = config.need("num_key_value_heads")
        shared = config.whole("num_kv_shared_layers", least=0) or 0
        if shared >= self.count:
            raise WeightsError(
                f"config.json has num_kv_shared_layers={shared} of {self.count} blocks."
            )
        self.first_shared = self.count - shared
        if shared and self.full[max(0, self.first_shared - 2) : self.first_shared] != [False, True]:
            raise WeightsError(
                f"config.json has num_kv_shared_layers={shared}; llama.cpp needs a block of"
                " sliding_attention and one of full_attention just before those."
            )
        self.is_wide_where_shared = config.flag("use_double_wide_mlp")
        self.has_values_of_its_own = not config.flag("attention_k_eq_v")
        self.ff = config.need("intermediate_size")

    @property
    def numbers(self) -> range:
        return range(self.count)

    def kv_heads_of(self, number: int) -> int:
        return (self.full[number] and self.full_kv_heads) or self.kv_heads

    def head_of(self, number: int) -> int:
        return self.full_head if self.full[number] else self.head

    def ff_of(self, number: int) -> int:
        is_wide = self.is_wide_where_shared and number >= self.first_shared
        return 2 * self.ff if is_wide else self.ff


def _gemma4_keys(config: Config) -> Keys:
    blocks = Blocks(config)
    if config.text("use_bidirectional_attention") == "all":
        raise WeightsError(
            "config.json has use_bidirectional_attention='all', which GGUF can't say of Gemma 4."
        )
    cap, inner = config.number("final_logit_softcapping"), config.whole("moe_intermediate_size")
    keys = common(config) | _rotation(config, blocks)
    if blocks.full_kv_heads:
        of_each = [blocks.kv_heads_of(number) for number in blocks.numbers]
        keys["attention.head_count_kv"] = wholes(of_each)
    if blocks.is_wide_where_shared:
        keys["feed_forward_length"] = wholes([blocks.ff_of(number) for number in blocks.numbers])
    return keys | present(
        {
            "attention.shared_kv_layers": whole(blocks.count - blocks.first_shared),
            "embedding_length_per_layer_input": whole(_input_size(config)),
            "attention.sliding_window": whole(config.need("sliding_window")),
            "attention.sliding_window_pattern": flags([not full for full in blocks.full]),
            "attention.key_length": whole(blocks.full_head),
            "attention.value_length": whole(blocks.full_head),
            "attention.key_length_swa": whole(blocks.head),
            "attention.value_length_swa": whole(blocks.head),
            "expert_feed_forward_length": whole(inner) if inner else None,
            # Unsaid, llama.cpp takes it for 30.
            "final_logit_softcapping": real(cap or 0),
        }
    )


def _rotation(config: Config, blocks: Blocks) -> Keys:
    rope = Rope(config)
    sliding = rope.sliding or Config({})
    if rope.type not in ("proportional", "default") or (
        (sliding.text("rope_type") or "default") != "default"
        or sliding.number("partial_rotary_factor") not in (None, 1.0)
    ):
        raise WeightsError(
            "config.json's rotary positions aren't proportional for full_attention and plain for"
            " sliding_attention, which is all that GGUF has for Gemma 4."
        )
    full, local = rope.full.number("rope_theta"), sliding.number("rope_theta")
    return {
        "rope.freq_base": real(1_000_000.0 if full is None else full),
        "rope.freq_base_swa": real(10_000.0 if local is None else local),
        "rope.dimension_count": whole(blocks.full_head),
        "rope.dimension_count_swa": whole(blocks.head),
    }


def _frequency_factors(config: Config) -> Mapping[str, Floats]:
    """Of a head with full attention, only the first share of the frequencies turns."""
    half = Blocks(config).full_head // 2
    share = Rope(config).full.number("partial_rotary_factor")
    turning = int(2 * half * (0.25 if share is None else share) / 2)
    factors = np.full(half, NEVER, np.float32)
    factors[:turning] = 1
    return {"rope_freqs.weight": factors}


def _input_size(config: Config) -> int:
    return config.whole("hidden_size_per_layer_input", least=0) or 0


def _gemma4_shapes(config: Config) -> Iterator[tuple[str, Expected]]:
    sizes, blocks, size = Sizes(config), Blocks(config), _input_size(config)
    more: Shapes = {"layer_scalar": Expected((1,))}
    if size:
        more |= linear("per_layer_input_gate", size, sizes.hidden)
        more |= linear("per_layer_projection", sizes.hidden, size)
        more |= norms(sizes.hidden, "post_per_layer_input_norm")
    if config.flag("enable_moe_block"):
        more |= _expert_shapes(config, sizes.hidden)
    bias = config.flag("attention_bias")

    def block(number: int) -> Shapes:
        return {
            **_attention(sizes, blocks, number, bias),
            **norms(sizes.hidden, *MORE_NORMS),
            **gated("mlp", sizes.hidden, blocks.ff_of(number)),
            **more,
        }

    yield from decoder(config, block)
    if size:
        rows = config.whole("vocab_size_per_layer_input") or sizes.vocabulary
        whole_input = blocks.count * size
        yield "model.embed_tokens_per_layer.weight", Expected((rows, whole_input))
        yield "model.per_layer_model_projection.weight", Expected((whole_input, sizes.hidden))
        yield "model.per_layer_projection_norm.weight", Expected((size,))


def _attention(sizes: Sizes, blocks: Blocks, number: int, bias: bool) -> Shapes:
    """Blocks that share the keys of an earlier one may lack theirs."""
    head = blocks.head_of(number)
    keys = head * blocks.kv_heads_of(number)
    of_keys = linear("self_attn.k_proj", keys, sizes.hidden, bias)
    if blocks.has_values_of_its_own or not blocks.full[number]:
        of_keys |= linear("self_attn.v_proj", keys, sizes.hidden, bias)
    of_keys |= norms(head, "self_attn.k_norm")
    is_shared = number >= blocks.first_shared
    return {
        **linear("self_attn.q_proj", head * sizes.heads, sizes.hidden, bias),
        **linear("self_attn.o_proj", sizes.hidden, head * sizes.heads, bias),
        **norms(head, "self_attn.q_norm"),
        **{name: Expected(each.shape, optional=is_shared) for name, each in of_keys.items()},
    }


def _expert_shapes(config: Config, hidden: int) -> Shapes:
    count, inner = experts(config), config.whole("moe_intermediate_size") or 0
    return {
        **norms(hidden, *EXPERT_NORMS),
        **linear("router.proj", count, hidden),
        "router.scale": Expected((hidden,)),
        "router.per_expert_scale": Expected((count,)),
        "experts.gate_up_proj": Expected((count, 2 * inner, hidden)),
        "experts.down_proj": Expected((count, hidden, inner)),
    }


ARCHITECTURES = (
    Architecture(
        "gemma4",
        ("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"),
        _gemma4_keys,
        _gemma4_shapes,
        {
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 131072,
            "sliding_window": 512,
            "hidden_size_per_layer_input": 256,
            "tie_word_embeddings": True,
        },
        splits=SPLITS,
        extra=_frequency_factors,
    ),
)
