"""Gate-aware saliency pruning of a model in memory, in the workflow of torch.ao.pruning."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pruner.compact.compaction import compact_rows, compact_units
from pruner.compact.load_pruned import inside
from pruner.errors import PrunerError, shown
from pruner.importance.masks import dropped_rows, keep_highest, keep_mask, row_ranks
from pruner.importance.weights import row_saliency, summed
from pruner.in_memory.only_consumers import only_consumers
from pruner.lstm.gates import GATES, parse_standard_name
from pruner.lstm.kept import Part, counts, output_columns, row_masks, unit_masks
from pruner.lstm.lstm import Place
from pruner.lstm.module import described
from pruner.recipe import GRANULARITIES, check_choice, check_sparsity

_HOOKS = {name for name in vars(nn.Module()) if "forward" in name or "backward" in name}  # where a module holds them


class RowMask(nn.Module):
    """A parametrization that zeroes the rows of a weight (4H, ...) where `mask` (4H,) is False.

    The mask is a buffer: it travels in the model's `state_dict` and moves with it between devices.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return torch.where(self.mask.reshape(-1, *[1] * (weight.dim() - 1)), weight, 0.0)


class LSTMSaliencyPruner:
    """Masks the rows of lowest L1 norm in packed LSTM weights, gate by gate or unit by unit.

    The workflow, and with `granularity="rows"` the choice of rows, are those of `torch.ao.pruning`'s experimental class of
    this name (https://github.com/pytorch/pytorch/blob/main/torch/ao/pruning/_experimental/pruner/lstm_saliency_pruner.py),
    built on the public `torch.nn.utils.parametrize`:

        >>> model = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(8, 16)})
        >>> pruner = LSTMSaliencyPruner({"sparsity_level": 0.5})
        >>> pruner.prepare(model, config=[{"tensor_fqn": "lstm.weight_ih_l0"}, {"tensor_fqn": "lstm.weight_hh_l0"}])
        >>> pruner.enable_mask_update = True
        >>> pruner.step()  # the masks now follow the weights; train on, step again, as often as you like
        >>> pruner.squash_mask()  # the masks become zeros in plain weights
        >>> int((model["lstm"].weight_ih_l0.abs().sum(1) == 0).sum())  # 8 of 16 rows of each of the four gates
        32

    `rows`: each gate of each tensor loses its own `int(H * sparsity_level)` rows. `units`: each layer and direction loses
    `int(H * sparsity_level)` whole hidden units, those with the lowest sum over their eight rows; all eight rows and the
    biases are masked. `prune` takes either out of the model.

    Masks are chosen anew from the unmasked weights at every step, so a lower sparsity brings rows back. `groups` holds
    one dictionary a tensor, or with `units` one a layer and direction, with `tensor_fqn` and `sparsity_level`, which may
    be changed between steps. PyTorch cannot deep-copy a parametrized `nn.LSTM` once it has been called; copy the model
    before that, or after `squash_mask`.
    """

    def __init__(self, defaults: dict[str, float] | None = None, granularity: str = "rows") -> None:
        self.defaults = {"sparsity_level": 0.5, **(defaults or {})}
        unknown = self.defaults.keys() - {"sparsity_level"}
        if unknown:
            raise PrunerError(f"expected sparsity_level in the defaults, found {sorted(unknown)[0]!r}")
        check_sparsity("sparsity_level", self.defaults["sparsity_level"])
        check_choice("granularity", granularity, GRANULARITIES)
        self.granularity = granularity
        self.enable_mask_update = False
        self.groups: list[dict[str, Any]] = []
        self.model: nn.Module | None = None

    def prepare(self, model: nn.Module, config: list[dict[str, Any]] | None = None) -> None:
        """Attach an all-kept mask to each tensor of the config; None means every LSTM and LSTMCell of the model.

        An entry is `{"tensor_fqn": "lstm.weight_ih_l0"}`, with a `sparsity_level` of its own if it is to differ from
        the defaults. With `units`, either weight stands for its whole layer and direction. Raises PrunerError, before
        anything is attached, for a tensor that is not there, is not a packed LSTM weight, is masked already, or is computed
        by another tool.
        """
        if self.model is not None:
            raise PrunerError("expected a new pruner, found one already prepared; make one pruner a model")
        entries = _every_lstm(model) if config is None else config
        if not entries:
            raise PrunerError(f"expected an LSTM in the model, found none in {type(model).__name__}")
        groups: dict[tuple[int, Place | str], dict[str, Any]] = {}
        for group in [self._group(model, entry) for entry in entries]:
            module, name = _owner(model, group["tensor_fqn"])
            key = id(module), _place(name) if self.granularity == "units" else name
            if key not in groups:
                groups[key] = group
            elif self.granularity == "rows":
                raise PrunerError(f"expected each tensor once in the config, found {group['tensor_fqn']!r} twice")
            elif groups[key]["sparsity_level"] != group["sparsity_level"]:
                raise PrunerError(
                    f"expected one sparsity_level for all of a layer's units, found {groups[key]['sparsity_level']} for "
                    f"{groups[key]['tensor_fqn']!r} and {group['sparsity_level']} for {group['tensor_fqn']!r}"
                )
        names = [name for group in groups.values() for name in self._names(model, group)]
        for name in names:
            _check_plain(*_owner(model, name), name)
        for name in names:
            module, last = _owner(model, name)
            tensor = getattr(module, last)
            mask = torch.ones(len(tensor), dtype=torch.bool, device=tensor.device)
            parametrize.register_parametrization(module, last, RowMask(mask))
        self.model, self.groups = model, list(groups.values())

    def step(self) -> None:
        """Choose every mask anew from the present weights; does nothing while `enable_mask_update` is False."""
        if not self.enable_mask_update:
            return
        model = self._prepared()
        for group in self.groups:
            check_sparsity(f"sparsity_level of {group['tensor_fqn']}", group["sparsity_level"])
        for group in self.groups:
            masked = [_parametrization(model, name) for name in self._names(model, group)]
            weights = [each.original for each in masked if each.original.dim() > 1]
            mask = self._chosen([row_saliency(weight) for weight in weights], group["sparsity_level"])
            for each in masked:
                # A new tensor, because a backward pass under way still needs the old one.
                each[0].mask = mask.clone()

    def squash_mask(self) -> None:
        """Turn masked rows into zeros of plain weights and take the masks off the model."""
        model = self._prepared()
        for group in self.groups:
            for name in self._names(model, group):
                parametrize.remove_parametrizations(*_owner(model, name), leave_parametrized=True)
        self.model, self.groups = None, []

    def prune(self) -> nn.Module:
        """Take what the masks drop out of the model: each masked `nn.LSTM` becomes a smaller module, wherever it stands.

        With `units` that is a `CompactLSTM`, which computes from a zero state what the masked model computed, whatever reads
        it, because removed units come back as zeros. Where the model's `forward` shows for certain that only `nn.Linear`
        layers and other LSTMs read the output, or single layers of `h_n`, and where all layers and directions keep as many
        units as each other, it is the `nn.LSTM` itself, smaller: its `hidden_size` is the number of kept units, and what
        reads it loses the columns of the others. With `rows` it is a `RowCompactLSTM`, which multiplies only the kept rows.
        An `LSTMCell` keeps its size and its zeros. Returns the model, which is changed in place; if the model is itself an
        `nn.LSTM`, the smaller module. Hooks move over to it. Raises PrunerError, before anything is changed, for an LSTM
        with a `forward` of its own or with weights that another tool computes: they would be lost.
        """
        model = self._prepared()
        masks: dict[nn.Module, dict[str, Tensor]] = {}
        for name, mask in self.masks().items():
            module, last = _owner(model, name)
            masks.setdefault(module, {})[last] = mask
        for path, module in model.named_modules():
            if isinstance(module, nn.LSTM) and module in masks:
                _check_replaceable(path, module, masks[module])
        self.squash_mask()
        if isinstance(model, nn.LSTM):
            return with_hooks_of(model, self._compacted(model, masks[model]))
        # After squash_mask: torch.fx cannot look into parametrized modules.
        consumers = only_consumers(model) if self.granularity == "units" else {}
        small: dict[nn.Module, nn.Module] = {}
        places = list(model.named_modules(remove_duplicate=False))
        order = [*consumers, *(path for path, _ in places if path not in consumers)]  # trimmed as a consumer first
        for path, module in sorted(places, key=lambda place: order.index(place[0])):
            if isinstance(module, nn.LSTM) and module in masks:
                if module not in small:
                    compact = self._compacted(module, masks[module])
                    trimmed = path in consumers and _trim(model, module, compact, consumers[path])
                    small[module] = module if trimmed else with_hooks_of(module, compact)
                model.set_submodule(path, small[module])
        return model

    def masks(self) -> dict[str, Tensor]:
        """{name of a masked tensor: (4H,) bool mask}, True = kept."""
        model = self._prepared()
        names = (name for group in self.groups for name in self._names(model, group))
        return {name: _parametrization(model, name)[0].mask for name in names}

    def _chosen(self, saliencies: list[Tensor], sparsity: float) -> Tensor:
        """The (4H,) mask of one group, from the row saliency (4H,) of its weights."""
        if self.granularity == "rows":
            return keep_mask(row_ranks(saliencies[0]), (sparsity,) * len(GATES))
        scores = summed(saliencies)
        return keep_highest(scores, dropped_rows(len(scores), sparsity)).repeat(len(GATES))

    def _compacted(self, module: nn.LSTM, masks: Mapping[str, Tensor]) -> nn.Module:
        lstm = described(module)
        kept = torch.ones(
            len(GATES) * lstm.hidden_size, dtype=torch.bool, device=module.get_parameter("weight_ih_l0").device
        )
        every = {name: masks.get(name, kept) for name in lstm.weight_names().values()}
        if self.granularity == "rows":
            return compact_rows(module, list(row_masks(lstm, every).values()))
        return compact_units(module, list(unit_masks(lstm, every).values()))

    def _prepared(self) -> nn.Module:
        if self.model is None:
            raise PrunerError("expected a prepared pruner, found none; call prepare(model) first")
        return self.model

    def _names(self, model: nn.Module, group: dict[str, Any]) -> list[str]:
        """The tensors that one group masks: its own, or with `units` all of its layer and direction that have 4H rows."""
        name = group["tensor_fqn"]
        if self.granularity == "rows":
            return [name]
        module, last = _owner(model, name)
        return described(module, name.rpartition(".")[0]).packed_names(*_place(last))

    def _group(self, model: nn.Module, entry: dict[str, Any]) -> dict[str, Any]:
        known = isinstance(entry, dict) and entry.keys() <= {"tensor_fqn", "sparsity_level"}
        if not known or not isinstance(entry.get("tensor_fqn"), str):
            raise PrunerError(f"expected config entries of tensor_fqn and sparsity_level, found {shown(entry)}")
        name = entry["tensor_fqn"]
        module, last = _owner(model, name)
        weight = getattr(module, last, None)
        if not isinstance(weight, Tensor):
            raise PrunerError(
                f"expected the name of a tensor of the model, found {name!r}; see model.named_parameters()"
            )
        if weight.dim() < 2:
            raise PrunerError(
                f"expected a weight of two or more dimensions, whose rows have norms; found {name!r} of shape "
                f"{tuple(weight.shape)}"
            )
        standard = parse_standard_name(last)
        if standard is None or (standard.kind, standard.side) not in (("weight", "ih"), ("weight", "hh")):
            raise PrunerError(f"expected a packed LSTM weight (weight_ih or weight_hh), found {name!r}")
        if not isinstance(module, nn.LSTM | nn.LSTMCell):
            raise PrunerError(f"expected a tensor of an nn.LSTM or nn.LSTMCell, found one of {type(module).__name__}")
        level = entry.get("sparsity_level", self.defaults["sparsity_level"])
        check_sparsity(f"sparsity_level of {name}", level)
        return {"tensor_fqn": name, "sparsity_level": level}


