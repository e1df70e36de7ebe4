"""The Modelfile reader held to Ollama's, and the templates to what the reader gives back."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.modelfile.grammar import Modelfile, ModelfileError, parse, quote
from app.modelfile.parameters import PARAMETERS, check_parameters, merge_parameters
from app.modelfile.templates import Chat, Templates
from app.planning.plan import create_request

OURS = Path(__file__).parent.parent / "modelfiles"
TEMPLATES = Templates(OURS)

MARKS = ['"', '""', '"""', " ", "\t", "\n", "\r", "\r\n", "#", ": ", "{{ .System }}", "[= base =]"]
LINES = ["FROM evil", "\nFROM evil\n", '"""\nADAPTER evil\n', "SYSTEM ", "[% if x %]", "<|end|>"]
UNSEEN = ["\xa0", "\u2028", "\x85", "\x0b", "\x0c", "\x00", "\u200d", "\ufeff", "\x1e"]
TEXTS = st.lists(st.sampled_from(MARKS + LINES + UNSEEN) | st.text(max_size=5)).map("".join)
ENDS_EARLY = re.compile(r'"""[ \t]*[\r\n]')


def seen(text: str) -> str:
    """The characters that Ollama's reader keeps."""
    return "".join(char for char in text if char.isprintable() or char in "\t\r\n")


def writable(text: str) -> bool:
    return not ENDS_EARLY.search(seen(text))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("FROM foo", {}),
        ("from foo", {}),
        ("FrOm\tfoo\n", {}),
        ("\ufeffFROM foo\n", {}),
        ("  \n\t FROM   foo  \r\n", {}),
        ('FROM "foo"', {}),
        ('FROM """foo"""  \n', {}),
        ("# FROM bar\nFROM foo\n  # SYSTEM x\n#", {}),
        ("FROM foo\u200b\n", {}),
        ("FROM foo bar # baz", {"from_": ("foo bar # baz",)}),
        ("FROM a\nFROM b", {"from_": ("a", "b")}),
        ('FROM "  foo "', {"from_": ("  foo ",)}),
        ("FROM foo\nADAPTER a\nADAPTER b", {"adapters": ("a", "b")}),
        ("FROM foo\nSYSTEM one\nSYSTEM two", {"system": "two"}),
        ("FROM foo\nSYSTEM \nLICENSE MIT", {"system": "", "license": ("MIT",)}),
        ('FROM foo\nSYSTEM ""', {"system": ""}),
        ('FROM foo\nSYSTEM """"""', {"system": ""}),
        ('FROM foo\nSYSTEM "one\r\n\ttwo "\r\n', {"system": "one\r\n\ttwo "}),
        ('FROM foo\nSYSTEM """\n# one\nFROM bar\n"""', {"system": "\n# one\nFROM bar\n"}),
        ('FROM foo\nSYSTEM "one" two\nthree"', {"system": 'one" two\nthree'}),
        ('FROM foo\nSYSTEM """one""" two"""', {"system": 'one""" two'}),
        ('FROM foo\nSYSTEM """one""" \t\nLICENSE MIT', {"system": "one", "license": ("MIT",)}),
        ('FROM foo\nSYSTEM """one""""', {"system": 'one"'}),
        ('FROM foo\nSYSTEM ""one"', {"system": '"one'}),
        ('FROM foo\nSYSTEM one "two"', {"system": 'one "two"'}),
        ("FROM foo\nSYSTEM 'one'", {"system": "'one'"}),
        ('FROM foo\nSYSTEM "one\\"\nLICENSE two', {"system": "one\\", "license": ("two",)}),
        ('FROM foo\nSYSTEM "a\xa0b\u200d"\u200d\n', {"system": "a\xa0b\u200d"}),
        ("FROM foo\nLICENSE MIT\nLICENSE BSD", {"license": ("MIT", "BSD")}),
        (
            'FROM foo\nPARAMETER stop a b\nPARAMETER stop "c"\nPARAMETER top_k 3',
            {"parameters": (("stop", "a b"), ("stop", "c"), ("top_k", "3"))},
        ),
        ("FROM foo\nPARAMETER new_1 x", {"parameters": (("new_1", "x"),)}),
        (
            'FROM foo\nMESSAGE user Hi: you\nmessage assistant """Hello\n"""',
            {"messages": (("user", "Hi: you"), ("assistant", "Hello\n"))},
        ),
        (
            "RENDERER r\nPARSER p\nREQUIRES 0.14.0\nDRAFT ./d\nFROM foo\nTEMPLATE {{ .Prompt }}",
            {"renderer": "r", "parser": "p", "requires": "0.14.0"}
            | {"draft": "./d", "template": "{{ .Prompt }}"},
        ),
    ],
)
def test_reads_as_ollama_does(text: str, read: dict[str, Any]) -> None:
    assert parse(text) == Modelfile(**({"from_": ("foo",)} | read))


