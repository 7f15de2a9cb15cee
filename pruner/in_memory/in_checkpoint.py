"""A model in memory as a checkpoint, with what of it can be pruned and what reads that."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumers import bias_beside
from pruner.files.contents import Learned
from pruner.files.opening import open_checkpoint
from pruner.in_memory.earlier_rounds import COMPACT, Earlier, owners_in, why_it_stays
from pruner.in_memory.observing import Observation
from pruner.in_memory.only_consumers import readers_in
from pruner.lstm.lstm import title_of


@dataclass(frozen=True)
class Described:
    """The `checkpoint` that torch.save makes of a model's state dict, and the `modules` in it that can be pruned, by name.

    `declined` says of the other LSTMs why not, `reasons` of those whose readers keep their width why; `read` has the paths
    of the `nn.Linear` layers and the LSTMs that are trimmed along, by LSTM; `ignoring` are those that drop what states say
    of units removed before. `task` is the recipe's: that of layers which give the answers.
    """

    checkpoint: Checkpoint
    modules: Mapping[str, nn.LSTM | nn.LSTMCell]
    declined: Mapping[str, str]
    reasons: Mapping[str, str]
    read: Mapping[str, tuple[str, ...]]
    ignoring: frozenset[str] = frozenset()
    task: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.modules)

    @property
    def consumers(self) -> tuple[str, ...]:
        """As a recipe names them."""
        inputs = {lstm.name: lstm.input_weights for lstm in self.checkpoint.lstms}
        return tuple(
            f"{lstm}={name}"
            for lstm, paths in self.read.items()
            for path in paths
            for name in inputs.get(path, [f"{path}.weight"])
        )

    @property
    def linears(self) -> set[str]:
        """The paths of the layers outside of the LSTMs that are trimmed along."""
        return {path for paths in self.read.values() for path in paths} - set(self.names)

    @property
    def trained(self) -> list[str]:
        """The names of the tensors outside of the LSTMs that change with them."""
        weights = [f"{path}.weight" for path in sorted(self.linears)]
        biases = [bias for name in weights if (bias := bias_beside(self.checkpoint.tensors, name)) is not None]
        return weights + biases

    def after(self, seen: Observation, task: str | None) -> "Described":
        """Without the LSTMs that no batch reached, with what was seen of the others. Raises PrunerError if none is left."""
        called = {name: module for name, module in self.modules.items() if name in seen.calibration.sequences}
        declined = dict(self.declined) | {
            name: "because no batch reached it" for name in self.modules if name not in called
        }
        if not called:
            told = "; ".join(f"{title_of(name)} stays, {reason}" for name, reason in declined.items()) or "none"
            raise PrunerError(
                f"expected an nn.LSTM or nn.LSTMCell that the model calls, found {told}; nothing can be removed"
            )
        learned = {
            name: Learned(
                batch_first=module.batch_first if isinstance(module, nn.LSTM) else None,
                dropout=module.dropout if isinstance(module, nn.LSTM) and module.dropout else None,
                handed_states=name in seen.handed_states | self.ignoring or None,
            )
            for name, module in called.items()
        }
        reasons = {name: reason for name, reason in self.reasons.items() if name in called}
        read = {name: paths for name, paths in self.read.items() if name in called}
        for name, paths in list(read.items()):
            if any(path in self.modules and path not in called for path in paths):
                reasons[name] = "because an LSTM reads it that no batch reached"
                del read[name]
        notes = [
            f"{title_of(name)} is handed states of others, of which it drops what they say of units that it no longer has."
            for name in sorted(seen.handed_states)
        ]
        found = replace(
            self,
            checkpoint=replace(self.checkpoint, learned=learned),
            modules=called,
            declined=declined,
            reasons=reasons,
            read=read,
            notes=tuple(notes),
        )
        answering = found.linears and found.linears <= seen.answering
        return replace(found, task=task if answering else None)


def described(model: nn.Module, earlier: Sequence[Earlier] = ()) -> Described:
    """What can be pruned of a model on the CPU, in which what `earlier` rounds made smaller is `at_dense_size`. Raises
    PrunerError for one without an LSTM."""
    once = dict(model.named_modules())  # what has two names counts under the first
    state = {
        name: value
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor) and name.rpartition(".")[0] in once
    }
    for each in earlier:
        state |= each.tensors
    written = io.BytesIO()
    torch.save(state, written)
    checkpoint = open_checkpoint(written.getvalue(), type(model).__name__, as_stored=True)
    there = {lstm.name for lstm in checkpoint.lstms}
    modules: dict[str, Any] = {}
    declined: dict[str, str] = {}
    owners, within = owners_in(model), set[nn.Module]()
    for name, module in model.named_modules():
        if module in within or not isinstance(module, (nn.LSTM, nn.LSTMCell, *COMPACT)):
            continue
        within |= set(module.modules())
        reason = why_it_stays(module, owners) or (
            "" if name in there else "because state_dict() does not show the tensors of an LSTM there"
        )
        if reason:
            declined[name] = reason
        else:
            modules[name] = module
    if not modules and not declined:
        raise PrunerError(
            f"expected an nn.LSTM or nn.LSTMCell in the model, found none in {type(model).__name__}; nothing can be removed"
        )
    reasons, read = _readers(model, modules)
    checkpoint = replace(checkpoint, gone={**checkpoint.gone, **{each.path: each.gone for each in earlier}})
    ignoring = frozenset(each.path for each in earlier if each.ignores_lost_states)
    return Described(checkpoint, modules, declined, reasons, read, ignoring)


def _readers(model: nn.Module, modules: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """({LSTM: why nothing that reads it is trimmed}, {LSTM: paths of what is})."""
    readers = readers_in(model)
    reasons = {name: f"because {readers.reasons[name]}" for name in modules if name in readers.reasons}
    reasons |= {name: "as every LSTMCell does" for name, module in modules.items() if isinstance(module, nn.LSTMCell)}
    read: dict[str, tuple[str, ...]] = {}
    # Who reads comes before whom it reads: the input of an LSTM is trimmed only where its output is.
    for name, consumers in reversed(readers.consumers.items()):
        if name not in modules:
            continue
        module = modules[name]
        places = list(range(module.num_layers * (2 if module.bidirectional else 1)))
        last = places[-2:] if module.bidirectional else places[-1:]
        lstms = [path for path in consumers if isinstance(model.get_submodule(path), nn.LSTM)]
        wide = [path for path in lstms if path not in read]
        if wide:
            what = "keeps its own" if wide[0] in modules else "stays as it is"
            reasons[name] = f"because {wide[0]} (LSTM) reads it, which {what}"
        elif not consumers:
            reasons[name] = "because nothing reads it"
        elif any(blocks != last for blocks in consumers.values()):
            reasons[name] = "because single layers or directions of its state are read"
        else:
            read[name] = tuple(consumers)
    return reasons, {name: read[name] for name in modules if name in read}
