"""Fewer units or rows against fewer bits, and both together, in PyTorch and in ONNX Runtime: the table of the README.

    OMP_NUM_THREADS=1 python -m benchmarks.rivals [--seconds 40]

Every figure says how many times as fast as the dense model in PyTorch another is, batch 1 / batch 32: the LSTM with the
linear layer that reads it, from a zero state, 64 steps, timed as `python -m pruner measure` does, in turns and in a process
of its own; ONNX Runtime gets the part of the graph that gives what the linear layer does. What is left of every layer is
told; `units` lie in the files that `prune --granularity units --consumer linear.weight --onnx` writes, `rows` as
`RowCompactLSTM` in PyTorch, and at full size with zeros in ONNX. Below stand the targets that the project has set itself.
"""

import argparse
from collections.abc import Iterator

import onnxruntime
import safetensors.torch
import torch
from torch import nn

from benchmarks import rows as benchmark
from benchmarks.quality import processor
from pruner import Checkpoint, Recipe, open_checkpoint
from pruner.compact.costs import cost_of_form
from pruner.examples import named
from pruner.exports.onnx.files import write_onnx_files
from pruner.exports.speed.models import Model, dense_of, made_files, model_of
from pruner.exports.speed.table import Row, Table, side_by_side
from pruner.lstm.timing import in_words
from pruner.pipeline import prune

SECONDS = 40.0  # for each batch size, number of threads and model
BRIEFLY, TAKES = 15.0, 80  # the same among all benchmarks, and how long that takes in all
CONSUMER = "linear.weight"
LEFT = {
    "half the units": Recipe(0.5, "units", consumers=(CONSUMER,)),
    "a quarter of the units": Recipe(0.75, "units", consumers=(CONSUMER,)),
    "half the rows": Recipe(0.5, "rows"),
}
# How many times as fast half the units in int8 should be: as dense int8 in either batch, as dense PyTorch by batch size.
TARGETS: dict[str, tuple[float, dict[int, float]]] = {"the example": (2.3, {}), "H = 512": (2.8, {1: 12.0, 32: 8.0})}
SMALL_ENOUGH = 0.08  # of the dense checkpoint's bytes for the int8 file of half the example's units


def wide() -> Checkpoint:
    """2 layers of 512 units, input 256, under a linear layer, untrained."""
    torch.manual_seed(0)
    modules = {"lstm": nn.LSTM(256, 512, 2), "linear": nn.Linear(512, 96)}
    tensors = {f"{name}.{key}": value for name, each in modules.items() for key, value in each.state_dict().items()}
    return open_checkpoint(safetensors.torch.save(tensors), "wide.safetensors")


def models_of(checkpoint: Checkpoint) -> list[Model]:
    """The dense model, and what is left of it, all with the linear layer, which a recipe of rows cannot name."""
    models = [model_of("dense", dense_of(checkpoint, None, (CONSUMER,)), "masked", checkpoint.size, None)]
    consumers = {checkpoint.lstms[0].name: [CONSUMER]}
    for name, recipe in LEFT.items():
        form = prune(checkpoint, recipe).forms["compact"]
        parts = form.layouts, form.tensors(checkpoint), consumers
        onnx, files = made_files(lambda folder, parts=parts: write_onnx_files(folder, *parts, {}))
        models.append(Model(name, *parts, cost_of_form(checkpoint, form).bytes, None, onnx, files))
    return models


def cells(table: Table, row: Row) -> list[str]:
    """Bytes as a share of the dense checkpoint, and the figures of all batch sizes with one thread."""
    share = (row.size or 0) / (table.rows[0].size or 1)
    one = [in_words(figure) for (_, threads), figure in zip(table.settings, row.faster, strict=True) if threads == 1]
    return [f"{share:.0%}", " / ".join(one)]


def judged(title: str, table: Table) -> Iterator[benchmark.Row]:
    """What was reached of the targets."""
    over_int8, over_torch = TARGETS[title]
    by_title = {row.title: row for row in table.rows}
    dense, half = by_title["dense, ONNX Runtime, int8"], by_title["half the units, ONNX Runtime, int8"]
    for (batch_size, threads), bits, both in zip(table.settings, dense.faster, half.faster, strict=True):
        if threads == 1:
            gain, case = None if bits is None or both is None else both / bits, f"{title}, batch {batch_size}"
            yield benchmark.Row(f"{case}: half the units in int8 over dense int8", gain, over_int8, at_least=True)
            if over_torch:
                target = over_torch[batch_size]
                yield benchmark.Row(f"{case}: half the units in int8 over dense PyTorch", both, target, at_least=True)
    share = (half.size or 0) / (table.rows[0].size or 1)
    wanted = SMALL_ENOUGH if title == "the example" else None
    yield benchmark.Row(f"{title}: bytes of half the units in int8 over dense ones", share, wanted)


def tables_of(seconds: float) -> dict[str, Table]:
    opened = {"the example": named("pydocs-chars").open(), "H = 512": wide()}
    return {title: side_by_side(models_of(each), seconds=seconds) for title, each in opened.items()}


def rows() -> Iterator[benchmark.Row]:
    for title, table in tables_of(BRIEFLY).items():
        yield from judged(title, table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each batch size and model")
    seconds = parser.parse_args().seconds
    print(f"{processor()}, torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}")
    tables = tables_of(seconds)
    columns = [column for title in tables for column in (f"{title}: bytes", f"{title}: batch 1 / 32")]
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for side in zip(*(table.rows for table in tables.values()), strict=True):
        found = [cell for table, row in zip(tables.values(), side, strict=True) for cell in cells(table, row)]
        print(f"| {side[0].title} | {' | '.join(found)} |")
    print()
    for title, table in tables.items():
        print("\n".join(row.told() for row in judged(title, table)))


if __name__ == "__main__":
    main()
