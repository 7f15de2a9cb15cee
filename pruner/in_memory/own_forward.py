"""A model in memory as a forward pass: run with other modules for its LSTMs and other tensors for what reads them."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from pruner.errors import PrunerError, shown
from pruner.progress import Cancelled

State = tuple[Tensor, Tensor]


@contextmanager
def defaults(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """The type and the device of tensors of which nobody says them."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with nullcontext() if torch.get_default_device() == device else device:
            yield
    finally:
        torch.set_default_dtype(before)


@dataclass(frozen=True)
class Precision:
    """The autocast and the defaults that surround a call, which other threads and processes do not have by themselves."""

    device: str
    autocast: torch.dtype | None  # None: there is none
    default_dtype: torch.dtype
    default_device: torch.device

    @classmethod
    def around(cls, device: str) -> "Precision":
        kind = torch.device(device).type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        return cls(kind, autocast, torch.get_default_dtype(), torch.get_default_device())

    @contextmanager
    def again(self) -> Iterator[None]:
        """The same once more."""
        cast = nullcontext() if self.autocast is None else torch.autocast(self.device, self.autocast)
        with defaults(self.default_dtype, self.default_device), cast:
            yield


class Slot:
    """Stands for the forward of one LSTM or LSTMCell of a model: passes its calls on to whatever `inner` is, called like an
    `nn.LSTM` with `batch_first`."""

    def __init__(self, module: nn.LSTM | nn.LSTMCell) -> None:
        self.inner: Callable[..., Any] | None = None
        self.dtype = next(module.parameters()).dtype
        self._cell, self._batch_first = isinstance(module, nn.LSTMCell), bool(getattr(module, "batch_first", True))

    def __call__(self, input: Any, hx: State | None = None) -> Any:  # noqa: A002 - nn.LSTM's own name for it
        if self._cell:
            return self._step(input, hx)
        if isinstance(input, PackedSequence):
            return self._read(input, hx)
        alone = input.dim() == 2
        steps = input[None] if alone else input if self._batch_first else input.transpose(0, 1)
        if hx is not None and alone:
            hx = hx[0][:, None], hx[1][:, None]
        output, (h_n, c_n) = self._read(steps, hx)
        if alone:
            return output[0], (h_n[:, 0], c_n[:, 0])
        return output if self._batch_first else output.transpose(0, 1), (h_n, c_n)

    def _step(self, input: Tensor, hx: State | None) -> State:  # noqa: A002
        alone = input.dim() == 1
        steps = input[None, None] if alone else input[:, None]
        if hx is not None:
            hx = (hx[0][None, None], hx[1][None, None]) if alone else (hx[0][None], hx[1][None])
        _, (h_n, c_n) = self._read(steps, hx)
        return (h_n[0, 0], c_n[0, 0]) if alone else (h_n[0], c_n[0])

    def _read(self, steps: Any, hx: State | None) -> Any:
        assert self.inner is not None  # noqa: S101 - filled by whoever calls the model
        return self.inner(steps, hx)


class Beginning:
    """What the modules of a model hold beside their parameters, so that one call after the other begins there: there are
    models that keep a state."""

    def __init__(self, model: nn.Module) -> None:
        self._held = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]

    def again(self) -> None:
        for module, own, buffers in self._held:
            for held, before in ((vars(module), own), (module._buffers, buffers)):
                held.clear()
                held.update(before)


