"""The Modelfile templates: chosen for a model, and rendered so that every value reads back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from app.modelfile.grammar import SAID_ONCE, Modelfile, ModelfileError, parse, quote
from app.modelfile.parameters import check_parameters

SUFFIX = ".modelfile"

# What a model was taught to end its turn with: the first family of that token whose tokens the
# vocabulary has, all of them. A model that was tuned to another family's turns keeps the tokens of
# its own.
_BY_END: Mapping[str, tuple[str, ...]] = {
    "<|im_end|>": ("phi4", "chatml"),
    "<|eot_id|>": ("llama3",),
    "<end_of_turn>": ("gemma",),
    "<|end|>": ("phi3",),
}
# Which family a vocabulary belongs to: the first one whose tokens it has, all of them.
_BY_TOKENS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("llama3", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    ("phi4", ("<|im_start|>", "<|im_sep|>", "<|im_end|>")),
    ("chatml", ("<|im_start|>", "<|im_end|>")),
    ("gemma", ("<start_of_turn>", "<end_of_turn>")),
    ("phi3", ("<|user|>", "<|assistant|>", "<|end|>")),
    ("mistral", ("[INST]", "[/INST]")),
)
# Not llama: Llama 2 and 3, Mistral, Vicuna and others share it, and each chats differently.
_BY_ARCHITECTURE: Mapping[str, str] = {
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3n"), "gemma"),
    **dict.fromkeys(("qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen3moe"), "chatml"),
    "phi3": "phi3",
    "mistral3": "mistral",
}


@dataclass(frozen=True)
class Chat:
    """What a model's files tell of how it chats.

    `has_template`: they hold a chat template (Jinja), which `knows_tools` or doesn't.
    `special_tokens` are those of its vocabulary that mark turns; `end_tokens` those of them that
    end one, the likeliest first.
    """

    architecture: str | None = None
    has_template: bool = False
    knows_tools: bool = False
    special_tokens: frozenset[str] = frozenset()
    end_tokens: tuple[str, ...] = ()


class Templates:
    """The Modelfile templates in some folders; a file hides one of its name in a later folder.

    A template is a Jinja2 file `<name>.modelfile`; one that begins with an underscore is only for
    others to extend. The marks are `[= value =]`, `[% statement %]` and `[# comment #]`, so that a
    TEMPLATE's Go text, with its `{{ }}` and tokens such as `<|end|>` or `[INST]`, stands there as
    it is. All that `[= =]` prints is quoted for the Modelfile grammar: put no quotes around it, and
    print neither super() nor macros, whose text would be quoted as one value.
    """

    def __init__(self, *folders: Path) -> None:
        self._folders = folders
        self._environment = ImmutableSandboxedEnvironment(
            loader=FileSystemLoader(folders),
            cache_size=0,  # so that an owner's file counts from the moment it is there
            undefined=StrictUndefined,
            finalize=_spelled,
            variable_start_string="[=",
            variable_end_string="=]",
            block_start_string="[%",
            block_end_string="%]",
            comment_start_string="[#",
            comment_end_string="#]",
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )

    def names(self) -> list[str]:
        """The names of the templates there are, without their suffix."""
        files = (file for folder in self._folders for file in folder.glob(f"*{SUFFIX}"))
        return sorted({file.stem for file in files if not file.name.startswith(("_", "."))})

    def require(self, name: str) -> str:
        """The template's name without its suffix. Raises ModelfileError where there is none."""
        name = name.removesuffix(SUFFIX)
        if name not in self.names():
            known = ", ".join(self.names())
            raise ModelfileError(f"There is no template {shortened(name)}. There are {known}.")
        return name

    def choose(self, chat: Chat) -> tuple[str, str]:
        """The name of the template that suits a model, and a sentence that says why."""
        if chat.has_template:
            return "default", "The model carries its own chat template."
        families = dict(_BY_TOKENS)
        for end in chat.end_tokens:
            for name in _BY_END.get(end, ()):
                if chat.special_tokens.issuperset(families[name]):
                    return name, f"No chat template, but the model ends its turns with {end}."
        for name, tokens in _BY_TOKENS:
            if chat.special_tokens.issuperset(tokens):
                return name, f"No chat template, but the vocabulary has {', '.join(tokens)}."
        family = _BY_ARCHITECTURE.get(chat.architecture or "")
        if family is not None:
            return (
                family,
                f"No chat template or known chat tokens, but a {chat.architecture} model.",
            )
        return "default", (
            "No chat template or known chat tokens, and the architecture"
            f" ({chat.architecture or 'unknown'}) doesn't tell how it chats;"
            " the field 'modelfile_template' can name a family."
        )

    def render(self, name: str, values: Mapping[str, object]) -> Modelfile:
        """The Modelfile that the template `name` (with or without its suffix) makes of the values.

        They are `base` (what FROM says, a list) and, where they are set, `adapter`, `system`,
        `template`, `renderer`, `parser` and `requires` (texts), `license` (a text or a list),
        `parameters` (by name) and `messages` (role and content). A template always sees them all:
        None for a text that isn't set, and every parameter as a list of its values.

        The Modelfile reads back as exactly what went in. Raises ModelfileError where a value can't
        be written, where there is no such template, and where one fails or leaves a value out.
        """
        name = self.require(name)
        given = _complete(values)
        try:
            text = self._environment.get_template(name + SUFFIX).render(given)
        except ModelfileError:
            raise
        except TemplateSyntaxError as error:
            where = f"line {error.lineno} of {error.name}"
            raise ModelfileError(
                f"The template {name!r} fails: {where}: {error.message}"
            ) from error
        except Exception as error:  # an owner's expressions can raise anything
            reason = error.message if isinstance(error, TemplateError) else type(error).__name__
            raise ModelfileError(f"The template {name!r} fails: {reason}.") from error
        return _checked(text, name, given)


