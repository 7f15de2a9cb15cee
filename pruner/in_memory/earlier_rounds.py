"""What earlier rounds made smaller in a model: it stands there at its dense size while another one is sought or put in."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pruner.compact.compaction import expand, settings_of, wide_parts
from pruner.compact.load_pruned import (
    CompactLSTM,
    CompactLSTMCell,
    Reconstruction,
    RowCompactLSTM,
    RowCompactLSTMCell,
)
from pruner.in_memory.optimizers import Move
from pruner.in_memory.replacing import with_hooks_of
from pruner.in_memory.sites import joined
from pruner.lstm.describing import described
from pruner.lstm.lstm import Place, title_of
from pruner.lstm.rebuilt import fills, gone_beside, rebuilt_of
from pruner.lstm.sizes import macs_per_step

COMPACT = (CompactLSTM, RowCompactLSTM, CompactLSTMCell, RowCompactLSTMCell)
# What a module that can become a smaller one consists of, without classes of its own.
_PLAIN = {nn.LSTM, nn.LSTMCell, nn.ModuleList, Reconstruction, *COMPACT, *(kind.LAYER for kind in COMPACT)}


@dataclass(frozen=True)
class Earlier:
    """The module of an earlier round, where it stands first in a model, and the masked dense one that it computes."""

    path: str
    small: Any
    dense: nn.LSTM | nn.LSTMCell
    maps: Mapping[str, Tensor]  # what rebuilds removed units in its output, by the names in a `ReconstructingLSTM`

    def __str__(self) -> str:
        macs = macs_per_step(tuple(parameter.shape) for parameter in self.small.parameters())
        beside = ", with what rebuilds its units" if self.maps else ""
        return (
            f"{title_of(self.path)} was made smaller before, to {macs:,} multiply-accumulates a step; all sizes here count "
            f"from the dense LSTM that it stands for{beside}."
        )

    def moves(self, before: Mapping[str, nn.Parameter]) -> Iterator[Move]:
        """What became of each parameter of the smaller one, by the name it had `before`."""
        for name, own, widen in wide_parts(self.small, described(self.dense)):
            title = joined(self.path, own)
            yield Move(title, before[title], self.dense.get_parameter(name), widen)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Those of the dense one, by their names in the model."""
        return {joined(self.path, name): parameter for name, parameter in self.dense.named_parameters()}

    @property
    def gone(self) -> dict[Place, Tensor]:
        """(H,) bool of the hidden units that were removed, by place; of rows, none."""
        if not isinstance(self.small, CompactLSTM | CompactLSTMCell):
            return {}
        places, layers = described(self.dense).places, list[Any](self.small.layers)
        return {
            place: gone_beside(layer.kept.cpu(), self.small.hidden_size)
            for place, layer in zip(places, layers, strict=True)
        }

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What rebuilds units of it, by the names in the model's file."""
        return {joined(self.path, name): tensor for name, tensor in self.maps.items()}

    def rebuilding(self, before: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
        """Those of a model's parameters, by name, that rebuild units of it: what takes its place has others."""
        own = (joined(self.path, name) for name, _ in self.small.named_parameters() if ".reconstruction." in name)
        return [before[name] for name in own]

    @property
    def ignores_lost_states(self) -> bool:
        return self.small.on_lost_state == "ignore"

    def act_as_before(self) -> None:
        """Have the dense one rebuild units as the smaller one does, and where that drops what a state says of removed ones,
        drop it, too: there it would fade."""
        rebuilt = rebuilt_of(described(self.dense), self.maps)
        if rebuilt is not None:
            fills(self.dense, rebuilt)
        if self.ignores_lost_states and self.gone:
            gone = torch.stack(list(self.gone.values()))
            self.dense.register_forward_pre_hook(partial(_without_lost, gone), with_kwargs=True)


def _without_lost(gone: Tensor, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The arguments of a call with zeros in the cell state of removed units; nothing reads their hidden state."""
    given = dict(zip(("input", "hx"), args, strict=False)) | kwargs
    if given.get("hx") is None:
        return args, kwargs
    h, c = given["hx"]
    lost = gone[0] if isinstance(module, nn.LSTMCell) else gone if c.dim() == 2 else gone[:, None]
    return (), given | {"hx": (h, c.masked_fill(lost.to(c.device), 0.0))}


def owners_in(model: nn.Module) -> dict[int, set[int]]:
    """{address of a tensor: the modules that hold it}."""
    found: dict[int, set[int]] = {}
    for module in model.modules():
        for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            if tensor.numel():  # those without numbers have no address
                found.setdefault(tensor.data_ptr(), set()).add(id(module))
    return found


def why_it_stays(module: nn.Module, owners: Mapping[int, set[int]]) -> str:
    """Why an LSTM, dense or of an earlier round, cannot be replaced by a smaller one, if so."""
    if any(type(each) not in _PLAIN or "forward" in vars(each) for each in module.modules()):
        return (
            f"because {type(module).__name__} may do more than an LSTM (a class, parametrization or forward of its own)"
        )
    if any(len(owners.get(parameter.data_ptr(), ())) > 1 for parameter in module.parameters()):
        return "because it shares tensors with another module"
    return ""


def at_dense_size(model: nn.Module, names: Collection[str] | None = None) -> tuple[nn.Module, list[Earlier]]:
    """The model with the dense module in the place of each of an earlier round, of those `names` alone or of all that can
    become smaller once more, and what was replaced. It changes in place; one that is itself such a module becomes another.
    """
    owners = owners_in(model)
    earlier = [
        Earlier(path, module, *_expanded(module))
        for path, module in model.named_modules()
        if isinstance(module, COMPACT) and (not why_it_stays(module, owners) if names is None else path in names)
    ]
    for each in earlier:
        model = _exchanged(model, each.small, each.dense)
    return model, earlier


@contextmanager
def for_another_round(model: nn.Module, names: Collection[str]) -> Iterator[tuple[nn.Module, list[Earlier]]]:
    """As `at_dense_size`; where what follows fails, the model is as it was."""
    wide, earlier = at_dense_size(model, names)
    try:
        yield wide, earlier
    except BaseException:
        for each in earlier:
            _exchanged(model, each.dense, each.small)
        raise


def widened(
    before: Mapping[str, nn.Parameter], earlier: Sequence[Earlier]
) -> tuple[list[Move], dict[str, nn.Parameter]]:
    """What became of a model's parameters, by name, when those of earlier rounds came to their dense size, and all that it
    had then."""
    moves = [move for each in earlier for move in each.moves(before)]
    gone = {id(move.old) for move in moves} | {id(each) for one in earlier for each in one.rebuilding(before)}
    after = {name: parameter for name, parameter in before.items() if id(parameter) not in gone}
    for each in earlier:
        after |= each.named_parameters()
    return moves, after


def _expanded(small: Any) -> tuple[nn.LSTM | nn.LSTMCell, dict[str, Tensor]]:
    """The masked dense module, of PyTorch's own class, and what else there is to one that rebuilds units."""
    wide = expand(small)
    facts = described(wide)
    maps = {name: value for name, value in wide.state_dict().items() if name not in facts.tensors}
    dense = wide
    if maps:
        kind = nn.LSTMCell if isinstance(wide, nn.LSTMCell) else nn.LSTM
        sizes = (facts.input_size, facts.hidden_size, *(() if kind is nn.LSTMCell else (facts.num_layers,)))
        dense = kind(*sizes, **settings_of(wide)).train(wide.training)
        for name in facts.tensors:
            setattr(dense, name, wide.get_parameter(name))
    with_hooks_of(small, dense)
    return dense, maps


def _exchanged(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """The model with another module wherever one stands."""
    if model is old:
        return new
    for path in [path for path, module in model.named_modules(remove_duplicate=False) if module is old]:
        model.set_submodule(path, new)
    return model
