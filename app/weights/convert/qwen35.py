"""Qwen 3.5: three blocks of linear attention to one of full attention.

llama.cpp repeats the heads of keys for those of values one after the other where transformers
repeats each in its place, so all that belongs to heads of values changes its order.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from app.weights.convert.architecture import Architecture, Split
from app.weights.convert.config import Config, Rope
from app.weights.convert.keys import Keys, common, head_size, rotation, whole, wholes
from app.weights.convert.places import Step, plus_one
from app.weights.convert.shapes import (
    BLOCK_NORMS,
    HEAD_NORMS,
    Expected,
    Shapes,
    Sizes,
    decoder,
    gated,
    linear,
    norms,
)
from app.weights.model import Floats, Model, Rows, WeightsError
from app.weights.rows import ChangedRows, Indices, PickedColumns, PickedRows

SECTIONS = [11, 11, 10, 0]
INTERVAL = 4


def spread(start: int, groups: int, each: int, size: int, indices: Indices) -> Indices:
    """Of heads of `size` from number `start` on, `each` for every one of `groups`, where those come
    from that have one of every group before the second of any."""
    head, place = np.divmod(indices - start, size)
    nth, group = np.divmod(head, groups)
    moved: Indices = start + (group * each + nth) * size + place
    return np.where(indices < start, indices, moved)


def value_heads(what: str) -> Step:
    """Put what belongs to heads of values into llama.cpp's order: `rows` of a head's size each,
    `mixed` rows that follow those of queries and keys, `single` rows or values, or `columns`."""

    def step(rows: Rows, model: Model, block: int) -> Rows:
        keys, values = model.integer("ssm.group_count"), model.integer("ssm.time_step_rank")
        inner, key = model.integer("ssm.inner_size"), model.integer("ssm.state_size")
        if not (keys and values and inner and key) or values % keys or inner % values:
            raise WeightsError(f"{values} heads of values don't go with {keys} of keys.")
        start = 2 * key * keys if what == "mixed" else 0
        size = 1 if what == "single" else inner // values
        order = partial(spread, start, keys, values // keys, size)
        if what == "columns" or rows.count == 1:
            return PickedColumns(rows, order(np.arange(rows.columns)))
        return PickedRows(rows, order, rows.count)

    return step


def negative_exponential(rows: Rows, model: Model, block: int) -> Rows:
    return ChangedRows(rows, _negative_exponential)


def _negative_exponential(rows: Floats, first: int) -> Floats:
    return -np.exp(rows.astype(np.float64)).astype(np.float32)


CHANGES: tuple[tuple[str, Step], ...] = (
    (r"(?<!linear_attn\.)norm\.weight$", plus_one),
    (r"linear_attn\.A_log$", negative_exponential),
    (r"linear_attn\.(A_log|dt_bias|in_proj_[ab]\.weight)$", value_heads("single")),
    (r"linear_attn\.in_proj_z\.weight$", value_heads("rows")),
    (r"linear_attn\.(in_proj_qkv|conv1d)\.weight$", value_heads("mixed")),
    (r"linear_attn\.out_proj\.weight$", value_heads("columns")),
)
SPLITS: tuple[Split, ...] = ((r"dt_bias$", (("dt_proj.bias", ()),)),)


def _qwen35_keys(config: Config) -> Keys:
    rope = Rope(config).full
    share = rope.number("partial_rotary_factor")
    sections = [*(rope.wholes("mrope_section") or SECTIONS), 0, 0, 0, 0][:4]
    inner = config.need("linear_value_head_dim") * config.need("linear_num_value_heads")
    interval = config.whole("full_attention_interval") or INTERVAL
    blocks = config.need("num_hidden_layers")
    kinds = config.per_block("layer_types", blocks)
    for number, kind in enumerate(kinds or ()):
        if (kind == "full_attention") != ((number + 1) % interval == 0):
            raise WeightsError(
                f"config.json has layer_types with {kind!r} for block {number}; llama.cpp has full"
                f" attention in every {interval}th block only."
            )
    return {
        **common(config, head_size(config)),
        **rotation(config),
        "ssm.conv_kernel": whole(config.need("linear_conv_kernel_dim")),
        "ssm.state_size": whole(config.need("linear_key_head_dim")),
        "ssm.group_count": whole(config.need("linear_num_key_heads")),
        "ssm.time_step_rank": whole(config.need("linear_num_value_heads")),
        "ssm.inner_size": whole(inner),
        "full_attention_interval": whole(interval),
        "rope.dimension_count": whole(int(head_size(config) * (0.25 if share is None else share))),
        "rope.dimension_sections": wholes(sections),
    }


def _qwen35_shapes(config: Config) -> Iterator[tuple[str, Expected]]:
    sizes, bias = Sizes(config), config.flag("attention_bias")
    keys = config.need("linear_key_head_dim") * config.need("linear_num_key_heads")
    heads, size = config.need("linear_num_value_heads"), config.need("linear_value_head_dim")
    values, mixed = heads * size, 2 * keys + heads * size
    kernel = config.need("linear_conv_kernel_dim")
    interval = config.whole("full_attention_interval") or INTERVAL

    def mixer(number: int) -> Shapes:
        if (number + 1) % interval == 0:
            return {
                **linear("self_attn.q_proj", 2 * sizes.queries, sizes.hidden, bias),
                **linear("self_attn.k_proj", sizes.keys, sizes.hidden, bias),
                **linear("self_attn.v_proj", sizes.keys, sizes.hidden, bias),
                **linear("self_attn.o_proj", sizes.hidden, sizes.queries, bias),
                **norms(sizes.head, *HEAD_NORMS),
            }
        return {
            "linear_attn.A_log": Expected((heads,)),
            "linear_attn.dt_bias": Expected((heads,)),
            "linear_attn.conv1d.weight": Expected((mixed, 1, kernel)),
            **linear("linear_attn.in_proj_qkv", mixed, sizes.hidden),
            **linear("linear_attn.in_proj_z", values, sizes.hidden),
            **linear("linear_attn.in_proj_a", heads, sizes.hidden),
            **linear("linear_attn.in_proj_b", heads, sizes.hidden),
            **linear("linear_attn.out_proj", sizes.hidden, values),
            **norms(size, "linear_attn.norm"),
        }

    def block(number: int) -> Shapes:
        return {
            **mixer(number),
            **norms(sizes.hidden, *BLOCK_NORMS),
            **gated("mlp", sizes.hidden, sizes.ff),
        }

    return decoder(config, block)


ARCHITECTURES = (
    Architecture(
        "qwen35",
        ("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
        _qwen35_keys,
        _qwen35_shapes,
        {
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768,
            "head_dim": 256,
            "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 32,
        },
        changes=CHANGES,
        splits=SPLITS,
    ),
)
