"""The pre-tokenizers that llama.cpp knows by name, under `tokenizer.ggml.pre`.

A list that ages: a name that isn't in it may be known to a newer server, so it is worth a word,
never a refusal. Source: src/llama-vocab.cpp of llama.cpp, releases of October 2026.
"""

# fmt: off
KNOWN = frozenset((
    "a.x-4.0", "afmoe", "bailingmoe", "bailingmoe2", "bloom", "chameleon", "chatglm-bpe",
    "codeshell", "cohere2moe", "command-r", "dbrx", "deepseek-coder", "deepseek-llm",
    "deepseek-r1-qwen", "deepseek-v3", "default", "exaone", "exaone-moe", "exaone4", "f2llmv2",
    "falcon", "falcon-h1", "falcon3", "gemma4", "gigachat", "glm4", "gpt-2", "gpt-4o",
    "gpt3-finnish", "granite-docling", "granite-embed-multi-311m", "granite-embed-multi-97m",
    "grok-2", "hunyuan", "hunyuan-dense", "jais", "jais-2", "jina-de", "jina-es", "jina-v1-en",
    "jina-v2-code", "jina-v2-de", "jina-v2-es", "jina-v5-nano", "joyai-llm", "kanana2", "kimi-k2",
    "kormo", "laguna", "lfm2", "llada-moe", "llama-bpe", "llama-v3", "llama3", "llama4", "megrez",
    "mellum", "mellum2", "midm-2.0", "minerva-7b", "minicpm5", "minimax-m2", "modern-bert", "mpt",
    "olmo", "phi-2", "pixtral", "poro-chat", "qwen2", "qwen35", "refact", "roberta-bpe",
    "sarvam-moe", "seed-coder", "smaug-bpe", "smollm", "solar-open", "stablelm2", "starcoder",
    "superbpe", "talkie", "tekken", "tiny_aya", "trillion", "viking", "whitespace", "youtu",
))
# fmt: on

_SPLITTING_MODELS = frozenset(("gpt2", "gemma4", "hybriddna", "whitespace"))


def problem(model: str | None, pre: str | None) -> str | None:
    """What is doubtful about a GGUF's pre-tokenizer, as a sentence, or None.

    `model` is its `tokenizer.ggml.model`, `pre` its `tokenizer.ggml.pre`. BPE alone has one.
    """
    if model not in _SPLITTING_MODELS or (model == "gemma4" and pre is None):
        return None
    if pre is None:
        return (
            "The GGUF has no tokenizer.ggml.pre: llama.cpp splits text in a default way, and "
            "answers are worse than they could be. Convert the model again with a newer llama.cpp."
        )
    if pre not in KNOWN:
        return (
            f"The GGUF's pre-tokenizer {pre[:80]!r} isn't one that we know: an Ollama older than "
            "it refuses to load the model."
        )
    return None
