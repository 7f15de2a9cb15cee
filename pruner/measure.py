"""What a model costs and how far pruning moved it."""

import math
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pruner.checkpoint import Checkpoint, write
from pruner.errors import PrunerError
from pruner.lstm import LSTM

SEQUENCE_LENGTH, BATCH_SIZE, SEED = 64, 4, 0


@dataclass(frozen=True)
class Cost:
    """Size and work of a checkpoint: all its parameters, the zeros among those of its LSTMs, the size of its file in
    bytes, and the multiply-accumulates of its LSTMs for one time step."""

    parameters: int
    zeros: int
    bytes: int
    macs_per_step: int


@dataclass(frozen=True)
class Drift:
    """How far an LSTM's output moved on random inputs: the largest difference, and the root mean square of the
    difference over the root mean square of the reference output (0: identical, 1: as far as zero output)."""

    max_abs_difference: float
    max_abs_output: float
    relative: float


def macs_per_step(lstm: LSTM) -> int:
    """Multiply-accumulates of the matrix products of one time step, batch 1, all layers and directions.

    Per layer and direction 4H(I + R), and PH for a projection. Zeros are multiplied like any other number.
    """
    return sum(
        lstm.directions
        * (4 * lstm.hidden_size * (lstm.layer_input_size(layer) + lstm.output_size) + lstm.proj_size * lstm.hidden_size)
        for layer in range(lstm.num_layers)
    )


def cost(checkpoint: Checkpoint, changed: Mapping[str, Tensor] | None = None) -> Cost:
    """The cost of a checkpoint, or of what it becomes with some tensors changed (in place of those of its file)."""
    tensors = {**checkpoint.tensors, **(changed or {})}
    return Cost(
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        zeros=sum(
            tensors[name].numel() - int(tensors[name].count_nonzero())
            for lstm in checkpoint.lstms
            for name in lstm.tensors.values()
        ),
        bytes=_file_size(checkpoint, changed) if changed else checkpoint.size,
        macs_per_step=sum(macs_per_step(lstm) for lstm in checkpoint.lstms),
    )


def _file_size(checkpoint: Checkpoint, changed: Mapping[str, Tensor]) -> int:
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pruned"
            write(checkpoint, changed, path)
            return path.stat().st_size
    except OSError as error:
        raise PrunerError(f"expected room for a temporary file, found {error}; make room or set TMPDIR") from error


def random_input(lstm: LSTM, batch_size: int = BATCH_SIZE, length: int = SEQUENCE_LENGTH) -> Tensor:
    """Standard normal inputs (batch, time, input size) in float64 from a fixed seed: the same on every machine."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(batch_size, length, lstm.input_size, generator=generator, dtype=torch.float64)


@torch.inference_mode()
def outputs(module: nn.LSTM, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`output`, `h_n` and `c_n` of a module from a zero state, at the module's own device and dtype.

    Half precision is computed in float32: not every CPU can run an LSTM in it.
    """
    weight = next(module.parameters())
    half = weight.dtype in (torch.float16, torch.bfloat16)
    if half:
        module = module.float()
    output, (h_n, c_n) = module(inputs.to(weight.device, torch.float32 if half else weight.dtype))
    return output, h_n, c_n


def difference(reference: Iterable[Tensor], other: Iterable[Tensor]) -> Drift:
    """Compare two models tensor by tensor, in float64. NaN in either makes NaN of the differences."""
    a = torch.cat([tensor.double().flatten() for tensor in reference])
    b = torch.cat([tensor.double().flatten() for tensor in other])
    changed, size = (a - b).norm().item(), a.norm().item()
    relative = changed / size if size else (0.0 if changed == 0 else math.inf)
    return Drift((a - b).abs().max().item(), a.abs().max().item(), relative)


def latency_ms(modules: Mapping[str, nn.Module], lstms: Iterable[LSTM], batch_size: int = 1, runs: int = 15) -> float:
    """Milliseconds for all LSTMs to read one sequence of `SEQUENCE_LENGTH` steps: the median of several runs."""
    inputs = {lstm.name: random_input(lstm, batch_size).float() for lstm in lstms}

    @torch.inference_mode()
    def once() -> float:
        started = time.perf_counter()
        for name, tensor in inputs.items():
            modules[name](tensor)
        return (time.perf_counter() - started) * 1000

    once()
    return statistics.median(once() for _ in range(runs))