def _owner(model: nn.Module, tensor_fqn: str) -> tuple[Any, str]:
    """The module that holds a tensor, and the tensor's name there."""
    path, _, name = tensor_fqn.rpartition(".")
    try:
        return model.get_submodule(path), name
    except AttributeError as error:
        raise PrunerError(f"expected the name of a tensor of the model, found {tensor_fqn!r} ({error})") from error


def _parametrization(model: nn.Module, tensor_fqn: str) -> Any:
    module, name = _owner(model, tensor_fqn)
    return module.parametrizations[name]


def _place(name: str) -> Place:
    """The layer and direction of a tensor of an `nn.LSTM` or `nn.LSTMCell`."""
    standard = parse_standard_name(name)
    assert standard is not None  # noqa: S101 - checked when the config was read
    return standard.layer or 0, standard.direction


def _trim(model: nn.Module, module: nn.LSTM, compact: nn.Module, consumers: dict[str, list[int]]) -> bool:
    """Shrink an `nn.LSTM` to the units of its `CompactLSTM`, and trim the columns of what alone reads it.

    They change in place, so whatever else refers to them sees the same. False, and nothing done, if layers or directions
    differ in size: an `nn.LSTM` has one.
    """
    kept = [units for name, units in compact.named_buffers() if name.endswith(".kept")]
    if len(counts(kept)) > 1:
        return False
    for path, blocks in consumers.items():
        _narrow(model.get_submodule(path), output_columns([kept[block] for block in blocks], module.hidden_size))
    for name in described(module).tensors:
        setattr(module, name, compact.get_parameter(inside(name, module.bidirectional)))
    module.hidden_size = len(kept[0])
    module.flatten_parameters()
    return True


