"""The architectures that can be converted, by GGUF's name and by transformers' class."""

from app.weights.convert import gemma, gemma4, gpt_oss, llama, olmo2, phi3, qwen, qwen35
from app.weights.convert.architecture import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    each.name: each
    for module in (llama, qwen, qwen35, gemma, gemma4, gpt_oss, phi3, olmo2)
    for each in module.ARCHITECTURES
}
CLASSES: dict[str, Architecture] = {
    name: each for each in ARCHITECTURES.values() for name in each.classes
}
