"""What earlier rounds made smaller in a model: it stands there at its dense size while another one is sought or put in."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pruner.compact.compaction import expand, wide_parts
from pruner.compact.load_pruned import CompactLSTM, CompactLSTMCell, RowCompactLSTM, RowCompactLSTMCell
from pruner.in_memory.optimizers import Move
from pruner.in_memory.replacing import with_hooks_of
from pruner.in_memory.sites import joined
from pruner.lstm.describing import described
from pruner.lstm.lstm import Place, title_of
from pruner.lstm.sizes import macs_per_step

COMPACT = (CompactLSTM, RowCompactLSTM, CompactLSTMCell, RowCompactLSTMCell)
# What a module that can become a smaller one consists of, without classes of its own.
_PLAIN = {nn.LSTM, nn.LSTMCell, nn.ModuleList, *COMPACT, *(kind.LAYER for kind in COMPACT)}


@dataclass(frozen=True)
class Earlier:
    """The module of an earlier round, where it stands first in a model, and the masked dense one that it computes."""

    path: str
    small: Any
    dense: nn.LSTM | nn.LSTMCell

    def __str__(self) -> str:
        macs = macs_per_step(tuple(parameter.shape) for parameter in self.small.parameters())
        return (
            f"{title_of(self.path)} was made smaller before, to {macs:,} multiply-accumulates a step; all sizes here count "
            "from the dense LSTM that it stands for."
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
        places, layers = described(self.dense).places, self.small.layers
        masks = torch.ones(len(places), self.small.hidden_size, dtype=torch.bool)
        for mask, layer in zip(masks, layers, strict=True):
            mask[layer.kept.cpu()] = False
        return dict(zip(places, masks, strict=True))

    @property
    def ignores_lost_states(self) -> bool:
        return self.small.on_lost_state == "ignore"

    def drop_lost_states(self) -> None:
        """Have the dense one drop what a state says of removed units where the smaller one does: there it would fade."""
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
    if any(name.endswith("reconstruction") for name, _ in module.named_modules()):
        return (
            "because it reconstructs the hidden units that an earlier round removed, for which a further one has no place; "
            "shrink the model that it was made from"
        )
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
        Earlier(path, module, _expanded(module))
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
    gone = {move.name for move in moves}
    after = {name: parameter for name, parameter in before.items() if name not in gone}
    for each in earlier:
        after |= each.named_parameters()
    return moves, after


def _expanded(small: Any) -> nn.LSTM | nn.LSTMCell:
    dense = expand(small)
    with_hooks_of(small, dense)
    return dense


def _exchanged(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """The model with another module wherever one stands."""
    if model is old:
        return new
    for path in [path for path, module in model.named_modules(remove_duplicate=False) if module is old]:
        model.set_submodule(path, new)
    return model
