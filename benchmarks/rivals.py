"""Fewer units against fewer bits, and both together: PyTorch, ONNX Runtime in float32 and in int8, one thread of a CPU.

    python -m benchmarks.rivals

Every number says how many times as fast as the dense model in PyTorch another is: the LSTM with the linear layer that reads
it, from a zero state, 64 steps. Runs are taken in turns within one process; of each form's times the median of the lowest
quarter counts, which other work on the machine disturbs least. `half` and `quarter` are the units that are left of every
layer, in the files that `prune --granularity units --consumer linear.weight --onnx` writes. Beside what is measured stand
the targets that the project has set itself.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import onnxruntime
import safetensors.torch
import torch
from torch import Tensor, nn

from benchmarks.compact import seconds
from pruner import Checkpoint, Recipe, open_checkpoint
from pruner.examples import named
from pruner.exports.onnx.building import model_of
from pruner.exports.onnx.parts import parts_of
from pruner.exports.onnx.quantizing import int8_model_of
from pruner.files.runtime.session import session_of
from pruner.pipeline import prune

CONSUMER, LENGTH = "linear.weight", 64
RUNS = {1: 80, 32: 24}  # by batch size
DROPPED = {"dense": 0.0, "half": 0.5, "quarter": 0.75}
COLUMNS = ["dense float", "dense int8", "half torch", "half float", "half int8", "quarter int8"]
# How many times as fast half the units in int8 should be: as dense int8 in either batch, as dense PyTorch by batch size.
TARGETS: dict[str, tuple[float, dict[int, float]]] = {"the example": (2.3, {}), "H = 512": (2.8, {1: 12.0, 32: 8.0})}
SMALL_ENOUGH = 0.08  # of the dense checkpoint's bytes for the int8 file of half the example's units

Form = Callable[[Tensor], Any]


def wide() -> Checkpoint:
    """2 layers of 512 units, input 256, under a linear layer, untrained."""
    modules = {"lstm": nn.LSTM(256, 512, 2), "linear": nn.Linear(512, 96)}
    tensors = {f"{name}.{key}": value for name, each in modules.items() for key, value in each.state_dict().items()}
    return open_checkpoint(safetensors.torch.save(tensors), "wide.safetensors")


def in_torch(lstm: nn.LSTM, weight: Tensor, bias: Tensor) -> Form:
    return lambda inputs: nn.functional.linear(lstm(inputs)[0], weight, bias)


def in_onnx_runtime(model: bytes) -> Form:
    session = session_of(model)
    return lambda inputs: session.run(["linear"], {"input": inputs.numpy()})


def forms_of(checkpoint: Checkpoint) -> tuple[dict[str, Form], dict[str, int]]:
    """{form: how to run it}, and the bytes of the ONNX files among them."""
    forms: dict[str, Form] = {}
    sizes: dict[str, int] = {}
    for name, dropped in DROPPED.items():
        recipe = Recipe(dropped, "units", consumers=(CONSUMER,))
        form = prune(checkpoint, recipe).forms["compact"]
        tensors = form.tensors(checkpoint)
        (lstm,) = checkpoint.lstms
        small = nn.LSTM(lstm.input_size, len(tensors["lstm.bias_ih_l0"]) // 4, lstm.num_layers, batch_first=True)
        small.load_state_dict({standard: tensors[stored] for standard, stored in lstm.tensors.items()})
        model = model_of(parts_of(form.layouts, tensors, {lstm.name: [CONSUMER]}), {"recipe": recipe.to_json()})
        files = {"float": model.SerializeToString(), "int8": int8_model_of(model).SerializeToString()}
        forms[f"{name} torch"] = in_torch(small.eval(), tensors[CONSUMER], tensors["linear.bias"])
        forms |= {f"{name} {kind}": in_onnx_runtime(data) for kind, data in files.items()}
        sizes |= {f"{name} {kind}": len(data) for kind, data in files.items()}
    return forms, sizes


def typical(times: Sequence[float]) -> float:
    """The median of the lowest quarter."""
    return statistics.median(sorted(times)[: max(1, len(times) // 4)])


def ratios(forms: dict[str, Form], batch_size: int, input_size: int) -> dict[str, float]:
    """How many times as fast as dense PyTorch every form is."""
    times = seconds(forms, torch.randn(batch_size, LENGTH, input_size), RUNS[batch_size])
    return {name: typical(times["dense torch"]) / typical(own) for name, own in times.items()}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(
        f"threads: {torch.get_num_threads()}; torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}\n"
        f"LSTM and linear layer, {LENGTH} steps; timed runs by batch size: {RUNS}\n\n"
        f"{'':11}  batch  {'  '.join(COLUMNS)}"
    )
    targets = []
    for title, checkpoint in {"the example": named("pydocs-chars").open(), "H = 512": wide()}.items():
        forms, sizes = forms_of(checkpoint)
        over_int8, over_torch = TARGETS[title]
        for batch_size in RUNS:
            found = ratios(forms, batch_size, checkpoint.lstms[0].input_size)
            cells = (f"{found[column]:{len(column) - 1}.2f}x" for column in COLUMNS)
            print(f"{title:11}  {batch_size:5}  {'  '.join(cells)}", flush=True)
            gain = found["half int8"] / found["dense int8"]
            targets.append(f"{title}, batch {batch_size}: half int8 {gain:.2f}x dense int8 (target {over_int8})")
            if batch_size in over_torch:
                wanted = over_torch[batch_size]
                targets.append(
                    f"{title}, batch {batch_size}: half int8 {found['half int8']:.1f}x dense torch (target {wanted:g})"
                )
        share = sizes["half int8"] / checkpoint.size
        wanted = f" (target at most {SMALL_ENOUGH})" if title == "the example" else ""
        targets.append(f"{title}: half int8 takes {share:.4f} of the dense checkpoint's bytes{wanted}")
    print("\n" + "\n".join(targets))


if __name__ == "__main__":
    main()