KNOWN = (
    "There are FROM, ADAPTER, TEMPLATE, SYSTEM, PARAMETER, LICENSE, MESSAGE,"
    " RENDERER, PARSER, REQUIRES, DRAFT."
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The Modelfile has no FROM, which names the base model."),
        ("SYSTEM one", "The Modelfile has no FROM, which names the base model."),
        ("FROM foo\n\nSTOP one", f"Line 3: 'STOP' is no instruction. {KNOWN}"),
        ("FROM foo\r\n\r\nSTOP one", f"Line 3: 'STOP' is no instruction. {KNOWN}"),
        ("\u017fYSTEM one", f"Line 1: '\u017fYSTEM' is no instruction. {KNOWN}"),
        ("FROM\xa0foo", f"Line 1: 'FROMfoo' is no instruction. {KNOWN}"),
        ("FROM", "Line 1: 'FROM' needs a space and a value after it."),
        ("FROM foo\nSYSTEM\none", "Line 2: 'SYSTEM' needs a space and a value after it."),
        ("PARAMETER stop\n", "Line 1: 'PARAMETER stop' needs a space and a value after it."),
        ("PARAMETER  stop x", "Line 1: PARAMETER needs one space and a parameter's name."),
        ("PARAMETER to-p x", "Line 1: PARAMETER needs one space and a parameter's name."),
        ("MESSAGE User x", "Line 1: MESSAGE needs one space and a role: system, user, assistant."),
        ("MESSAGE  user x", "Line 1: MESSAGE needs one space and a role: system, user, assistant."),
        ('FROM foo\nSYSTEM "one\n', 'Line 2: The text after " needs " at its end.'),
        ('FROM "one" two', 'Line 1: The text after " needs " at its end.'),
        ('FROM "', 'Line 1: The text after " needs " at its end.'),
        ('FROM """""', 'Line 1: The text after """ needs """ at its end.'),
        ('FROM """one"" "', 'Line 1: The text after """ needs """ at its end.'),
    ],
)
def test_says_in_which_line_a_modelfile_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ModelfileError) as raised:
        parse(text)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("value", "spelling"),
    [
        ("", '""'),
        ("one two", "one two"),
        ('one "two"', 'one "two"'),
        ('"one', '""one"'),
        ('"', '"""""""'),
        (" one", '" one"'),
        ("one\n", '"one\n"'),
        ("one\rtwo", '"one\rtwo"'),
        ("one\xa0", '"one\xa0"'),
        ('"one"\ntwo', '""""one"\ntwo"""'),
        ('one """ two\n', '"one """ two\n"'),
        ('one\n"""', '"one\n""""'),
        ('""one\n', '"""""one\n"""'),
    ],
)
def test_quotes_no_more_than_needed(value: str, spelling: str) -> None:
    assert quote(value) == spelling


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('a"""\nb', "a line in it ends with three double quotes"),
        ('a""" \t\r\nb', "a line in it ends with three double quotes"),
        ('a""\u200b"\x00\nb', "a line in it ends with three double quotes"),
        ("a\ud800", "lone surrogate"),
    ],
)
def test_refuses_a_value_without_a_spelling(value: str, message: str) -> None:
    with pytest.raises(ModelfileError, match=message):
        quote(value)


