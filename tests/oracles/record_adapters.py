"""Record what PEFT's merge_and_unload() makes of the adapters in adapter_cases, in float64."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoConfig, AutoModelForCausalLM

from tests.oracles.adapter_cases import ADAPTERS, COMMON, MODELS, drawn, probed

FIXTURE = Path(__file__).parent / "fixtures" / "adapters.json"


def main() -> None:
    """Merge each adapter, and write FIXTURE."""
    text = json.dumps({name: record(name) for name in ADAPTERS}, separators=(",", ":"))
    FIXTURE.write_text(text.replace('},"', '},\n"') + "\n")


def record(name: str) -> dict[str, Any]:
    """The shapes of the base's and the adapter's tensors, its config, and the merged weights."""
    kind, settings = ADAPTERS[name]
    config = AutoConfig.for_model(kind, **COMMON, **MODELS[kind])
    model = AutoModelForCausalLM.from_config(config).double()
    base = {key: tensor for key, tensor in model.state_dict().items() if "inv_freq" not in key}
    fill(base, "base")
    shapes = {key: list(tensor.shape) for key, tensor in base.items()}
    peft = get_peft_model(
        model,
        LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings),
        autocast_adapter_dtype=False,
    )
    adapter = {key: value.clone() for key, value in get_peft_model_state_dict(peft).items()}
    fill(adapter, name)
    written = {key: list(tensor.shape) for key, tensor in adapter.items()}
    set_peft_model_state_dict(peft, adapter)
    said = peft.peft_config["default"].to_dict()
    saved = {key: sorted(v) if isinstance(v, set) else v for key, v in said.items()}
    merged = peft.merge_and_unload().state_dict()
    return {
        "base": shapes,
        "adapter": written,
        "config": json.loads(json.dumps(saved, default=str)),
        "merged": probed({key: merged[key].numpy() for key in shapes}),
    }


def fill(tensors: dict[str, Any], case: str) -> None:
    """Give the tensors the values that the replay draws too."""
    with torch.no_grad():
        for key, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(drawn(case, key, tuple(tensor.shape))).double())


if __name__ == "__main__":
    main()