class OwnForward:
    """A forward pass as `measure.Forward` has it, of a copy of a model that is its own.

    `call(model, batch)` runs it; `lstms` names those in place of which others are called, and `consumers` the tensors that
    change with them. `compared` says which of the floating tensors that it gives are its answers, in the order in which
    they come.
    """

    def __init__(
        self,
        model: nn.Module,
        call: Callable[[nn.Module, Any], Any],
        lstms: Iterable[str],
        consumers: Iterable[str],
        compared: Sequence[int],
        device: str,
        precision: Precision,
    ) -> None:
        self._called, self._compared = _Called(model, call), list(compared)
        self._consumers = {name: model.get_parameter(name) for name in consumers}
        self._device, self._precision = device, precision
        self._slots = {}
        for name in lstms:
            module: Any = model.get_submodule(name)
            self._slots[name] = vars(module)["forward"] = Slot(module)
        for module in model.modules():
            if isinstance(module, nn.RNNBase):
                module.train()  # or cuDNN has no gradient through what is not replaced
                module.dropout = 0.0
        self._begins = Beginning(model)

    def __call__(self, tensors: Mapping[str, Tensor], lstms: Mapping[str, Any], batch: Any) -> list[Tensor]:
        """The answers to a batch, (..., V) each."""
        found = list(floating(self.outputs(tensors, lstms, batch)))
        check_as_many(found, self._compared, batch)
        return [as_rows(found[place]) for place in self._compared]

    def outputs(self, tensors: Mapping[str, Tensor], lstms: Mapping[str, Any], batch: Any) -> Any:
        """All that the model gives. Raises PrunerError where it fails."""
        self._put(self._consumers)  # its own, which move along; others may be no leaves
        self._begins.again()
        self._called.to(self._device)
        self._begins = Beginning(self._called.model)
        self._put({name: tensors[name].to(self._device) for name in self._consumers})
        for name, slot in self._slots.items():
            inner = lstms[name]
            slot.inner = inner.to(self._device, slot.dtype) if isinstance(inner, nn.Module) else inner
        with self._precision.again():
            return run(self._called, moved(batch, self._device))

    def __getstate__(self) -> dict[str, Any]:
        """Without what the last call put in place."""
        self._put(self._consumers)
        self._begins.again()
        for slot in self._slots.values():
            slot.inner = None
        return {name: value for name, value in vars(self).items() if name != "_begins"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begins = Beginning(self._called.model)

    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        """Let the consumers have tensors, each of which no other module shares."""
        for name, tensor in tensors.items():
            path, _, own = name.rpartition(".")
            self._called.model.get_submodule(path)._parameters[own] = tensor  # type: ignore[assignment]


class _Called(nn.Module):
    """A model with how it is called."""

    def __init__(self, model: nn.Module, call: Callable[[nn.Module, Any], Any]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, batch: Any) -> Any:
        return self.call(self.model, batch)


def run(call: Callable[[Any], Any], batch: Any) -> Any:
    """What a call gives for a batch; whatever it raises becomes a PrunerError that says how batches are read."""
    try:
        return call(batch)
    except (PrunerError, Cancelled):
        raise
    except Exception as error:
        raise PrunerError(
            f"expected a model that reads every batch, found {type(error).__name__} ({shown(str(error), 200)}) "
            f"from a batch of {described(batch)}; say how it is called: forward=lambda model, batch: model(batch[0])"
        ) from error


def check_as_many(found: Sequence[Tensor], compared: Sequence[int], batch: Any) -> None:
    """Raise PrunerError where a model gives fewer tensors than it gave before."""
    if max(compared) >= len(found):
        raise PrunerError(
            f"expected {max(compared) + 1} tensors or more from every batch, as from the first, found {len(found)} from a "
            f"batch of {described(batch)}; join them: forward=lambda model, batch: torch.cat(model(batch))"
        )


def described(batch: Any) -> str:
    """What a batch is, in a few words."""
    if isinstance(batch, Tensor):
        return f"shape {tuple(batch.shape)} and type {str(batch.dtype).removeprefix('torch.')}"
    if isinstance(batch, dict):
        return f"a {type(batch).__name__} of {shown(list(batch))}"
    if isinstance(batch, list | tuple) and not isinstance(batch, PackedSequence):
        return f"a {type(batch).__name__} of {len(batch)} things, the first {described(batch[0]) if batch else 'none'}"
    return f"type {type(batch).__name__}"


def moved(value: Any, device: str) -> Any:
    """Tensors in any nesting of tuples, lists and dictionaries on another device, cut off from what made them."""
    if isinstance(value, Tensor):
        return value.detach().to(device)
    to: Any = getattr(value, "to", None)
    if callable(to):  # packed sequences, and batches of other libraries
        return to(device)
    if isinstance(value, dict):
        copied = copy.copy(value)
        copied.update({key: moved(each, device) for key, each in value.items()})
        return copied
    if isinstance(value, list):
        return [moved(each, device) for each in value]
    if isinstance(value, tuple):
        parts = [moved(each, device) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def floating(value: Any) -> Iterator[Tensor]:
    """Every tensor of floating-point numbers in any nesting, that of packed sequences as one."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, PackedSequence):
        yield value.data
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from floating(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from floating(each)


def as_rows(answer: Tensor) -> Tensor:
    """An answer with the values of one step or sequence along its last axis: single numbers (N,) become (N, 1)."""
    return answer if answer.dim() > 1 else answer.reshape(-1, 1)
