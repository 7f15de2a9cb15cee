"""A model in memory and a loader -> what its LSTMs read, as calibration, with the batches that it read meanwhile."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from pruner.calibration.calibration import ENOUGH_HELD_BACK, Calibration
from pruner.calibration.gathering import ENOUGH_STEPS
from pruner.errors import PrunerError
from pruner.in_memory.own_forward import Beginning, check_as_many, described, floating, moved, run
from pruner.progress import Progress, split

MOST_STEPS, MOST_BYTES = 2**20, 2**28  # of batches that are kept; a loader may have no end
MOST_OBSERVED = 4 * ENOUGH_STEPS  # steps of one LSTM, where another is called far less
HELD_BACK = 0.2  # share of the batches

Call = Callable[[nn.Module, Any], Any]


@dataclass
class Observed:
    """What one LSTM read: sequences by their length, joined where one call goes on from the state of the one before."""

    module: nn.LSTM | nn.LSTMCell
    handed_states: bool = False  # whether it began from a state that was not zero and not its own
    steps: int = 0
    _by_length: dict[int, list[Tensor]] = field(default_factory=dict)
    _open: list[Tensor] = field(default_factory=list)  # pieces (B, T, I) of sequences that may go on
    _reached: Tensor | None = None  # the hidden state after them

    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """To be called after each call of the module."""
        read = args[0] if args else kwargs["input"]
        state = args[1] if len(args) > 1 else kwargs.get("hx")
        h_n, _ = output if isinstance(self.module, nn.LSTMCell) else output[1]
        goes_on = state is not None and self._reached is not None and torch.equal(state[0], self._reached)
        if not goes_on:
            self._close()
            self.handed_states |= state is not None and any(bool(part.any()) for part in state)
        if isinstance(read, PackedSequence):
            padded, lengths = pad_packed_sequence(read, batch_first=True)
            for row, length in zip(padded, lengths.tolist(), strict=True):
                self._keep(row[None, :length])
            return
        self._open.append(_taken(self._batched(read)))
        self._reached = None if getattr(self.module, "bidirectional", False) else h_n.detach()

    def sequences(self) -> list[Tensor]:
        """Groups (N, T, I) of one length."""
        self._close()
        return [torch.cat(found) for _, found in sorted(self._by_length.items())]

    def _batched(self, read: Tensor) -> Tensor:
        """What was read as (B, T, I)."""
        if isinstance(self.module, nn.LSTMCell):
            return read[None, None] if read.dim() == 1 else read[:, None]
        if read.dim() == 2:
            return read[None]
        return read if self.module.batch_first else read.transpose(0, 1)

    def _close(self) -> None:
        if self._open:
            self._keep(torch.cat(self._open, 1))
        self._open, self._reached = [], None

    def _keep(self, sequences: Tensor) -> None:
        self._by_length.setdefault(sequences.shape[1], []).append(_taken(sequences))
        self.steps += sequences.shape[0] * sequences.shape[1]


@dataclass(frozen=True)
class Observation:
    """What a loader showed: `calibration` of all LSTMs that were called, those that were handed states, which of the
    floating tensors that the model gives are its answers, and which modules' outputs are among these."""

    calibration: Calibration
    handed_states: frozenset[str]
    compared: list[int]
    answering: frozenset[str]

    @property
    def held_back(self) -> list[Any]:
        """The batches to judge by."""
        _, held_back = self.calibration.split()
        return list(held_back.batches or [])


