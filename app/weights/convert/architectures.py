"""The architectures that can be converted, by GGUF's name and by transformers' class."""

from app.weights.convert import gemma, gemma4, gpt_oss, llama, others, qwen, qwen35
from app.weights.convert.architecture import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    each.name: each
    for module in (llama, qwen, qwen35, gemma, gemma4, gpt_oss, others)
    for each in module.ARCHITECTURES
}
CLASSES: dict[str, Architecture] = {
    name: each for each in ARCHITECTURES.values() for name in each.classes
}
