"""adapter_config.json, as PEFT's LoraConfig and mlx-lm's trainer write it.

Every key is known to change nothing, is understood, or is refused by its name, so that no adapter
is applied as what it isn't. Source: peft 0.10 to 0.21, tuners/lora/config.py and layer.py; mlx-lm,
tuner/lora.py and dora.py; for what Ollama makes of one, its convert/convert_llama_adapter.go.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.formats.safetensors import SafetensorsError, json_object

LARGEST_RANK = 65_536
LARGEST_NUMBER = 1e12
NAMES = 65_536
LISTED = 256
NAME_LENGTH = 1_024
TOKENS = 2**20

MERGE_WITH_PEFT = (
    "Where it was trained, load it with PEFT, call merge_and_unload() on the model, save the result"
    " with save_pretrained(), and zip that folder."
)
CONVERT_WITH_PEFT = (
    "Save it once more with PEFT as a plain LoRA: save_pretrained(folder,"
    " path_initial_model_for_weight_conversion=<the adapter as it was before training>). "
) + MERGE_WITH_PEFT.replace("Where", "Or, where", 1)
FUSE_WITH_MLX = (
    "Merge it where it was trained, with `mlx_lm.fuse --dequantize`, and zip the result."
)

_CHANGE_NOTHING = frozenset(
    ("task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "runtime_config")
    # What was trained, and how: the weights say it all.
    + ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
    + ("lora_dropout", "megatron_core", "velora_config", "monteclora_config")
    # How the weights began; init_lora_weights tells whether the base was changed for it.
    + ("loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size")
    # ms-swift's, for its optimizer.
    + ("lora_dtype", "lorap_lr_ratio", "lorap_emb_lr")
)
_UNDERSTOOD = frozenset(
    ("peft_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "use_dora", "bias")
    + ("fan_in_fan_out", "init_lora_weights", "modules_to_save", "rank_pattern", "alpha_pattern")
    + ("lora_bias", "target_parameters", "trainable_token_indices", "ensure_weight_tying")
)
_REFUSED = {
    "alora_invocation_tokens": (
        "is an activated LoRA, which acts only after its invocation tokens, so that no merged model"
        " can be the same",
        "PEFT doesn't merge it either: train a LoRA without alora_invocation_tokens.",
    ),
    "layer_replication": ("repeats layers of its base model", MERGE_WITH_PEFT),
    "megatron_config": ("was trained on Megatron's parallel layers", MERGE_WITH_PEFT),
    "use_qalora": ("is a QALoRA, which PEFT can't merge either", "Train it without use_qalora."),
    "arrow_config": (
        "routes each token through several adapters, so that no merged model can be the same",
        "Use one of those adapters alone.",
    ),
    "kasa_config": ("is a KaSA adapter, which changed the base model's weights", MERGE_WITH_PEFT),
    "use_bdlora": ("is a BD-LoRA, whose matrices are block-diagonal", MERGE_WITH_PEFT),
}
_KEEPS_BASE = frozenset(("true", "false", "gaussian", "eva", "orthogonal", "mica"))
_CHANGES_BASE = {
    "pissa": CONVERT_WITH_PEFT,
    "olora": CONVERT_WITH_PEFT,
    "corda": CONVERT_WITH_PEFT,
    "lora_ga": CONVERT_WITH_PEFT,
    "loftq": MERGE_WITH_PEFT,
}
_KNOWN_TO_OLLAMA = re.compile(
    r"(base_model\.model\.)?model\.layers\.\d+\."
    r"(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.lora_[AB]\.weight"
)


class AdapterConfigError(SafetensorsError):
    """The adapter can't be used; the message is a sentence that follows the file's name, `hint` the
    way out."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter says of itself.

    `alpha_pattern` maps regular expressions for modules' names to their alpha. Of `bias`, `none`,
    `lora_only` and `all` are possible. `token_indices` are the numbers of the tokens that were
    trained, by the name of their embedding; an empty name is the model's own. `alpha_as_written`
    is what the file has as lora_alpha. `mlx_scale` is set for an mlx-lm adapter alone: the factor
    that takes the place of alpha / rank.
    """

    peft_type: str
    r: int
    lora_alpha: float
    base_model_name_or_path: str | None
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    bias: str = "none"
    modules_to_save: tuple[str, ...] = ()
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    lora_bias: bool = False
    target_parameters: tuple[str, ...] = ()
    token_indices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ensure_weight_tying: bool = False
    alpha_as_written: object = None
    mlx_scale: float | None = None


def read_adapter_config(text: bytes) -> AdapterConfig:
    """Read an adapter_config.json.

    Raises AdapterConfigError, which names the key, for what can't be merged exactly. Of another
    kind of adapter than LoRA, only `peft_type` and the base's name are read.
    """
    config = json_object(text, "isn't a JSON object")
    if "peft_type" not in config and _is_mlx(config):
        return _read_mlx(config)
    peft_type = str(config.get("peft_type") or "LORA").upper()[:40]
    base = config.get("base_model_name_or_path")
    base = base if isinstance(base, str) and base else None
    if peft_type != "LORA":
        return AdapterConfig(peft_type, 1, 1.0, base)
    _check_keys(config)
    _check_initial(config.get("init_lora_weights"))
    alpha = config.get("lora_alpha", 8)
    if not _is_number(alpha):
        raise AdapterConfigError(
            f"has lora_alpha={_shown(alpha)}; it must be a number within reason"
        )
    return AdapterConfig(
        peft_type=peft_type,
        r=_rank(config.get("r", 8), "the rank r"),
        lora_alpha=float(alpha),
        base_model_name_or_path=base,
        use_rslora=_flag(config, "use_rslora"),
        use_dora=_flag(config, "use_dora"),
        fan_in_fan_out=_flag(config, "fan_in_fan_out"),
        bias=_bias(config),
        modules_to_save=_names(config, "modules_to_save"),
        rank_pattern=_pattern(config, "rank_pattern"),
        alpha_pattern=_pattern(config, "alpha_pattern"),
        lora_bias=_flag(config, "lora_bias"),
        target_parameters=_names(config, "target_parameters"),
        token_indices=_token_indices(config.get("trainable_token_indices")),
        ensure_weight_tying=_flag(config, "ensure_weight_tying"),
        alpha_as_written=config.get("lora_alpha"),
    )


def ollama_understands(config: AdapterConfig, names: Iterable[str] = ()) -> str | None:
    """Why Ollama's own converter (0.5.5 to 0.34.0) wouldn't apply the adapter exactly; None where
    it would. `names` are those of the adapter's tensors.

    That converter reads lora_alpha, as a whole number, and nothing else of the config.
    """
    alpha = config.alpha_as_written
    if config.mlx_scale is not None:
        return "Ollama doesn't know the scale of an MLX adapter."
    if not isinstance(alpha, int) or not 0 < alpha < 2**32:
        return "Ollama reads lora_alpha only as a whole number above 0."
    beyond = {
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "fan_in_fan_out": config.fan_in_fan_out,
        "bias": config.bias != "none",
        "lora_bias": config.lora_bias,
        "modules_to_save": config.modules_to_save,
        "rank_pattern": config.rank_pattern,
        "alpha_pattern": config.alpha_pattern,
        "target_parameters": config.target_parameters,
        "trainable_token_indices": config.token_indices,
    }
    for key, value in beyond.items():
        if value:
            return f"Ollama doesn't know the adapter's {key}."
    for name in names:
        if not _KNOWN_TO_OLLAMA.fullmatch(name):
            return f"Ollama doesn't know the adapter's tensor {name:.200}."
    return None


def _check_keys(config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        if key in _CHANGE_NOTHING or key in _UNDERSTOOD or not value:
            continue
        if key in _REFUSED:
            reason, hint = _REFUSED[key]
            raise AdapterConfigError(f"{reason} ({key})", hint)
        raise AdapterConfigError(
            f"has {_shown(key)}: {_shown(value)}, which isn't known here, so that the merged"
            " weights might be wrong",
            MERGE_WITH_PEFT,
        )


def _check_initial(value: object) -> None:
    """Refuse adapters that were trained on a base whose weights had been changed for them."""
    if value is None or isinstance(value, bool):
        return
    name = value.lower() if isinstance(value, str) else ""
    if name in _KEEPS_BASE:
        return
    for start, hint in _CHANGES_BASE.items():
        if name.startswith(start):
            raise AdapterConfigError(
                f"says init_lora_weights={_shown(value)}: it was trained on a base model whose"
                " weights had been changed for it, and doesn't fit the original one",
                hint,
            )
    raise AdapterConfigError(
        f"says init_lora_weights={_shown(value)}, which isn't known here", MERGE_WITH_PEFT
    )


def _is_mlx(config: Mapping[str, Any]) -> bool:
    return "fine_tune_type" in config or "lora_parameters" in config


def _read_mlx(config: Mapping[str, Any]) -> AdapterConfig:
    kind = config.get("fine_tune_type") or ("dora" if config.get("use_dora") else "lora")
    parameters = config.get("lora_parameters") or {}
    if kind not in ("lora", "dora", "full"):
        raise AdapterConfigError(
            f"says fine_tune_type={_shown(kind)}; lora, dora and full are known", FUSE_WITH_MLX
        )
    if not isinstance(parameters, dict):
        raise AdapterConfigError("has lora_parameters that aren't a JSON object")
    known = ("rank", "alpha", "scale", "dropout", "keys")
    for key, value in parameters.items():
        if key not in known and value:
            raise AdapterConfigError(
                f"has lora_parameters with {_shown(key)}: {_shown(value)}, which isn't known here",
                FUSE_WITH_MLX,
            )
    scale: Any = parameters.get("scale", 0.0 if kind == "full" else None)
    if not _is_number(scale):
        raise AdapterConfigError(
            f"has lora_parameters.scale={_shown(scale)}; it must be a number within reason"
        )
    rank = _rank(parameters.get("rank", 8), "lora_parameters.rank")
    alpha = parameters.get("alpha", rank)
    if alpha != rank:
        raise AdapterConfigError(
            f"has lora_parameters.alpha={_shown(alpha)}, which some versions of mlx-lm multiplied"
            " the scale with and others didn't",
            FUSE_WITH_MLX,
        )
    base = config.get("model")
    return AdapterConfig(
        peft_type="LORA",
        r=rank,
        lora_alpha=rank * float(scale),
        base_model_name_or_path=base if isinstance(base, str) and base else None,
        use_dora=kind == "dora",
        mlx_scale=float(scale),
    )


def _rank(value: object, what: str) -> int:
    if type(value) is not int or not 0 < value <= LARGEST_RANK:
        raise AdapterConfigError(
            f"has {what}={_shown(value)}; it must be a whole number from 1 to {LARGEST_RANK}"
        )
    return value


def _bias(config: Mapping[str, Any]) -> str:
    value = config.get("bias") or "none"
    if value not in ("none", "all", "lora_only"):
        raise AdapterConfigError(f"has bias={_shown(value)}; none, all and lora_only are possible")
    return str(value)


def _flag(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise AdapterConfigError(f"has {key}={_shown(value)}, which is neither true nor false")
    return bool(value)


def _names(config: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = config.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(map(_is_name, value)) or len(value) > LISTED:
        raise AdapterConfigError(f"has {key}={_shown(value)}, which isn't a list of names")
    return tuple(value)


def _pattern(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key) or {}
    if (
        not isinstance(value, dict)
        or not all(map(_is_number, value.values()))
        or not all(map(_is_name, value))
        or len(value) > NAMES
    ):
        raise AdapterConfigError(f"has {key}={_shown(value)}, which doesn't map names to numbers")
    return value


def _token_indices(value: Any) -> dict[str, tuple[int, ...]]:
    if not value:
        return {}
    by_name = value if isinstance(value, dict) else {"": value}
    for name, indices in by_name.items():
        good = isinstance(indices, list) and len(indices) <= TOKENS and len(name) <= NAME_LENGTH
        if not good or not all(type(index) is int and 0 <= index < 2**31 for index in indices):
            raise AdapterConfigError(
                f"has trainable_token_indices={_shown(value)}, which aren't token numbers"
            )
    return {name: tuple(indices) for name, indices in by_name.items()}


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= NAME_LENGTH


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= LARGEST_NUMBER  # which is false for NaN


def _shown(value: object) -> str:
    return f"{value!r:.60}"