def observe(
    model: nn.Module, call: Call, loader: Iterable[Any], lstms: Mapping[str, Any], device: str, progress: Progress
) -> Observation:
    """Run a model in evaluation mode over a loader and see what its LSTMs read.

    The last fifth of the batches is held back. Of a long loader as many batches are taken as make `MOST_STEPS` steps of an
    LSTM or `MOST_BYTES`, and as many of them run, from all over it, as statistics need. Raises PrunerError for a loader that
    gives fewer than two batches, and for a model that fails on one or gives no numbers.
    """
    progress(0.0, "Reading the loader")
    batches: list[Any] = []
    steps, size = 0, 0
    for batch in _iterated(loader):
        batches.append(moved(batch, "cpu"))
        size += sum(each.numel() * each.element_size() for each in _tensors(batches[-1]))
        if len(batches) == 1:
            compared, answering = _answers(model, call, batches[0], lstms, device)
            first = _see(model, call, batches, lstms, device, compared)
            steps = max((each.steps for each in first.values()), default=0)
        if len(batches) * steps >= MOST_STEPS or size >= MOST_BYTES:
            break
    if len(batches) < 2:
        raise PrunerError(
            f"expected a loader of at least two batches, the last to judge by, found {len(batches) or 'none'}; give smaller "
            "batches, or a loader that is not used up"
        )
    apart = max(1, min(round(HELD_BACK * len(batches)), ENOUGH_HELD_BACK // max(1, steps)))
    fit_on, held_back = batches[:-apart], batches[-apart:]
    first_part, last_part = split(progress, len(fit_on), len(held_back))
    seen = _see(model, call, fit_on, lstms, device, compared, steps, first_part)
    seen_apart = _see(model, call, held_back, lstms, device, compared, steps, last_part)
    called = [name for name in lstms if seen[name].steps and seen_apart[name].steps]
    groups = {name: seen[name].sequences() for name in called}
    groups_apart = {name: seen_apart[name].sequences() for name in called}
    judged = Calibration("model", groups_apart, batches=held_back)
    calibration = Calibration("model", groups, batches=fit_on, held_back=judged, name=f"{len(batches)} batches")
    handed = frozenset(name for name in called if seen[name].handed_states or seen_apart[name].handed_states)
    return Observation(calibration, handed, compared, answering)


def _iterated(loader: Iterable[Any]) -> Iterator[Any]:
    try:
        return iter(loader)
    except TypeError as error:
        raise PrunerError(
            f"expected a loader, something that gives batches one after the other, found {type(loader).__name__}; give a "
            "DataLoader, or a list of batches"
        ) from error


@torch.no_grad()
def _see(
    model: nn.Module,
    call: Call,
    batches: list[Any],
    lstms: Mapping[str, Any],
    device: str,
    compared: list[int],
    steps: int = 0,
    progress: Progress = lambda *_: None,
) -> dict[str, Observed]:
    """What each LSTM read of batches from all over, as many as tell enough; `steps` is how many one has."""
    seen = {name: Observed(module) for name, module in lstms.items()}
    hooks = [seen[name].module.register_forward_hook(seen[name].hook, with_kwargs=True) for name in seen]
    stride, begins = max(1, len(batches) * steps // ENOUGH_STEPS), Beginning(model)
    try:
        for place in range(0, len(batches), stride):
            progress(place / len(batches), f"Observing the model, batch {place + 1} of {len(batches)}")
            _check_answers(
                run(lambda given: call(model, given), moved(batches[place], device)), compared, batches[place]
            )
            read = [each.steps for each in seen.values()]
            if min(read, default=0) >= ENOUGH_STEPS or max(read, default=0) >= MOST_OBSERVED:
                break
    finally:
        for hook in hooks:
            hook.remove()
        begins.again()
    for each in seen.values():
        each.sequences()  # closes the last
    return seen


def _check_answers(given: Any, compared: list[int], batch: Any) -> None:
    """Raise PrunerError where answers are missing or not finite: nothing can be learned from them, and nothing compared."""
    found = list(floating(given))
    check_as_many(found, compared, batch)
    if not all(bool(found[index].isfinite().all()) for index in compared):
        raise PrunerError(
            f"expected finite numbers in what the model gives, found NaN or infinite ones from a batch of {described(batch)}"
            "; mend batch or weights, or say what is compared: forward=lambda model, batch: model(batch).clamp(min=-1e4)"
        )


@torch.no_grad()
def _answers(
    model: nn.Module, call: Call, batch: Any, lstms: Mapping[str, Any], device: str
) -> tuple[list[int], frozenset[str]]:
    """Which floating tensors of what a model gives are its answers, all but the states of its LSTMs where it gives more,
    else all but their cell states; and the `nn.Linear` layers that made some of them."""
    # Kept alive, so that no other tensor lies where they do.
    states, made = list[tuple[Tensor, Tensor]](), dict[str, Tensor]()
    hooks = [
        module.register_forward_hook(lambda _, __, output, path=path: made.update({path: output}))
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    begins = Beginning(model)
    hooks += [module.register_forward_hook(lambda *args: states.append(_state(*args))) for module in lstms.values()]
    try:
        found = list(floating(run(lambda given: call(model, given), moved(batch, device))))
    finally:
        for hook in hooks:
            hook.remove()
        begins.again()
    if not found:
        raise PrunerError(
            "expected a model that gives floating-point tensors, found none in what it gives; say what is to be compared: "
            "forward=lambda model, batch: model(batch).logits"
        )
    hidden, cells = ({(pair[part].data_ptr(), pair[part].shape) for pair in states} for part in (0, 1))
    places = [(each.data_ptr(), each.shape) for each in found]
    for others in (hidden | cells, cells, set()):
        compared = [index for index, place in enumerate(places) if place not in others]
        if compared:
            break
    given = {found[place].data_ptr() for place in compared}
    return compared, frozenset(path for path, output in made.items() if output.data_ptr() in given)


def _state(module: nn.Module, args: Any, output: Any) -> tuple[Tensor, Tensor]:
    """The hidden and the cell state that an LSTM gives."""
    h, c = output if isinstance(module, nn.LSTMCell) else output[1]
    return h, c


def _taken(steps: Tensor) -> Tensor:
    return steps.detach().to("cpu", torch.float32, copy=True)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in any nesting of tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            if each is not None:
                yield from _tensors(each)