@given(TEXTS)
@settings(deadline=None)
def test_quotes_every_text_that_has_a_spelling(value: str) -> None:
    if not writable(value):
        with pytest.raises(ModelfileError, match="three double quotes"):
            quote(value)
        return
    text = f"FROM foo\nSYSTEM {quote(value)}\nLICENSE MIT\n"
    assert parse(text) == Modelfile(("foo",), system=value, license=("MIT",))
    ollamas = parse(seen(text))
    assert ollamas == Modelfile(("foo",), system=seen(value), license=("MIT",))


@given(
    base=st.lists(TEXTS.filter(writable), min_size=1, max_size=3),
    texts=st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("adapter", "system", "template", "renderer", "parser", "requires"),
            TEXTS.filter(writable),
        ),
    ),
    parameters=st.fixed_dictionaries(
        {},
        optional={
            "stop": st.lists(TEXTS.filter(writable), max_size=3),
            "temperature": st.floats(allow_nan=False, allow_infinity=False),
            "seed": st.integers(-(2**63), 2**63 - 1),
            "use_mmap": st.booleans(),
        },
    ),
    messages=st.lists(
        st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS.filter(writable)),
        max_size=3,
    ),
    license_=st.lists(TEXTS.filter(writable), max_size=3),
    name=st.sampled_from(TEMPLATES.names()),
)
@settings(deadline=None, max_examples=150)
@example(["./a"], {"system": '"\nFROM evil\n'}, {}, [], [], "default")
def test_a_rendered_modelfile_reads_back_as_what_went_in(
    base: list[str],
    texts: dict[str, str],
    parameters: dict[str, object],
    messages: list[tuple[str, str]],
    license_: list[str],
    name: str,
) -> None:
    values: dict[str, Any] = {
        "base": base,
        "parameters": parameters,
        "messages": messages,
        "license": license_,
    }
    said = TEMPLATES.render(name, values | texts)
    family = TEMPLATES.render(name, {"base": ["foo"]})

    template = texts.get("template") or family.template
    own_stops = {} if texts.get("template") else dict(merge_parameters(family.parameters, {}))
    assert said == Modelfile(
        from_=tuple(base),
        adapters=(texts["adapter"],) if texts.get("adapter") else (),
        template=template,
        system=texts.get("system") or None,
        parameters=said.parameters,
        license=tuple(license_),
        messages=tuple(messages),
        renderer=texts.get("renderer") or None,
        parser=texts.get("parser") or None,
        requires=texts.get("requires") or None,
    )
    wanted = {key: value for key, value in (own_stops | parameters).items() if value != []}
    assert merge_parameters(said.parameters, {}) == wanted


@pytest.mark.parametrize(
    ("given_", "checked"),
    [
        ({"temperature": 1, "top_p": 0.5}, {"temperature": 1, "top_p": 0.5}),
        ({"seed": -1, "use_mmap": False}, {"seed": -1, "use_mmap": False}),
        ({"stop": "a"}, {"stop": ["a"]}),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
    ],
)
def test_takes_parameters_of_their_types(
    given_: dict[str, object], checked: dict[str, object]
) -> None:
    assert check_parameters(given_) == checked