def _narrow(consumer: nn.Module, columns: Tensor) -> None:
    """Leave an `nn.Linear` or `nn.LSTM` these columns of its input."""
    names = described(consumer).input_weights if isinstance(consumer, nn.LSTM) else ["weight"]
    for name in names:
        weight = consumer.get_parameter(name)
        setattr(consumer, name, nn.Parameter(Part(None, columns).shrink(weight.detach()), weight.requires_grad))
    if isinstance(consumer, nn.LSTM):
        consumer.input_size = len(columns)
        consumer.flatten_parameters()
    elif isinstance(consumer, nn.Linear):
        consumer.in_features = len(columns)


def _check_plain(module: nn.Module, name: str, tensor_fqn: str) -> None:
    if name not in dict(module.named_parameters(recurse=False, remove_duplicate=False)):
        raise PrunerError(
            f"expected plain weights, found {tensor_fqn!r} parametrized already, or computed by another tool "
            "such as weight_norm or torch.nn.utils.prune; squash its mask, or take that tool off, first"
        )


def _check_replaceable(path: str, module: nn.LSTM, masked: Mapping[str, Tensor]) -> None:
    own_class = parametrize.type_before_parametrizations(module)
    if own_class is not nn.LSTM or "forward" in vars(module):
        raise PrunerError(
            f"expected a plain nn.LSTM to put a smaller module in its place, found {path or 'the model'} with a forward of "
            f"its own ({own_class.__name__}), which would be lost; call squash_mask(), which leaves zeros"
        )
    for name, tensor_fqn in described(module, path).tensors.items():
        if name not in masked:
            _check_plain(module, name, tensor_fqn)


def with_hooks_of(lstm: nn.Module, compact: nn.Module) -> nn.Module:
    """The compact module with the very dictionaries of hooks, in which their handles find and remove them."""
    vars(compact).update({name: hooks for name, hooks in vars(lstm).items() if name in _HOOKS})
    return compact


def _every_lstm(model: nn.Module) -> list[dict[str, Any]]:
    return [
        {"tensor_fqn": name}
        for path, module in model.named_modules()
        if isinstance(module, nn.LSTM | nn.LSTMCell)
        for name in described(module, path).weight_names().values()
    ]
