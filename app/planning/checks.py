"""What a GGUF model's header tells of whether it can run: as llama.cpp checks it when it loads.

What is refused here is refused by every llama.cpp that knows the architecture. Lists of names grow
old: what isn't in them is only pointed out, for a newer server may know it.

Sources: llama.cpp, src/llama-vocab.cpp and src/llama-model.cpp (b10488).
"""

from collections.abc import Iterator, Mapping

from app.formats import pre_tokenizers
from app.formats.gguf import Array, Header, Tensor
from app.modelfile.templates import Chat
from app.planning.unusable import Unusable

# Vocabularies that are none: of models that don't work on text.
_NO_VOCABULARY = ("none", "no_vocab")
_ATTENTION = ("attn_norm", "attn_q|attn_qkv", "attn_k|attn_qkv", "attn_v|attn_qkv", "attn_output")
_DENSE = ("ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
_HEAD_NORMS = ("attn_q_norm", "attn_k_norm")
# The weights of each block; `|` separates those of which one is enough.
_BLOCKS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("llama", "qwen2", "granite", "smollm3"), _ATTENTION + _DENSE),
    **dict.fromkeys(("gemma", "gemma2", "gemma3"), _ATTENTION + _DENSE),
    "qwen3": _ATTENTION + _DENSE + _HEAD_NORMS,
    "phi3": (*_ATTENTION, "ffn_norm", "ffn_up", "ffn_down"),
}
_NAMES = """
    afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bert bitnet bloom chameleon
    chatglm codeshell cogvlm cohere2 command-r dbrx deci deepseek deepseek2 deepseek2-ocr dots1
    dream ernie4_5 ernie4_5-moe eurobert exaone exaone-moe exaone4 falcon falcon-h1 gemma
    gemma-embedding gemma2 gemma3 gemma3n gemma4 glm-dsa glm4 glm4moe gpt-oss gpt2 gptj gptneox
    granite granitehybrid granitemoe grok grovemoe hunyuan-dense hunyuan-moe hunyuan_vl internlm2
    jais jais2 jamba jina-bert-v2 jina-bert-v3 kimi-linear lfm2 lfm2moe llada llada-moe llama
    llama-embed llama4 maincoder mamba mamba2 mimo2 minicpm minicpm3 minimax-m2 mistral3 mistral4
    modern-bert mpt nemotron nemotron_h nemotron_h_moe neo-bert nomic-bert nomic-bert-moe olmo
    olmo2 olmoe openelm orion paddleocr pangu-embedded phi2 phi3 phimoe plamo plamo2 plamo3 plm
    qwen qwen2 qwen2moe qwen2vl qwen3 qwen35 qwen35moe qwen3moe qwen3next qwen3vl qwen3vlmoe refact
    rnd1 rwkv6 rwkv6qwen2 rwkv7 seed_oss smallthinker smollm3 stablelm starcoder starcoder2 step35
    t5 t5encoder wavtokenizer-dec xverse
"""
_ARCHITECTURES = frozenset(_NAMES.split())


def check_runs(name: str, header: Header, tensors: Mapping[str, Tensor]) -> None:
    """Raise Unusable where a model's header and its tensors show that no llama.cpp loads it.

    `name` is the file's, for the message; `tensors` are those of all shards.
    """
    if header.architecture is None:
        raise Unusable(f"{name} doesn't say its architecture (general.architecture).", _CONVERT)
    _check_vocabulary(name, header, tensors)
    _check_tensors(name, header, tensors)


_CONVERT = "Convert the model to GGUF again, with the tokenizer's files in its folder."


def _check_vocabulary(name: str, header: Header, tensors: Mapping[str, Tensor]) -> None:
    model = header.text("tokenizer.ggml.model")
    if model in _NO_VOCABULARY:
        return
    tokens = _length(header, "tokenizer.ggml.tokens")
    if model is None or not tokens:
        raise Unusable(f"{name} has no tokenizer.", _CONVERT)
    if model == "gpt2" and not _length(header, "tokenizer.ggml.merges"):
        raise Unusable(f"{name} has a tokenizer of the kind gpt2 without its merges.", _CONVERT)
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2 or header.architecture not in _ARCHITECTURES:
        return
    rows = embedding.shape[1]
    if rows != tokens:
        raise Unusable(
            f"{name} has {tokens} tokens in its vocabulary, but {rows} rows in its embedding"
            " (token_embd.weight).",
            "Tokens were added without resizing the embedding, or the reverse: call"
            " model.resize_token_embeddings(len(tokenizer)), save both, and convert again.",
        )


def _length(header: Header, key: str) -> int:
    value = header.metadata.get(key)
    return value.length if isinstance(value, Array) else 0


def _check_tensors(name: str, header: Header, tensors: Mapping[str, Tensor]) -> None:
    if header.architecture not in _BLOCKS:
        return
    for missing in _missing(header, tensors):
        raise Unusable(
            f"{name} has no tensor {missing}, which every {header.architecture} model needs.",
            "Convert the model again, or copy the file again from where it came from.",
        )


def _missing(header: Header, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """The names of the weights that it should have. Ask for the first one only: a block count can
    be any number."""
    needed = _BLOCKS[header.architecture or ""]
    if header.integer(f"{header.architecture}.expert_count"):
        needed = tuple(each for each in needed if each not in _DENSE)
    for whole in ("token_embd.weight", "output_norm.weight"):
        if whole not in tensors:
            yield whole
    for block in range(header.integer(f"{header.architecture}.block_count") or 0):
        for names in needed:
            choices = [f"blk.{block}.{each}.weight" for each in names.split("|")]
            if not any(choice in tensors for choice in choices):
                yield choices[0]


def oddities(name: str, header: Header) -> list[str]:
    """Sentences on what may keep a model from running, or from running well."""
    found = []
    if header.architecture not in _ARCHITECTURES:
        found.append(
            f"{name} is of the architecture {header.architecture!r}, which is unknown here: only a"
            " server that knows it can run it."
        )
    for number in sorted(header.unknown_types)[:1]:
        found.append(
            f"{name} has tensors of type {number}, which is unknown here: only a server that knows"
            " it can run it."
        )
    doubtful = pre_tokenizers.problem(
        header.text("tokenizer.ggml.model"), header.text("tokenizer.ggml.pre")
    )
    if doubtful is not None:
        found.append(doubtful)
    return found


def chat(header: Header) -> Chat:
    """What a GGUF header tells of how the model chats."""
    names = {token_id: token for token, token_id in header.special_tokens.items()}
    ends = (header.integer(f"tokenizer.ggml.{end}_token_id") for end in ("eot", "eos"))
    own = header.text("tokenizer.chat_template") or ""
    return Chat(
        architecture=header.architecture,
        has_template=bool(own),
        knows_tools="tools" in own,
        special_tokens=frozenset(header.special_tokens),
        end_tokens=tuple(names[end] for end in ends if end is not None and end in names),
    )
