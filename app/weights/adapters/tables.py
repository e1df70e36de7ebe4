"""The embedding and the output, which an adapter may replace, enlarge, or part from each other.

A base whose output is its embedding ("tied") has no tensor of its own for it. Trained apart, it
gets one; PEFT trains the embedding alone where nothing says otherwise, so that the output stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from app.weights.adapters.low_rank import (
    Added,
    Edit,
    EditedRows,
    Normed,
    NormedColumns,
    Replaced,
    ReplacedSingly,
    with_rows,
)
from app.weights.adapters.targets import places
from app.weights.model import Model, Rows, Tensor, WeightsError
from app.weights.rows import Indices, StoredRows

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
COMPARED_BYTES = 2**22


@dataclass
class Table:
    """What an adapter does to the embedding, or the output."""

    whole: Rows | None = None
    added: list[tuple[Rows, Rows | None, bool]] = field(default_factory=list)
    tokens: tuple[Rows, Indices] | None = None

    @property
    def is_changed(self) -> bool:
        return self.whole is not None or bool(self.added)

    def rows_on(self, before: Rows, name: str) -> Rows:
        """The changed rows. Raises WeightsError where shapes don't agree."""
        count = self.whole.count if self.whole is not None else before.count
        edits: list[Edit] = []
        if self.whole is not None:
            _check(self.whole, before.columns, count, name)
            edits.append(Replaced(self.whole))
        for rows, lengths, by_column in self.added:
            _check(rows, before.columns, count, name)
            if lengths is None:
                edits.append(Added(rows))
            elif by_column:
                edits.append(NormedColumns(rows, EditedRows(before, tuple(edits), count), lengths))
            else:
                edits.append(Normed(rows, lengths))
        if self.tokens is not None:
            rows, numbers = self.tokens
            if rows.columns != before.columns or rows.count != len(numbers):
                raise WeightsError(f"The adapter's trained tokens don't fit {name}.")
            if len(numbers) and int(numbers.max()) >= count:
                raise WeightsError(
                    f"The adapter trains token {int(numbers.max())}, but {name} has {count} rows."
                )
            edits.append(ReplacedSingly(rows, numbers, count))
        return EditedRows(before, tuple(edits), count)


def apply_tables(
    model: Model, tables: Mapping[str, Table], shared: bool
) -> tuple[Model, int | None]:
    """The model with its tables changed, and how many rows they have if that is more than before.

    `shared` says that the two are trained as one where the base has them so.
    Raises WeightsError where the architecture has no place for what was trained.
    """
    embedding, output = tables.get(EMBEDDING, Table()), tables.get(OUTPUT, Table())
    if EMBEDDING not in model.tensors:
        raise WeightsError("The base model has no embedding.")
    base = model.tensors[EMBEDDING]
    tied = OUTPUT not in model.tensors
    changed_output = output.is_changed or output.tokens is not None
    if tied and changed_output and embedding.is_changed and (shared or _same(embedding, output)):
        changed_output, shared = False, True
    count = _row_count(embedding, base)
    grown = count > base.rows.count
    notes = []
    tensors = dict(model.tensors)
    if embedding.is_changed or embedding.tokens is not None:
        tensors[EMBEDDING] = with_rows(base, embedding.rows_on(base.rows, EMBEDDING))
    parted = tied and embedding.is_changed and not changed_output and not shared and not grown
    if changed_output or parted:
        if tied:
            _require_output(model)
            notes.append(
                "The base model's output was its embedding; trained apart, it got a tensor of its"
                " own (output.weight)."
            )
        before = replace(base if tied else model.tensors[OUTPUT], name=OUTPUT)
        tensors[OUTPUT] = (
            with_rows(before, output.rows_on(before.rows, OUTPUT)) if changed_output else before
        )
    _check_counts(tensors)
    return replace(model, tensors=tensors, notes=(*model.notes, *notes)), count if grown else None


def _row_count(embedding: Table, base: Tensor) -> int:
    """How many tokens the changed embedding has: at least as many as the base's."""
    count = base.rows.count if embedding.whole is None else embedding.whole.count
    if count < base.rows.count:
        raise WeightsError(
            f"The adapter's embedding has {count} rows, but the base model's {base.rows.count}.",
            "Send it with the base model that it was trained on.",
        )
    return count


def _check(rows: Rows, columns: int, count: int, name: str) -> None:
    if (rows.count, rows.columns) != (count, columns):
        raise WeightsError(
            f"The adapter's change of {name} makes {rows.count}x{rows.columns} where the base has"
            f" {count}x{columns}.",
            "Send it with the base model that it was trained on.",
        )


def _require_output(model: Model) -> None:
    if not places("lm_head.weight", model):
        raise WeightsError(
            f"The adapter trains the embedding and the output apart, but a {model.architecture}"
            " model has one tensor for both.",
            "Train it with ensure_weight_tying=True, or leave embed_tokens and lm_head out.",
        )


def _check_counts(tensors: Mapping[str, Tensor]) -> None:
    if OUTPUT in tensors and tensors[OUTPUT].rows.count != tensors[EMBEDDING].rows.count:
        raise WeightsError(
            f"The embedding would have {tensors[EMBEDDING].rows.count} rows, but the output"
            f" {tensors[OUTPUT].rows.count}.",
            "Save both with the adapter: save_pretrained(folder, save_embedding_layers=True).",
        )


def _same(embedding: Table, output: Table) -> bool:
    """Whether both are replaced by the same bytes."""
    one, other = embedding.whole, output.whole
    if embedding.added or output.added or output.tokens is not None:
        return False
    if not isinstance(one, StoredRows) or not isinstance(other, StoredRows):
        return False
    if (one.type, one.columns, one.count) != (other.type, other.columns, other.count):
        return False
    return all(
        bytes(one.stored(begin, min(begin + COMPARED_BYTES, one.nbytes)))
        == bytes(other.stored(begin, min(begin + COMPARED_BYTES, one.nbytes)))
        for begin in range(0, one.nbytes, COMPARED_BYTES)
    )
