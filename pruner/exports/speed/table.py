"""Models side by side: what each takes on disk, how many times as fast it is as the first one in PyTorch, how good it is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pruner.errors import label
from pruner.exports.onnx.facts import DECLINED, FLOAT, INT8
from pruner.exports.onnx.parts import parts_of
from pruner.exports.speed.apart import Contender, Timed, timed_apart
from pruner.exports.speed.models import Model
from pruner.exports.speed.runnable import in_onnx_runtime, in_torch
from pruner.lstm.timing import in_words, times_as_fast
from pruner.progress import Progress, silent

SECONDS = 2.0  # for each setting, all models together
NUMBERS = {FLOAT: "float", INT8: "int8"}
NOTES = (
    "Times as fast as the first row: random steps, 64 a sequence, from a zero state; models in turns, in a process of "
    "their own. PyTorch’s bytes are those of the whole checkpoint, ONNX files hold the LSTMs and the matrices named to "
    "read them, and are cut to what gives the answers of these."
)


@dataclass(frozen=True)
class Row:
    """A model in one of its ways to be run: `size` of the file that one ships in bytes, `faster` than the first row by
    setting, None where the machine was too busy to tell, and `reason` why it is not timed, if so."""

    model: str
    runtime: str
    numbers: str
    size: int | None
    quality: float | None
    faster: tuple[float | None, ...]
    reason: str | None = None

    @property
    def title(self) -> str:
        return f"{self.model}, {self.runtime}" + (", int8" if self.numbers == "int8" else "")


@dataclass(frozen=True)
class Table:
    """Rows, and the batch sizes and numbers of threads that they were timed with."""

    settings: tuple[tuple[int, int], ...]
    rows: tuple[Row, ...]

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "settings": [{"batch_size": batch_size, "threads": threads} for batch_size, threads in self.settings],
            "rows": [
                {
                    "model": row.model,
                    "runtime": row.runtime,
                    "numbers": row.numbers,
                    "bytes": row.size,
                    "quality": row.quality,
                    "faster": list(row.faster),
                    "reason": row.reason,
                }
                for row in self.rows
            ],
        }

    def words(self, quality: str | None) -> tuple[list[str], list[list[str]]]:
        """Titles of columns and cells for people; the quality under its name, if there is one."""
        settings = [f"batch {size}, {threads} thread{'s' * (threads > 1)}" for size, threads in self.settings]
        cells = []
        for row in self.rows:
            size = "–" if row.size is None else f"{row.size:,}"
            rated = "–" if row.quality is None else f"{row.quality:.4f}"
            faster = ["–" if row.reason else in_words(figure) for figure in row.faster]
            cells.append([row.title, size, *faster, *([rated] if quality else [])])
        return ["", "bytes", *settings, *([quality] if quality else [])], cells

    @property
    def reasons(self) -> list[str]:
        """Why rows are not timed, a sentence each."""
        return list(
            dict.fromkeys(f"{row.model}, {row.runtime}: {label(row.reason, 300)}" for row in self.rows if row.reason)
        )


def side_by_side(models: Sequence[Model], progress: Progress = silent, seconds: float = SECONDS) -> Table:
    """Time models, the dense one first, for so many seconds in each setting.

    Raises PrunerError as `apart.timed_apart` does.
    """
    contenders: dict[str, Contender] = {}
    rows = [row for model in models for row in _rows(model, contenders)]
    timed = timed_apart(contenders, seconds, progress)
    progress(1.0, "Done")
    filled = [replace(row, faster=_faster(row, rows[0], timed)) for row in rows]
    return Table(tuple((each.batch_size, each.threads) for each in timed), tuple(filled))


def _rows(model: Model, contenders: dict[str, Contender]) -> list[Row]:
    """The rows of a model, whose contenders are added under the titles of theirs."""
    first = Row(model.name, "PyTorch", "float", model.size, model.quality, ())
    contenders[first.title] = in_torch(model.layouts, model.tensors, model.consumers)
    rows = [first]
    for file, numbers in NUMBERS.items():
        row = Row(model.name, "ONNX Runtime", numbers, None, None, (), model.onnx.get(DECLINED))
        if row.reason is None:
            facts = model.onnx["files"][file]
            row = replace(row, size=facts["bytes"], quality=facts.get("quality", {}).get("value"))
            parts = parts_of(model.layouts, model.tensors, model.onnx["consumers"])
            contender = in_onnx_runtime(model.files[file], parts, model.onnx["batch_first"])
            if contender is None:
                row = replace(row, reason="it holds LSTMs, which read all steps at once, and cells, which do not")
            else:
                contenders[row.title] = contender
        rows.append(row)
    return rows


def _faster(row: Row, base: Row, timed: Sequence[Timed]) -> tuple[float | None, ...]:
    if row.reason is not None:
        return (None,) * len(timed)
    return tuple(times_as_fast(each.times[base.title], each.times[row.title]) for each in timed)
