"""The stand-in answers as the recorded servers did: request by request, in their order.

What stands here was recorded from Ollama 0.12.11 and 0.32.15. Digests of files are replaced by
their names, that of a base which the server wrote anew by REWRITTEN; those of texts are literal.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.gguf_files import write_base, write_lora
from tests.standin import Standin

pytestmark = pytest.mark.ollama

VERSIONS = ("0.12.11", "0.32.15")
JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"

TEMPLATE = "{{ .Prompt }}"
TEMPLATE_LAYER = "layer sha256:b507b9c2f6ca642bffcd06665ea7c91f235fd32daeefdf875a0f938db05fb315"
WARM_LAYER = "layer sha256:28c4f2c0bb538bd547ec374c5855672fd470ae732993ee964edb000491b341ee"
COLD_LAYER = "layer sha256:ae40a217c1c4002e9358f0f6597a349acaace0cfb95dc53db7ce646d57a56271"
HOT_LAYER = "layer sha256:bf137f0b9d85f83999229cc5953f8b1c77fbbc4861ea0103edc471b80f46bfbb"
WARM = {"temperature": 0, "num_predict": 12}
COLD = {"temperature": 0}

NO_FILE = f"error: open MODELS/blobs/sha256-{64 * 'b'}: no such file or directory"
NO_SUCH_REGISTRY = "dial tcp: lookup registry.ollama.ai: no such host"
NO_QUANTIZATION = (
    "0.12: error: quantization is only supported for F16 and F32 models",
    "0.32: error: quantization is only supported for F16, BF16 and F32 models",
)
REJECTED = (
    "0.32: error: failed to validate GGUF with llama-quantize without compatibility patches:"
    " llama-quantize failed: exit status 1"
)
BASE = ("parsing GGUF", "0.32: verifying conversion", "using existing layer BASE")
TINY = (
    "parsing GGUF",
    "0.32: verifying conversion",
    "0.12: using existing layer TINY",
    "0.32: using existing layer REWRITTEN",
)
BASE_WITH_ADAPTER = ("parsing GGUF", *BASE)
DONE = ("writing manifest", "success")

# Title, request, and the statuses (or the error) that were streamed. "0.12: " and "0.32: " mark
# what one of the versions alone says, "@x" stands for the digest of x.
CREATES: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    (
        "gemma OK",
        {
            "model": "g",
            "files": {"m.gguf": "@BASE"},
            "template": TEMPLATE,
            "system": "Be brief.",
            "parameters": {"num_ctx": 64},
        },
        (
            *BASE,
            f"creating new {TEMPLATE_LAYER}",
            "creating new layer SYSTEM",
            "creating new layer PARAMETERS",
            *DONE,
        ),
    ),
    ("gemma again", {"model": "g", "files": {"m.gguf": "@BASE"}}, (*BASE, *DONE)),
    (
        "tiny OK",
        {"model": "tiny", "files": {"m.gguf": "@TINY"}},
        (
            *TINY[:3],
            "0.32: creating new layer REWRITTEN",
            *DONE,
        ),
    ),
    (
        "tiny quantize q8_0",
        {"model": "q", "files": {"m.gguf": "@TINY"}, "quantize": "q8_0"},
        ("parsing GGUF", *NO_QUANTIZATION),
    ),
    (
        "bad quantize type",
        {"model": "q", "files": {"m.gguf": "@TINY"}, "quantize": "zzz"},
        (
            "parsing GGUF",
            "error: unsupported quantization type ZZZ - supported types are F32, F16, Q4_K_S,"
            " Q4_K_M, Q8_0",
        ),
    ),
    (
        "a model that keeps the template",
        {"model": "keeps", "from": "g", "template": TEMPLATE},
        ("using existing layer BASE", f"creating new {TEMPLATE_LAYER}", *DONE),
    ),
    (
        "base+adapter",
        {
            "model": "glora",
            "files": {"m.gguf": "@BASE"},
            "adapters": {"a.gguf": "@LORA"},
            "template": TEMPLATE,
            "parameters": WARM,
        },
        (
            *BASE_WITH_ADAPTER,
            "using existing layer LORA",
            f"using existing {TEMPLATE_LAYER}",
            f"creating new {WARM_LAYER}",
            *DONE,
        ),
    ),
    (
        "from existing + adapter (zero)",
        {"model": "gzero", "from": "g", "adapters": {"a.gguf": "@ZERO"}, "parameters": COLD},
        (
            "parsing GGUF",
            "using existing layer BASE",
            "using existing layer ZERO",
            f"creating new {COLD_LAYER}",
            *DONE,
        ),
    ),
    (
        "from existing + adapter (strong)",
        {"model": "gstrong", "from": "g", "adapters": {"a.gguf": "@LORA"}},
        ("parsing GGUF", "using existing layer BASE", "using existing layer LORA", *DONE),
    ),
    (
        "base + wrong-arch adapter",
        {"model": "gwrong", "files": {"m.gguf": "@BASE"}, "adapters": {"a.gguf": "@OTHER_LORA"}},
        (*BASE_WITH_ADAPTER, "using existing layer OTHER_LORA", *DONE),
    ),
    (
        "two adapters",
        {
            "model": "gtwo",
            "files": {"m.gguf": "@BASE"},
            "adapters": {"a.gguf": "@LORA", "b.gguf": "@ZERO"},
        },
        ("parsing GGUF", "error: only one adapter is currently supported"),
    ),
    (
        "adapter given as files only",
        {"model": "alone", "files": {"m.gguf": "@LORA"}},
        ("parsing GGUF", "using existing layer LORA", *DONE),
    ),
    (
        "base model given as adapter",
        {"model": "bases", "files": {"m.gguf": "@BASE"}, "adapters": {"a.gguf": "@TINY"}},
        (
            "parsing GGUF",
            "parsing GGUF",
            "0.32: verifying conversion",
            "0.32: verifying conversion",
            "using existing layer BASE",
            *TINY[2:],
            *DONE,
        ),
    ),
    (
        "from missing model + adapter",
        {"model": "m", "from": "does-not-exist-model", "adapters": {"a.gguf": "@LORA"}},
        (
            "pulling manifest",
            'error: pull model manifest: Get "https://registry.ollama.ai/v2/library/'
            f'does-not-exist-model/manifests/latest": {NO_SUCH_REGISTRY}',
        ),
    ),
    (
        "missing blob",
        {"model": "m", "files": {"m.gguf": "@ABSENT"}},
        ("parsing GGUF", NO_FILE),
    ),
    (
        "missing adapter blob",
        {"model": "m", "files": {"m.gguf": "@BASE"}, "adapters": {"a.gguf": "@ABSENT"}},
        ("parsing GGUF", "parsing GGUF", NO_FILE),
    ),
    (
        "bad: random bytes",
        {"model": "m", "files": {"m.gguf": "@NOISE"}},
        ("parsing GGUF", "error: supplied file was not in GGUF format"),
    ),
    (
        "bad: GGUF header, 0 tensors+junk",
        {"model": "m", "files": {"m.gguf": "@JUNK"}},
        (
            "parsing GGUF",
            "0.12: using existing layer JUNK",
            *(f"0.12: {x}" for x in DONE),
            REJECTED,
        ),
    ),
    (
        "bad: truncated in metadata",
        {"model": "m", "files": {"m.gguf": "@CUT_HEADER"}},
        ("parsing GGUF", "error: unexpected EOF"),
    ),
    (
        "bad: truncated in tensors",
        {"model": "m", "files": {"m.gguf": "@CUT_TENSORS"}},
        (
            "parsing GGUF",
            "0.12: using existing layer CUT_TENSORS",
            *(f"0.12: {line}" for line in DONE),
            '0.32: error: tensor "token_embd.weight" offset+size (N) exceeds file size (N)',
        ),
    ),
    ("file name without .gguf", {"model": "m", "files": {"m": "@BASE"}}, (*BASE, *DONE)),
    (
        "malformed digest",
        {"model": "m", "files": {"m.gguf": "sha256:abc"}},
        ("parsing GGUF", "error: invalid digest format"),
    ),
    ("upper case name", {"model": "TINY", "files": {"m.gguf": "@TINY"}}, (*TINY, *DONE)),
    (
        "host/ns/name:tag",
        {"model": "hf.co/some/long-name:q4", "files": {"m.gguf": "@TINY"}},
        (*TINY, *DONE),
    ),
    (
        "bad template",
        {"model": "m", "files": {"m.gguf": "@TINY"}, "template": "{{ .Prompt"},
        (*TINY[:2], "error: template error: template: :1: unclosed action"),
    ),
    (
        "ill-typed parameter",
        {"model": "p", "files": {"m.gguf": "@TINY"}, "parameters": {"temperature": "hot"}},
        (*TINY, f"creating new {HOT_LAYER}", *DONE),
    ),
    (
        "from + files both",
        {"model": "both", "from": "g", "files": {"m.gguf": "@TINY"}},
        ("using existing layer BASE", *DONE),
    ),
    (
        "from self + adapter",
        {"model": "g", "from": "g", "adapters": {"a.gguf": "@ZERO"}},
        ("parsing GGUF", "using existing layer BASE", "using existing layer ZERO", *DONE),
    ),
    (
        "from with adapter already + another adapter",
        {"model": "two", "from": "glora", "adapters": {"a.gguf": "@ZERO"}},
        (
            "parsing GGUF",
            "using existing layer BASE",
            "using existing layer LORA",
            f"using existing {TEMPLATE_LAYER}",
            "using existing layer ZERO",
            f"using existing {WARM_LAYER}",
            *DONE,
        ),
    ),
    (
        "safetensors ext but gguf content",
        {"model": "m", "files": {"model.safetensors": "@BASE"}},
        ("converting model", "error: open config.json: no such file or directory"),
    ),
    (
        "two gguf files",
        {"model": "m", "files": {"a.gguf": "@BASE", "b.gguf": "@TINY"}},
        (
            "parsing GGUF",
            "parsing GGUF",
            "0.32: verifying conversion",
            "0.32: verifying conversion",
            "using existing layer BASE",
            *TINY[2:],
            *DONE,
        ),
    ),
    (
        "quantize F16",
        {"model": "tl-q8", "files": {"m.gguf": "@HALF"}, "quantize": "q8_0"},
        (
            "parsing GGUF",
            "0.12: quantizing F16 model to Q8_0",
            "verifying conversion",
            "creating new layer REWRITTEN",
            *DONE,
        ),
    ),
]

# Method, path, body, status, headers, body of the answer, with what one version alone says.
ANSWERS: list[tuple[str, str, Any, int, dict[str, str | None], str]] = [
    ("GET", "/api/version", None, 200, {"Content-Type": JSON}, '{"version":"VERSION"}'),
    ("HEAD", "/api/blobs/@ABSENT", None, 404, {"Content-Type": JSON, "Content-Length": "102"}, ""),
    ("HEAD", "/api/blobs/@TINY", None, 200, {"Content-Type": None, "Content-Length": None}, ""),
    ("POST", "/api/blobs/@TINY", b"x", 200, {"Content-Type": None, "Content-Length": "0"}, ""),
    (
        "POST",
        "/api/blobs/@WRONG",
        b"hello",
        400,
        {"Content-Type": JSON, "Content-Length": "194"},
        rf'{{"error":"digest mismatch, expected \"sha256:{64 * "a"}\", got'
        r" \"sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824\""
        '"}',
    ),
    (
        "POST",
        "/api/blobs/sha256:abc",
        b"x",
        400,
        {"Content-Type": JSON, "Content-Length": "33"},
        '{"error":"invalid digest format"}',
    ),
    ("HEAD", "/api/blobs/sha256:abc", None, 400, {"Content-Length": "33"}, ""),
    (
        "GET",
        "/api/blobs/@TINY",
        None,
        405,
        {"Content-Type": "text/plain"},
        "405 method not allowed",
    ),
    (
        "GET",
        "/",
        None,
        200,
        {"Content-Type": "text/plain; charset=utf-8", "Content-Length": "17"},
        "Ollama is running",
    ),
    (
        "POST",
        "/api/create",
        {"model": "sf", "files": {"m.gguf": "@BASE"}, "stream": False},
        200,
        {"Content-Type": "application/json", "Content-Length": "20"},
        '{"status":"success"}',
    ),
    (
        "POST",
        "/api/create",
        {"model": "m", "files": {"/m.gguf": "@BASE"}},
        400,
        {"Content-Type": JSON, "Content-Length": "38"},
        '{"error":"file path must be relative"}',
    ),
    (
        "POST",
        "/api/create",
        {"model": "bad name!", "files": {"m.gguf": "@BASE"}},
        400,
        {"Content-Type": JSON, "Content-Length": "30"},
        '{"error":"invalid model name"}',
    ),
    (
        "POST",
        "/api/create",
        {"model": "m"},
        400,
        {"Content-Type": "application/json", "Transfer-Encoding": "chunked"},
        "{\"error\":\"neither 'from' or 'files' was specified\"}",
    ),
    (
        "POST",
        "/api/create",
        {"model": "m", "files": {}},
        400,
        {"Content-Type": "application/json", "Transfer-Encoding": "chunked"},
        '{"error":"unknown type"}',
    ),
    (
        "POST",
        "/api/create",
        b"{bad",
        400,
        {"Content-Type": JSON, "Content-Length": "76"},
        '{"error":"invalid character \'b\' looking for beginning of object key string"}',
    ),
    (
        "POST",
        "/api/create",
        b"",
        400,
        {"Content-Type": JSON, "Content-Length": "32"},
        '{"error":"missing request body"}',
    ),
    (
        "POST",
        "/api/create",
        {"model": "m", "files": {"m.gguf": "@ABSENT"}, "stream": False},
        500,
        {"Content-Type": "application/json"},
        f'{{"error":"open MODELS/blobs/sha256-{64 * "b"}: no such file or directory"}}',
    ),
    (
        "POST",
        "/api/create",
        {"model": "m", "files": {"m.gguf": "@NOISE"}, "stream": False},
        400,
        {"Content-Type": "application/json"},
        '{"error":"supplied file was not in GGUF format"}',
    ),
    ("POST", "/api/copy", {"source": "g", "destination": "h"}, 200, {"Content-Length": "0"}, ""),
    (
        "POST",
        "/api/copy",
        {"source": "nope", "destination": "h"},
        404,
        {"Content-Type": JSON, "Content-Length": "36"},
        r'{"error":"model \"nope\" not found"}',
    ),
    ("DELETE", "/api/delete", {"model": "h"}, 200, {"Content-Length": "0"}, ""),
    (
        "DELETE",
        "/api/delete",
        {"model": "tiny2"},
        404,
        {"Content-Type": JSON, "Content-Length": "35"},
        '{"error":"model \'tiny2\' not found"}',
    ),
    (
        "DELETE",
        "/api/delete",
        {"model": "bad name!"},
        400,
        {"Content-Type": JSON, "Content-Length": "41"},
        r'{"error":"name \"bad name!\" is invalid"}',
    ),
    (
        "GET",
        "/api/ps",
        None,
        200,
        {"Content-Type": JSON, "Content-Length": "13"},
        '{"models":[]}',
    ),
]

# The same in one version each.
OLD_ANSWERS: list[tuple[str, str, Any, int, dict[str, str | None], str]] = [
    (
        "POST",
        "/api/show",
        {"model": "nope"},
        404,
        {"Content-Type": JSON, "Content-Length": "34"},
        '{"error":"model \'nope\' not found"}',
    ),
    (
        "POST",
        "/api/create",
        {"model": "m", "files": {"m.gguf": ""}},
        200,
        {"Content-Type": NDJSON},
        '{"status":"parsing GGUF"}\n{"error":"read MODELS/blobs: is a directory"}\n',
    ),
    (
        "POST",
        "/api/create",
        {"model": "m", "files": {"m.gguf": "@CUT_TENSORS"}, "stream": False},
        200,
        {"Content-Type": "application/json"},
        '{"status":"success"}',
    ),
]
NEW_ANSWERS: list[tuple[str, str, Any, int, dict[str, str | None], str]] = [
    (
        "POST",
        "/api/show",
        {"model": "nope"},
        404,
        {"Content-Type": JSON, "Content-Length": "41"},
        '{"error":"model \'nope:latest\' not found"}',
    ),
    (
        "POST",
        "/api/create",
        {"model": "m", "files": {"m.gguf": ""}},
        400,
        {"Content-Type": JSON, "Content-Length": "33"},
        '{"error":"invalid digest format"}',
    ),
    (
        "POST",
        "/api/create",
        {"model": "m", "files": {"m.gguf": "@CUT_TENSORS"}, "stream": False},
        500,
        {"Content-Type": "application/json"},
        r'{"error":"tensor \"token_embd.weight\" offset+size (N) exceeds file size (N)"}',
    ),
]


class Replay:
    """A stand-in of one version with the recorded files pushed."""

    def __init__(
        self, standin: Standin, folder: Path, version: str, blobs: dict[str, bytes]
    ) -> None:
        self.url, self.folder, self.version = standin.url, folder, version
        self.digests = {name: f"sha256:{_hex(content)}" for name, content in blobs.items()}
        self.digests |= {"ABSENT": "sha256:" + 64 * "b", "WRONG": "sha256:" + 64 * "a"}
        for name, content in blobs.items():
            if name not in ("SYSTEM", "PARAMETERS"):
                url = f"{self.url}/api/blobs/{self.digests[name]}"
                assert requests.post(url, data=content, timeout=30).status_code == 201

    def ask(self, method: str, path: str, body: Any) -> requests.Response:
        content = body if isinstance(body, bytes) else body and self._filled(json.dumps(body))
        return requests.request(method, self.url + self._filled(path), data=content, timeout=30)

    def named(self, text: str) -> str:
        """`text` with digests, folder and sizes replaced by their names."""
        for name, digest in self.digests.items():
            if name not in ("ABSENT", "WRONG"):
                text = text.replace(digest, name)
        text = text.replace(str(self.folder), "MODELS").replace(self.version, "VERSION")
        return re.sub(r"\(\d+\)", "(N)", text)

    def _filled(self, text: str) -> str:
        return re.sub("@([A-Z_]+)", lambda match: self.digests[match[1]], text)


def _hex(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("recorded")
    quantized = {"general.quantization_version": 2}
    base = write_base(folder / "base.gguf", seed=1, extra=quantized).read_bytes()
    half = write_base(folder / "half.gguf", seed=2, extra=quantized).read_bytes()
    type_key = b"general.file_type" + (4).to_bytes(4, "little")
    return {
        "BASE": base,
        "TINY": write_base(folder / "tiny.gguf", seed=3).read_bytes(),
        "HALF": half.replace(type_key + b"\0", type_key + b"\1"),
        "LORA": write_lora(folder / "lora.gguf").read_bytes(),
        "ZERO": write_lora(folder / "zero.gguf", scale=0).read_bytes(),
        "OTHER_LORA": write_lora(folder / "other.gguf", "qwen2").read_bytes(),
        "NOISE": bytes(range(256)),
        "JUNK": b"GGUF" + (3).to_bytes(4, "little") + bytes(16) + b"junk",
        "CUT_HEADER": base[:42],
        "CUT_TENSORS": base[:-100_000],
        "SYSTEM": b"Be brief.",
        "PARAMETERS": b'{"num_ctx":64}\n',
    }


@pytest.fixture(params=VERSIONS)
def replay(
    request: pytest.FixtureRequest, tmp_path: Path, blobs: dict[str, bytes]
) -> Iterator[Replay]:
    with Standin(tmp_path, version=request.param) as standin:
        yield Replay(standin, tmp_path, request.param, blobs)


def statuses(text: str) -> list[str]:
    """What lines of create say, with `error: ` before an error; repeated progress counts once."""
    said: list[str] = []
    for line in map(json.loads, text.splitlines()):
        words = line["status"] if "status" in line else f"error: {line['error']}"
        if "completed" not in line or words not in said:
            said.append(words)
    return said


def said_by(version: str, lines: tuple[str, ...]) -> list[str]:
    """The lines that `version` says, without the marks."""
    short = version.rpartition(".")[0]
    marked = [re.fullmatch(r"(?:(0\.\d+): )?(.*)", line) for line in lines]
    return [match[2] for match in marked if match and match[1] in (None, short)]


def test_creates_stream_the_recorded_lines(replay: Replay, blobs: dict[str, bytes]) -> None:
    known = set(re.findall("sha256:[0-9a-f]{64}", f"{CREATES} {list(replay.digests.values())}"))
    for title, body, lines in CREATES:
        response = replay.ask("POST", "/api/create", body)
        text = re.sub(
            "sha256:[0-9a-f]{64}",
            lambda match: match[0] if match[0] in known else "REWRITTEN",
            response.text,
        )
        assert (response.status_code, response.headers["Content-Type"]) == (200, NDJSON)
        assert (title, statuses(replay.named(text))) == (title, said_by(replay.version, lines))


def test_answers_are_the_recorded_ones(replay: Replay) -> None:
    replay.ask("POST", "/api/create", {"model": "g", "files": {"m.gguf": "@BASE"}})
    own = OLD_ANSWERS if replay.version == VERSIONS[0] else NEW_ANSWERS
    for method, path, body, status, headers, text in (*ANSWERS, *own):
        response = replay.ask(method, path, body)
        found = {name: response.headers.get(name) for name in headers}
        expected = text.replace("VERSION", replay.version)
        assert (path, body, response.status_code, found) == (path, body, status, headers)
        assert (path, body, replay.named(response.text)) == (path, body, replay.named(expected))


def test_show_is_the_recorded_one(replay: Replay) -> None:
    replay.ask("POST", "/api/create", {"model": "tiny", "files": {"m.gguf": "@TINY"}})
    adapted = {"files": {"m.gguf": "@BASE"}, "adapters": {"a.gguf": "@LORA"}, "parameters": WARM}
    replay.ask("POST", "/api/create", {"model": "glora"} | adapted)
    is_old = replay.version == VERSIONS[0]

    tiny = replay.ask("POST", "/api/show", {"model": "tiny"}).json()
    assert list(tiny) == [
        *("modelfile", "template", "details", "model_info", "tensors"),
        *("capabilities", "modified_at"),
    ]
    assert list(tiny["details"]) == [
        *("parent_model", "format", "family", "families", "parameter_size", "quantization_level")
    ]
    stored = f"MODELS/blobs/{replay.digests['TINY'].replace(':', '-')}"
    assert replay.named(tiny["details"]["parent_model"]) == (stored if is_old else "")
    assert ("general.quantization_version" in tiny["model_info"]) is not is_old

    glora = replay.ask("POST", "/api/show", {"model": "glora"}).json()
    digests = [replay.digests[name].replace(":", "-") for name in ("BASE", "LORA")]
    assert replay.named(glora["modelfile"]) == (
        '# Modelfile generated by "ollama show"\n'
        "# To build a new Modelfile based on this, replace FROM with:\n"
        "# FROM glora:latest\n\n"
        f"FROM MODELS/blobs/{digests[0]}\n"
        f"ADAPTER MODELS/blobs/{digests[1]}\n"
        "TEMPLATE {{ .Prompt }}\n"
        "PARAMETER num_predict 12\n"
        "PARAMETER temperature 0\n"
    )
    assert glora["details"]["families"] == (["llama", "llama"] if is_old else ["llama"])
    assert glora["parameters"].splitlines() == [
        "num_predict                    12",
        "temperature                    0",
    ]


def test_tags_are_the_recorded_ones(replay: Replay) -> None:
    replay.ask("POST", "/api/create", {"model": "hf.co/some/x:q4", "files": {"m.gguf": "@TINY"}})
    (entry,) = replay.ask("GET", "/api/tags", None).json()["models"]
    keys = ["name", "model", "modified_at", "size", "digest", "details"]
    is_old = replay.version == VERSIONS[0]
    assert list(entry) == (keys if is_old else [*keys, "capabilities"])
    assert entry["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "27K",
        "quantization_level": "unknown",
    } | ({} if is_old else {"context_length": 64, "embedding_length": 32})
    (model,) = replay.ask("GET", "/v1/models", None).json()["data"]
    assert (model["id"], model["owned_by"]) == ("hf.co/some/x:q4", "some")


def test_pushed_blob_stays_where_the_base_was_rewritten(replay: Replay) -> None:
    replay.ask("POST", "/api/create", {"model": "tiny", "files": {"m.gguf": "@TINY"}})
    replay.ask("POST", "/api/create", {"model": "other", "files": {"m.gguf": "@TINY"}})
    replay.ask("DELETE", "/api/delete", {"model": "other"})
    assert replay.ask("HEAD", "/api/blobs/@TINY", None).status_code == 200
