"""How far pruning moved the outputs of an LSTM, and how long it takes to compute them."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruner.lstm.lstm import LSTM
from pruner.lstm.timing import TOO_NOISY, in_turns, times_as_fast, typical

SEQUENCE_LENGTH, BATCH_SIZE, SEED = 64, 4, 0
SHORTEST, MOST_WEIGHTS_READ = 4, 2**30  # steps; weights, those of every step counted, for one sequence

Modules = Mapping[str, nn.Module]  # by LSTM name
Rate = Callable[[Mapping[str, Tensor], Modules], float]  # a whole model, from its tensors and its LSTMs
# What a whole model answers to a batch, from its tensors and its LSTMs, which are called like `nn.LSTM`s with `batch_first`.
Forward = Callable[[Mapping[str, Tensor], Mapping[str, Callable[..., Any]], Any], Tensor | Sequence[Tensor]]


@dataclass(frozen=True)
class Quality:
    """What a model is judged by on held-out data: what the number is called, which way it goes, and how it is found; perhaps
    with the `file` of Python that finds it with torch alone, by its `quality(tensors, lstms, metadata)`."""

    name: str
    higher_is_better: bool
    rate: Rate
    file: Path | None = None

    def __call__(self, tensors: Mapping[str, Tensor], modules: Modules) -> float:
        return self.rate(tensors, modules)

    def told(self, tensors: Mapping[str, Tensor], modules: Modules) -> dict[str, Any]:
        """The same as JSON has it."""
        return {"name": self.name, "value": float(self(tensors, modules)), "higher_is_better": self.higher_is_better}

    def told_with(self, tensors: Mapping[str, Tensor], modules: Modules, others: Modules) -> dict[str, Any]:
        """The same with other modules for some of them."""
        return self.told(tensors, {**modules, **others})


@dataclass(frozen=True)
class ForwardPass:
    """A model's own forward pass, and what it gives: scores of categories (`softmax`), or numbers."""

    forward: Forward
    task: str | None

    def __call__(
        self, tensors: Mapping[str, Tensor], lstms: Mapping[str, Callable[..., Any]], batch: Any
    ) -> list[Tensor]:
        """All that it answers to a batch, (..., V) each."""
        found = self.forward(tensors, lstms, batch)
        return [found] if isinstance(found, Tensor) else list(found)


@dataclass(frozen=True)
class Drift:
    """How far an LSTM's output moved on random inputs: the largest difference, and the root mean square of the
    difference over the root mean square of the reference output (0: identical, 1: as far as zero output)."""

    max_abs_difference: float
    max_abs_output: float
    relative: float


def sample_length(lstms: Iterable[LSTM]) -> int:
    """How many steps of random inputs such LSTMs are run on: all of `SEQUENCE_LENGTH`, or as many as keep the arithmetic of
    large ones within bounds."""
    largest = max((lstm.parameters for lstm in lstms), default=1)
    return max(SHORTEST, min(SEQUENCE_LENGTH, MOST_WEIGHTS_READ // max(1, largest)))


def random_input(lstm: LSTM, batch_size: int = BATCH_SIZE, length: int = SEQUENCE_LENGTH) -> Tensor:
    """Standard normal inputs (batch, time, input size) in float64 from a fixed seed: the same on every machine."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(batch_size, length, lstm.input_size, generator=generator, dtype=torch.float64)


@torch.inference_mode()
def outputs(module: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`output`, `h_n` and `c_n` of a module from a zero state, at the module's own device and dtype.

    Half precision is computed in float32: not every CPU can run an LSTM in it.
    """
    weight = next(module.parameters())
    half = weight.dtype in (torch.float16, torch.bfloat16)
    if half:
        module = module.float()
    output, (h_n, c_n) = module(inputs.to(weight.device, torch.float32 if half else weight.dtype))
    return output, h_n, c_n


def sample_of(lstm: LSTM) -> Tensor:
    """Random inputs of as many steps as `sample_length` allows an LSTM."""
    return random_input(lstm, length=sample_length([lstm]))


Outputs = tuple[Tensor, Tensor, Tensor]  # `output`, `h_n` and `c_n`


def outputs_by_layer(
    layers: Iterable[nn.Module], inputs: Tensor, dtypes: Sequence[torch.dtype | None] = (None,)
) -> list[Outputs]:
    """`outputs` of an LSTM in each of these types (None: its own, the first). Its layers are modules of their own, made one
    after the other and used up: no more than one is ever held in another type."""
    steps = [inputs] * len(dtypes)
    states: list[list[list[Tensor]]] = [[[], []] for _ in dtypes]
    for layer in layers:
        for index, dtype in enumerate(dtypes):
            steps[index], h_n, c_n = outputs(layer if dtype is None else layer.to(dtype), steps[index])
            states[index][0].append(h_n)
            states[index][1].append(c_n)
        del layer  # before the next is made
    return [(output, torch.cat(h), torch.cat(c)) for output, (h, c) in zip(steps, states, strict=True)]


def difference(reference: Iterable[Tensor], other: Iterable[Tensor]) -> Drift:
    """Compare two models tensor by tensor, in float64. NaN in either makes NaN of the differences."""
    a = torch.cat([tensor.double().flatten() for tensor in reference])
    b = torch.cat([tensor.double().flatten() for tensor in other])
    changed, size = (a - b).norm().item(), a.norm().item()
    relative = changed / size if size else (0.0 if changed == 0 else math.inf)
    return Drift((a - b).abs().max().item(), a.abs().max().item(), relative)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one CPU thread: the same sums wherever it is, and times that do not depend on what else is running.

    Threads that share small operations wait for each other at every one of them, without end where a core is busy.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Latency:
    """Milliseconds to read `SEQUENCE_LENGTH` steps, of several turns: what is `typical` of an undisturbed one, where 10 and
    90 % of them lie, and how many times as fast that is as the first of the forms, if the times can tell."""

    typical: float
    low: float
    high: float
    faster: float | None

    def __str__(self) -> str:
        return TOO_NOISY if self.faster is None else f"{self.typical:.2f} ({self.low:.2f} to {self.high:.2f})"


def latency(
    forms: Mapping[str, Modules],
    lstms: Iterable[LSTM],
    batch_size: int = 1,
    turns: int = 16,
    seconds: float = 5.0,
) -> dict[str, Latency]:
    """{form: time for all its LSTMs to read one batch} in float32, the forms in turns as `timing.in_turns` has it; on a CPU
    with one thread. `forms` maps a form's name to its modules by LSTM name.
    """
    inputs = {lstm.name: random_input(lstm, batch_size).float() for lstm in lstms}

    def reading(modules: Modules) -> Callable[[], None]:
        full = {name: copy.deepcopy(module).float() for name, module in modules.items()}
        place = next(next(iter(full.values())).parameters()).device
        moved = {name: tensor.to(place) for name, tensor in inputs.items()}

        @torch.inference_mode()
        def read() -> None:
            for name, tensor in moved.items():
                full[name](tensor)
            _wait_for(place)

        return read

    with one_thread():
        times = in_turns({form: reading(modules) for form, modules in forms.items()}, seconds, turns)
    base = next(iter(times.values()))
    return {form: _latency(base, own) for form, own in times.items()}


def _latency(base: Sequence[float], own: Sequence[float]) -> Latency:
    ordered = sorted(1000 * taken for taken in own)
    tenth = len(ordered) // 10
    return Latency(1000 * typical(own), ordered[tenth], ordered[-1 - tenth], times_as_fast(base, own))


def _wait_for(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)
