"""Gate-aware saliency pruning of a model in memory, in the workflow of torch.ao.pruning."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pruner.errors import PrunerError, shown
from pruner.gates import GATES, SIDES, parse_standard_name
from pruner.masks import keep_mask, row_ranks
from pruner.recipe import GRANULARITIES, check_choice, check_sparsity
from pruner.saliency import row_saliency


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
    """Masks the rows of lowest L1 norm in each gate of packed LSTM weights.

    The workflow and the choice of rows are those of `torch.ao.pruning`'s experimental class of this name
    (https://github.com/pytorch/pytorch/blob/main/torch/ao/pruning/_experimental/pruner/lstm_saliency_pruner.py), built
    on the public `torch.nn.utils.parametrize`:

        pruner = LSTMSaliencyPruner({"sparsity_level": 0.5})
        pruner.prepare(model, config=[{"tensor_fqn": "lstm.weight_ih_l0"}, {"tensor_fqn": "lstm.weight_hh_l0"}])
        pruner.enable_mask_update = True
        pruner.step()          # the masks now follow the weights; train on, step again, as often as you like
        pruner.squash_mask()   # the masks become zeros in plain weights

    Masks are chosen anew from the unmasked weights at every step, so a lower sparsity brings rows back. `groups` holds
    one dictionary a tensor (`tensor_fqn`, `sparsity_level`), which may be changed between steps. PyTorch cannot deep-copy a
    parametrized `nn.LSTM` once it has been called; copy the model before that, or after `squash_mask`.
    """

    def __init__(self, defaults: dict[str, float] | None = None, granularity: str = "rows") -> None:
        self.defaults = {"sparsity_level": 0.5, **(defaults or {})}
        unknown = self.defaults.keys() - {"sparsity_level"}
        if unknown:
            raise PrunerError(f"expected sparsity_level in the defaults, found {sorted(unknown)[0]!r}")
        check_sparsity("sparsity_level", self.defaults["sparsity_level"])
        check_choice("granularity", granularity, GRANULARITIES)
        self.enable_mask_update = False
        self.groups: list[dict[str, Any]] = []
        self.model: nn.Module | None = None

    def prepare(self, model: nn.Module, config: list[dict[str, Any]] | None = None) -> None:
        """Attach an all-kept mask to each tensor of the config; None means every LSTM and LSTMCell of the model.

        An entry is `{"tensor_fqn": "lstm.weight_ih_l0"}`, with a `sparsity_level` of its own if it is to differ from
        the defaults. Raises PrunerError, before anything is attached, for a tensor that is not there, is not a packed
        LSTM weight, or is masked already.
        """
        if self.model is not None:
            raise PrunerError("expected a new pruner, found one already prepared; make one pruner a model")
        entries = _every_lstm(model) if config is None else config
        if not entries:
            raise PrunerError(f"expected an LSTM in the model, found none in {type(model).__name__}")
        groups = [self._group(model, entry) for entry in entries]
        seen = set()
        for group in groups:
            module, name = _owner(model, group["tensor_fqn"])
            if (id(module), name) in seen:
                raise PrunerError(f"expected each tensor once in the config, found {group['tensor_fqn']!r} twice")
            seen.add((id(module), name))
        for group in groups:
            module, name = _owner(model, group["tensor_fqn"])
            weight = getattr(module, name)
            mask = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
            parametrize.register_parametrization(module, name, RowMask(mask))
        self.model, self.groups = model, groups

    def step(self) -> None:
        """Choose every mask anew from the present weights; does nothing while `enable_mask_update` is False."""
        if not self.enable_mask_update:
            return
        for group in self.groups:
            check_sparsity(f"sparsity_level of {group['tensor_fqn']}", group["sparsity_level"])
        for group, (module, name) in self._masked():
            parametrizations = module.parametrizations[name]
            ranks = row_ranks(row_saliency(parametrizations.original))
            # A new tensor, because a backward pass under way still needs the old one.
            parametrizations[0].mask = keep_mask(ranks, (group["sparsity_level"],) * len(GATES))

    def squash_mask(self) -> None:
        """Turn masked rows into zeros of plain weights and take the masks off the model."""
        for _, (module, name) in self._masked():
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        self.model, self.groups = None, []

    def masks(self) -> dict[str, Tensor]:
        """{tensor_fqn: (4H,) bool mask}, True = kept."""
        return {group["tensor_fqn"]: module.parametrizations[name][0].mask for group, (module, name) in self._masked()}

    def _masked(self) -> list[tuple[dict[str, Any], tuple[Any, str]]]:
        if self.model is None:
            raise PrunerError("expected a prepared pruner, found none; call prepare(model) first")
        return [(group, _owner(self.model, group["tensor_fqn"])) for group in self.groups]

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
        if parametrize.is_parametrized(module, last):
            raise PrunerError(f"expected a plain weight, found {name!r} parametrized already; squash its mask first")
        level = entry.get("sparsity_level", self.defaults["sparsity_level"])
        check_sparsity(f"sparsity_level of {name}", level)
        return {"tensor_fqn": name, "sparsity_level": level}


def _owner(model: nn.Module, tensor_fqn: str) -> tuple[Any, str]:
    path, _, name = tensor_fqn.rpartition(".")
    try:
        return model.get_submodule(path), name
    except AttributeError as error:
        raise PrunerError(f"expected the name of a tensor of the model, found {tensor_fqn!r} ({error})") from error


def _every_lstm(model: nn.Module) -> list[dict[str, Any]]:
    entries = []
    for path, module in model.named_modules():
        if isinstance(module, nn.LSTM | nn.LSTMCell):
            for name, _ in module.named_parameters(recurse=False):
                standard = parse_standard_name(name)
                if standard and standard.kind == "weight" and standard.side in SIDES:
                    entries.append({"tensor_fqn": f"{path}.{name}" if path else name})
    return entries