INT = "must be a whole number of at most 64 bits"


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"temprature": 1}, "Ollama has no parameter 'temprature'. Did you mean 'temperature'?"),
        ({"x": 1}, f"Ollama has no parameter 'x'. It has {', '.join(PARAMETERS)}."),
        ({"seed": True}, f"The parameter 'seed' {INT}, not True."),
        ({"seed": 1.0}, f"The parameter 'seed' {INT}, not 1.0."),
        ({"seed": "1"}, f"The parameter 'seed' {INT}, not '1'."),
        ({"seed": 2**63}, f"The parameter 'seed' {INT}, not 9223372036854775808."),
        ({"seed": None}, f"The parameter 'seed' {INT}, not None."),
        ({"top_p": True}, "The parameter 'top_p' must be a finite number, not True."),
        ({"top_p": float("nan")}, "The parameter 'top_p' must be a finite number, not nan."),
        ({"use_mmap": 1}, "The parameter 'use_mmap' must be true or false, not 1."),
        ({"stop": 1}, "The parameter 'stop' must be a text or a list of texts, not 1."),
        (
            {"stop": ["a", 1]},
            "The parameter 'stop' must be a text or a list of texts, not ['a', 1].",
        ),
    ],
)
def test_refuses_parameters_that_ollama_would_fail_on_later(
    given_: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelfileError) as raised:
        check_parameters(given_)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("stated", "given_", "merged"),
    [
        ([("top_k", "1"), ("top_k", "+2")], {}, {"top_k": 2}),
        ([("top_p", "1"), ("min_p", ".5e-1")], {}, {"top_p": 1.0, "min_p": 0.05}),
        ([("use_mmap", "F")], {}, {"use_mmap": False}),
        ([("stop", "a"), ("stop", "b")], {}, {"stop": ["a", "b"]}),
        ([("stop", "a"), ("top_k", "1")], {"stop": "b"}, {"stop": ["b"], "top_k": 1}),
        ([("mirostat", "1"), ("low_vram", "maybe")], {}, {}),
    ],
)
def test_merges_a_modelfiles_parameters_with_given_ones(
    stated: list[tuple[str, str]], given_: dict[str, object], merged: dict[str, object]
) -> None:
    assert merge_parameters(stated, given_) == merged


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *[("seed", text) for text in ("1.0", "1_0", "", "٣", "9223372036854775808", "9" * 5000)],
        *[("top_p", text) for text in ("inf", "1e999", "1_0", "e1", ".")],
        *[("use_mmap", text) for text in ("yes", "")],
    ],
)
def test_refuses_a_parameter_whose_text_isnt_its_type(name: str, text: str) -> None:
    with pytest.raises(ModelfileError, match=f"The parameter '{name}' must be"):
        merge_parameters([(name, text)], {})


def test_the_request_is_ollamas_with_types_and_without_empty_keys() -> None:
    bare = create_request(parse("FROM foo"), "new", files={}, adapters={}, from_="foo")
    assert bare == {"model": "new", "from": "foo"}

    full = parse(
        "FROM ./a.gguf\nADAPTER ./b.gguf\nTEMPLATE {{ .Prompt }}\nSYSTEM one\nLICENSE MIT\n"
        "PARAMETER stop a\nPARAMETER stop b\nPARAMETER temperature 0.5\nPARAMETER use_mmap true\n"
        'MESSAGE user " hi"\nRENDERER r\nPARSER p\nREQUIRES 0.14.0\n'
    )
    files, adapters = {"a.gguf": "sha256:1"}, {"b.gguf": "sha256:2"}
    assert create_request(
        full, "new", files=files, adapters=adapters, from_=None, quantize="Q8_0"
    ) == {
        "model": "new",
        "files": {"a.gguf": "sha256:1"},
        "adapters": {"b.gguf": "sha256:2"},
        "template": "{{ .Prompt }}",
        "system": "one",
        "parameters": {"stop": ["a", "b"], "temperature": 0.5, "use_mmap": True},
        "messages": [{"role": "user", "content": " hi"}],
        "license": ["MIT"],
        "quantize": "Q8_0",
        "renderer": "r",
        "parser": "p",
        "requires": "0.14.0",
    }


def test_the_request_refuses_a_parameter_that_ollama_doesnt_have() -> None:
    with pytest.raises(ModelfileError, match="Did you mean 'top_k'"):
        create_request(
            parse("FROM foo\nPARAMETER topk 1"), "new", files={}, adapters={}, from_="foo"
        )


def test_the_default_writes_whatever_is_given() -> None:
    said = TEMPLATES.render(
        "default",
        {
            "base": ["./a b.gguf", "./mmproj.gguf"],
            "adapter": "./lora.gguf",
            "system": "Be short.\n",
            "template": "{{ .Prompt }}",
            "parameters": {"stop": ["a", "b"], "temperature": 0.7, "use_mmap": True},
            "license": 'The "MIT"\nlicence\n',
            "messages": [("user", "Hi"), ("assistant", " ")],
            "renderer": "r",
            "parser": "p",
            "requires": "0.14.0",
        },
    )
    assert said.text == (
        "FROM ./a b.gguf\nFROM ./mmproj.gguf\nADAPTER ./lora.gguf\n"
        "TEMPLATE {{ .Prompt }}\n"
        "PARAMETER stop a\nPARAMETER stop b\nPARAMETER temperature 0.7\nPARAMETER use_mmap true\n"
        'SYSTEM "Be short.\n"\n'
        'MESSAGE user Hi\nMESSAGE assistant " "\n'
        "RENDERER r\nPARSER p\nREQUIRES 0.14.0\n"
        'LICENSE """The "MIT"\nlicence\n"""\n'
    )


