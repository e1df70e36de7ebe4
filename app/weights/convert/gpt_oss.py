"""gpt-oss, saved in 16 bit: experts whose matrices have a column for each output, gates and ups in
turns."""

from collections.abc import Iterator

import numpy as np

from app.weights.convert.architecture import Architecture, Split
from app.weights.convert.config import Config
from app.weights.convert.keys import Keys, common, head_size, rotation, whole
from app.weights.convert.places import Step, odd_or_even, turned_experts
from app.weights.convert.shapes import (
    BLOCK_NORMS,
    Expected,
    Shapes,
    Sizes,
    attention,
    decoder,
    experts,
    linear,
    norms,
)
from app.weights.model import Model, Rows
from app.weights.rows import PickedColumns


def every_other_column(which: int) -> Step:
    """Every second column, from column `which` on."""

    def step(rows: Rows, model: Model, block: int) -> Rows:
        return PickedColumns(rows, np.arange(which, rows.columns, 2))

    return step


SPLITS: tuple[Split, ...] = (
    (r"sinks$", (("sinks.weight", ()),)),
    (
        r"gate_up_proj$",
        (
            ("gate_proj.weight", (turned_experts, odd_or_even(0))),
            ("up_proj.weight", (turned_experts, odd_or_even(1))),
        ),
    ),
    (
        r"gate_up_proj_bias$",
        (
            ("gate_proj.bias", (every_other_column(0),)),
            ("up_proj.bias", (every_other_column(1),)),
        ),
    ),
    (r"experts\.down_proj$", (("experts.down_proj.weight", (turned_experts,)),)),
    (r"experts\.down_proj_bias$", (("experts.down_proj.bias", ()),)),
)


def _gpt_oss_keys(config: Config) -> Keys:
    return {
        **common(config, head_size(config)),
        **rotation(config),
        "attention.sliding_window": whole(config.need("sliding_window")),
        "expert_feed_forward_length": whole(config.need("intermediate_size")),
    }


def _gpt_oss_shapes(config: Config) -> Iterator[tuple[str, Expected]]:
    sizes, count = Sizes(config), experts(config)
    bias = config.flag("attention_bias", True)

    def block(number: int) -> Shapes:
        return {
            **attention(sizes, bias=bias),
            "self_attn.sinks": Expected((sizes.heads,)),
            **norms(sizes.hidden, *BLOCK_NORMS),
            **linear("mlp.router", count, sizes.hidden, bias=True),
            "mlp.experts.gate_up_proj": Expected((count, sizes.hidden, 2 * sizes.ff)),
            "mlp.experts.gate_up_proj_bias": Expected((count, 2 * sizes.ff)),
            "mlp.experts.down_proj": Expected((count, sizes.ff, sizes.hidden)),
            "mlp.experts.down_proj_bias": Expected((count, sizes.hidden)),
        }

    return decoder(config, block)


ARCHITECTURES = (
    Architecture(
        "gpt-oss",
        ("GptOssForCausalLM",),
        _gpt_oss_keys,
        _gpt_oss_shapes,
        {
            "head_dim": 64,
            "rms_norm_eps": 1e-5,
            "rope_theta": 150000.0,
            "max_position_embeddings": 131072,
            "sliding_window": 128,
        },
        splits=SPLITS,
    ),
)
