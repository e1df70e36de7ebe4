"""What a model is, in one JSON object: for those who look before they create it."""

from collections.abc import Mapping
from typing import Any

from app.modelfile.grammar import ModelfileError
from app.modelfile.templates import Templates
from app.planning.contents import unused_pickles
from app.planning.options import Options
from app.planning.plan import make_plan
from app.planning.selection import Selection
from app.planning.unusable import Unusable


def describe_model(
    name: str,
    selection: Selection,
    files: Mapping[str, Mapping[str, Any]],
    templates: Templates,
    created_at: str | None,
) -> dict[str, Any]:
    """The description of the model `name`; `files` has `size` and `sha256` of each file by name.

    `problems` are sentences: what keeps it from being created as it is, what may not work as it was
    meant, and what is ignored.
    """
    kinds = selection.kinds()
    described: dict[str, Any] = {
        "model": name,
        "created_at": created_at,
        **selection.facts(),
        "files": [
            {"name": file, "kind": kinds.get(file, "other"), **facts}
            for file, facts in files.items()
        ],
        "template": None,
        "template_reason": None,
    }
    problems = [
        f"{file} is a Python pickle: it is kept, but never sent to Ollama."
        for file in unused_pickles(files)
        if file not in kinds
    ]
    try:
        plan = make_plan(selection, Options(), templates, None)
    except (Unusable, ModelfileError) as error:
        hint = getattr(error, "hint", None)
        problems += [*selection.notes, " ".join(filter(None, (str(error), hint)))]
    else:
        described |= {"template": plan.modelfile_template, "template_reason": plan.template_reason}
        problems += plan.problems
    return {**described, "problems": problems}