def test_the_default_alone_leaves_the_chat_template_to_ollama() -> None:
    assert TEMPLATES.render("default", {"base": ["./a.gguf"]}).text == "FROM ./a.gguf\n"


FAMILIES = {
    "chatml": '''TEMPLATE """{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{ if .Prompt }}<|im_start|>user
{{ .Prompt }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ .Response }}<|im_end|>
"""
PARAMETER stop <|im_start|>
PARAMETER stop <|im_end|>
''',
    "gemma": '''TEMPLATE """<start_of_turn>user
{{ if .System }}{{ .System }}

{{ end }}{{ .Prompt }}<end_of_turn>
<start_of_turn>model
{{ .Response }}<end_of_turn>
"""
PARAMETER stop <start_of_turn>
PARAMETER stop <end_of_turn>
''',
    "llama3": '''TEMPLATE """{{ if .System }}<|start_header_id|>system<|end_header_id|>

{{ .System }}<|eot_id|>{{ end }}{{ if .Prompt }}<|start_header_id|>user<|end_header_id|>

{{ .Prompt }}<|eot_id|>{{ end }}<|start_header_id|>assistant<|end_header_id|>

{{ .Response }}<|eot_id|>"""
PARAMETER stop <|start_header_id|>
PARAMETER stop <|end_header_id|>
PARAMETER stop <|eot_id|>
''',
    "mistral": '''TEMPLATE """[INST] {{ if .System }}{{ .System }}

{{ end }}{{ .Prompt }}[/INST]{{ if .Response }} {{ .Response }}</s>{{ end }}"""
PARAMETER stop [INST]
PARAMETER stop [/INST]
''',
    "phi3": '''TEMPLATE """{{ if .System }}<|system|>
{{ .System }}<|end|>
{{ end }}{{ if .Prompt }}<|user|>
{{ .Prompt }}<|end|>
{{ end }}<|assistant|>
{{ .Response }}<|end|>
"""
PARAMETER stop <|system|>
PARAMETER stop <|user|>
PARAMETER stop <|assistant|>
PARAMETER stop <|end|>
''',
    "phi4": '''TEMPLATE """\
{{ if .System }}<|im_start|>system<|im_sep|>{{ .System }}<|im_end|>{{ end -}}
{{ if .Prompt }}<|im_start|>user<|im_sep|>{{ .Prompt }}<|im_end|>{{ end -}}
<|im_start|>assistant<|im_sep|>{{ .Response }}<|im_end|>"""
PARAMETER stop <|im_start|>
PARAMETER stop <|im_sep|>
PARAMETER stop <|im_end|>
''',
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_adds_its_template_and_stops(family: str) -> None:
    values = {"base": ["./a.gguf"], "adapter": "./b.gguf", "system": "Be short."}
    assert TEMPLATES.render(f"{family}.modelfile", values).text == (
        f"FROM ./a.gguf\nADAPTER ./b.gguf\n{FAMILIES[family]}SYSTEM Be short.\n"
    )


def test_every_family_that_is_there_is_shown_here() -> None:
    assert TEMPLATES.names() == sorted([*FAMILIES, "default"])


@pytest.mark.parametrize(
    ("asked", "template", "parameters"),
    [
        ({"template": "{{ .Prompt }}"}, "{{ .Prompt }}", ()),
        ({"parameters": {"stop": ["x"]}}, None, (("stop", "x"),)),
        ({"parameters": {"stop": []}}, None, ()),
        (
            {"parameters": {"top_k": 1}},
            None,
            (("stop", "<start_of_turn>"), ("stop", "<end_of_turn>"), ("top_k", "1")),
        ),
    ],
)
def test_what_was_asked_for_goes_before_the_familys(
    asked: dict[str, object], template: str | None, parameters: tuple[tuple[str, str], ...]
) -> None:
    said = TEMPLATES.render("gemma", {"base": ["foo"]} | asked)
    familys = TEMPLATES.render("gemma", {"base": ["foo"]}).template
    assert (said.template, said.parameters) == (template or familys, parameters)


TOKENS = {
    "llama3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "chatml": ["<|im_start|>", "<|im_end|>"],
    "phi4": ["<|im_start|>", "<|im_end|>", "<|im_sep|>"],
    "gemma": ["<start_of_turn>", "<end_of_turn>"],
    "phi3": ["<|user|>", "<|assistant|>", "<|end|>"],
    "mistral": ["[INST]", "[/INST]"],
}
UNKNOWN = (
    "No chat template or known chat tokens, and the architecture ({}) doesn't tell how it chats;"
    " the field 'modelfile_template' can name a family."
)


@pytest.mark.parametrize(
    ("chat", "name", "reason"),
    [
        (
            Chat("llama", has_template=True, special_tokens=frozenset(TOKENS["llama3"])),
            *("default", "The model carries its own chat template."),
        ),
        *[
            (
                Chat("llama", special_tokens=frozenset([*tokens, "</s>"])),
                *(family, "the vocabulary has"),
            )
            for family, tokens in TOKENS.items()
        ],
        (
            Chat("gemma2", special_tokens=frozenset(TOKENS["chatml"])),
            *("chatml", "No chat template, but the vocabulary has <|im_start|>, <|im_end|>."),
        ),
        (
            Chat(
                "llama",
                special_tokens=frozenset(TOKENS["llama3"] + TOKENS["chatml"]),
                end_tokens=("<|im_end|>",),
            ),
            *("chatml", "No chat template, but the model ends its turns with <|im_end|>."),
        ),
        (
            Chat(
                "qwen2",
                special_tokens=frozenset(TOKENS["chatml"] + TOKENS["llama3"]),
                end_tokens=("<|eot_id|>",),
            ),
            *("llama3", "No chat template, but the model ends its turns with <|eot_id|>."),
        ),
        (
            Chat("phi3", special_tokens=frozenset(TOKENS["phi4"]), end_tokens=("<|im_end|>",)),
            *("phi4", "No chat template, but the model ends its turns with <|im_end|>."),
        ),
        (
            Chat("llama", special_tokens=frozenset(["<|im_end|>"]), end_tokens=("<|im_end|>",)),
            *("default", UNKNOWN.format("llama")),
        ),
        (
            Chat("qwen2", special_tokens=frozenset(["<|im_start|>"])),
            *("chatml", "No chat template or known chat tokens, but a qwen2 model."),
        ),
        (Chat("gemma3"), "gemma", "but a gemma3 model."),
        (Chat("phi3"), "phi3", "but a phi3 model."),
        (Chat("mistral3"), "mistral", "but a mistral3 model."),
        (Chat("llama", special_tokens=frozenset(["</s>"])), "default", UNKNOWN.format("llama")),
        (Chat(), "default", UNKNOWN.format("unknown")),
    ],
)
def test_chooses_by_chat_template_then_end_then_tokens_then_architecture(
    chat: Chat, name: str, reason: str
) -> None:
    chosen, why = TEMPLATES.choose(chat)
    assert chosen == name
    assert reason in why
    assert chosen in TEMPLATES.names()


def owners(folder: Path, text: str, name: str = "own") -> Templates:
    (folder / f"{name}.modelfile").write_text(text)
    return Templates(folder, OURS)


@pytest.mark.parametrize(
    ("text", "modelfile"),
    [
        ("FROM [= base[0] =]\nSYSTEM Ours\n", "FROM ./a.gguf\nSYSTEM Ours\n"),
        (
            '[% extends "_body.modelfile" %]\n[% block stops %]\n'
            "PARAMETER stop [= '[' ~ 'END]\\n' =]\nPARAMETER seed [= 40 + 2 =]\n[% endblock %]",
            'FROM ./a.gguf\nPARAMETER stop "[END]\n"\nPARAMETER seed 42\n',
        ),
        ('[% include "llama3.modelfile" %]', "FROM ./a.gguf\n" + FAMILIES["llama3"]),
    ],
)
def test_an_owner_adds_a_template_by_a_file(tmp_path: Path, text: str, modelfile: str) -> None:
    templates = owners(tmp_path, text)
    assert "own" in templates.names()
    assert templates.render("own", {"base": ["./a.gguf"]}).text == modelfile


def test_an_owners_file_hides_ours_at_once(tmp_path: Path) -> None:
    templates = Templates(tmp_path / "absent", tmp_path, OURS)
    assert templates.render("default", {"base": ["foo"]}).text == "FROM foo\n"
    (tmp_path / "default.modelfile").write_text("FROM [= base[0] =]\nSYSTEM Ours\n")
    assert templates.render("default", {"base": ["foo"]}).text == "FROM foo\nSYSTEM Ours\n"
    assert templates.names() == TEMPLATES.names()


@pytest.mark.parametrize(
    "name",
    ["", "none", "_body", "_body.modelfile", ".hidden", "../modelfiles/default", "sub/own", "*"],
)
def test_only_names_that_are_listed_are_templates(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    owners(tmp_path / "sub", "FROM [= base[0] =]\n")
    templates = owners(tmp_path, "FROM [= base[0] =]\n", ".hidden")
    known = "There are chatml, default, gemma, llama3, mistral, phi3, phi4."
    with pytest.raises(ModelfileError, match=re.escape(known)):
        templates.render(name, {"base": ["foo"]})


BASE = "FROM [= base[0] =]\n"
GIVEN = {"base": ["foo"], "adapter": None}


@pytest.mark.parametrize(
    ("text", "given_", "message"),
    [
        (BASE + "[% if %]", {}, "The template 'own' fails: line 2 of own.modelfile: Expected"),
        (BASE + "SYSTEM [= sytem =]\n", {}, "The template 'own' fails: 'sytem' is undefined."),
        (BASE + "[% if sytem %][% endif %]", {}, "fails: 'sytem' is undefined."),
        (BASE + "[= 1 // 0 =]", {}, "The template 'own' fails: ZeroDivisionError."),
        (BASE + "[% set _ = base.append('x') %]", {}, "The template 'own' fails:"),
        (BASE + "[= ''.__class__.__mro__ =]", {}, "is unsafe."),
        ('[% extends "../secret.modelfile" %]', {}, "The template 'own' fails:"),
        ('[% extends "own.modelfile" %]', {}, "The template 'own' fails: RecursionError."),
        (BASE + "SYSTEM [= system =]\n", {}, "can only print texts and numbers, not None."),
        (BASE + "SYSTEM [= base =]\n", {}, "can only print texts and numbers, not ['foo']."),
        (BASE + "SYSTEN x\n", {}, "The template 'own' writes no Modelfile. Line 2: 'SYSTEN' is no"),
        ("SYSTEM x\n", {}, "The template 'own' writes no Modelfile. The Modelfile has no FROM"),
        ("FROM bar\n", {}, "The template 'own' doesn't write FROM as given."),
        (BASE + "FROM bar\n", {}, "doesn't write FROM as given."),
        (BASE + "ADAPTER x\n", {}, "doesn't write ADAPTER as given."),
        (
            BASE,
            {"adapter": "x", "system": "x", "license": "x", "parameters": {"seed": 1}}
            | {"messages": [("user", "x")], "template": "x", "parser": "x"},
            "write ADAPTER, LICENSE, MESSAGE, PARAMETER, TEMPLATE, SYSTEM, PARSER as given.",
        ),
        (BASE + 'SYSTEM "[= system =]"\n', {"system": "a\nb"}, "doesn't write SYSTEM as given."),
        (BASE + "SYSTEM [= system =]\n", {"system": 'a"""\nb'}, "ends with three double quotes"),
        (BASE, {"parameters": {"x\nFROM y": 1}}, "Ollama has no parameter"),
    ],
)
def test_an_owners_template_that_fails_says_why(
    tmp_path: Path, text: str, given_: dict[str, object], message: str
) -> None:
    (tmp_path / "secret.modelfile").write_text("secret")
    folder = tmp_path / "owners"
    folder.mkdir()
    with pytest.raises(ModelfileError) as raised:
        owners(folder, text).render("own", GIVEN | given_)
    assert message in str(raised.value)
    assert str(tmp_path) not in str(raised.value)