def _spelled(value: object) -> str:
    return quote(_plain(value))


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | str):
        return str(value)
    # Formatting an undefined name raises Jinja2's own error, which says the name.
    raise ModelfileError(f"A Modelfile template can only print texts and numbers, not {value}.")


def _complete(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a template sees: all keys, and lists where there can be several."""
    license_ = values.get("license") or []
    parameters = check_parameters(values.get("parameters") or {})
    return {
        "base": list(values["base"]),
        "license": [license_] if isinstance(license_, str) else list(license_),
        "messages": [(role, content) for role, content in values.get("messages") or ()],
        "parameters": {
            name: value if isinstance(value, list) else [value]
            for name, value in parameters.items()
        },
        **{name: values.get(name) or None for name in ("adapter", *SAID_ONCE)},
    }


def _checked(text: str, name: str, given: Mapping[str, Any]) -> Modelfile:
    """What the text says. Raises ModelfileError unless that is all that was given, and no other
    model."""
    try:
        said = parse(text)
    except ModelfileError as error:
        raise ModelfileError(f"The template {name!r} writes no Modelfile. {error}") from error
    parameters = {
        (parameter, _plain(value))
        for parameter, of_it in given["parameters"].items()
        for value in of_it
    }
    right = {
        "FROM": list(said.from_) == given["base"],
        "ADAPTER": list(said.adapters) == [adapter for adapter in (given["adapter"],) if adapter],
        "LICENSE": set(given["license"]) <= set(said.license),
        "MESSAGE": set(given["messages"]) <= set(said.messages),
        "PARAMETER": parameters <= set(said.parameters),
        **{key.upper(): given[key] in (None, getattr(said, key)) for key in SAID_ONCE},
    }
    wrong = [instruction for instruction, is_right in right.items() if not is_right]
    if wrong:
        raise ModelfileError(f"The template {name!r} doesn't write {', '.join(wrong)} as given.")
    return said
