"""Gate-aware saliency pruning of a model in memory, in the workflow of torch.ao.pruning."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from pruner.errors import PrunerError
from pruner.in_memory import wrappers
from pruner.in_memory.choosing import Choice
from pruner.in_memory.optimizers import carry_over, check_optimizers
from pruner.in_memory.replacing import check_replaceable, input_weights, named_consumers, replace_masked
from pruner.in_memory.row_sparsifier import RowSparsifier
from pruner.in_memory.sites import Site
from pruner.lstm.gates import GATES
from pruner.lstm.lstm import Place
from pruner.recipe import CRITERIA, DATA_CRITERIA, Recipe


class LSTMSaliencyPruner(RowSparsifier):
    """Masks the rows of lowest norm in packed LSTM weights, gate by gate or unit by unit, while a model is trained.

    The workflow, and with `granularity="rows"` the choice of rows, are those of `torch.ao.pruning`'s experimental class of
    this name (https://github.com/pytorch/pytorch/blob/main/torch/ao/pruning/_experimental/pruner/lstm_saliency_pruner.py),
    built on the public `torch.nn.utils.parametrize`:

        >>> model = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(8, 16)})
        >>> pruner = LSTMSaliencyPruner({"sparsity_level": 0.5})
        >>> pruner.prepare(model, config=[{"tensor_fqn": "lstm.weight_ih_l0"}, {"tensor_fqn": "lstm.weight_hh_l0"}])
        >>> pruner.step()  # the masks now follow the weights; train on, step again, as often as you like
        >>> pruner.squash_mask()  # the masks become zeros in plain weights
        >>> int((model["lstm"].weight_ih_l0.abs().sum(1) == 0).sum())  # 8 of 16 rows of each of the four gates
        32

    `rows`: each gate of each tensor loses its own `int(H * sparsity_level)` rows. `units`: each layer and direction
    loses `int(H * sparsity_level)` whole hidden units, all eight rows and the biases of each. `prune` takes either out
    of the model.

    `defaults["sparsity_level"]` is a number, or one for each pattern of tensor names (`{"encoder.*": 0.25, "*": 0.5}`,
    the first that fits). Any other key of the defaults and of config entries is handed on to `update_mask`, which
    subclasses may override. `criterion`, `allocation` and `round_to` are those of a `Recipe`, as far as they need no
    data. `consumers` are the weights that alone read an LSTM (`head.weight`, or `lstm=head.weight`), where the model's
    `forward` does not show them. `units` are hidden units to keep, whatever they score: `{"encoder.*": [0, 3, 5]}`.

    Masks are chosen anew from the unmasked weights at every step, so a lower sparsity brings rows back; with
    `regrow=False`, as upstream, what fell never does. Raises PrunerError for settings that make no sense.
    """

    def __init__(
        self,
        defaults: Mapping[str, Any] | None = None,
        granularity: str = "rows",
        *,
        criterion: str = "l1",
        allocation: str = "uniform",
        round_to: int = 1,
        consumers: Sequence[str] = (),
        units: Mapping[str, Sequence[int]] | None = None,
        regrow: bool = True,
    ) -> None:
        super().__init__(defaults, granularity, units)
        recipe = Recipe(granularity=granularity, criterion=criterion, allocation=allocation, round_to=round_to)
        if criterion in DATA_CRITERIA:
            without = ", ".join(name for name in CRITERIA if name not in DATA_CRITERIA)
            raise PrunerError(
                f"expected a criterion that needs no data ({without}), found {criterion!r}; prune a checkpoint with "
                "calibration inputs, or choose one of these"
            )
        if granularity == "rows" and (units or consumers):
            raise PrunerError(
                "expected granularity 'units' with units and consumers, found 'rows'; choose granularity 'units'"
            )
        self.consumers = tuple(consumers)
        self._choice = Choice(recipe, regrow)

    def update_mask(self, module: nn.Module, tensor_name: str, **kwargs: Any) -> None:
        """Choose the mask of one group, given all that is in it: see the base class.
        Subclasses may override it."""
        own: Any = module.parametrizations
        mask, level = own[tensor_name][0], kwargs["sparsity_level"]
        if self.granularity == "rows":
            mask.mask = self._choice.rows(module, tensor_name, mask.mask, level)
            return
        if (units := kwargs.get("units")) is not None:
            kept = torch.zeros(len(mask.mask) // len(GATES), dtype=torch.bool, device=mask.mask.device)
            kept[units] = True
            mask.mask = kept.repeat(len(GATES))
            return
        site, place = self._places[kwargs["tensor_fqn"]]
        mask.mask = self._choice.units(site, place, self._shares(site, place), self._readers(site))

    def prune(self, *optimizers: Optimizer) -> nn.Module:
        """Take what the masks drop out of the model: each masked `nn.LSTM` becomes a smaller module, wherever it stands.

        With `units` that is a `CompactLSTM`, which computes from a zero state what the masked model computed, whatever
        reads it, because removed units come back as zeros. Where the model's `forward` shows for certain that only
        `nn.Linear` layers and other LSTMs read the output, or single layers of `h_n`, or `consumers` says who does, and
        where all layers and directions keep as many units as each other, it is an `nn.LSTM`: its `hidden_size` is the
        number of kept units, and what reads it loses the columns of the others. With `rows` it is a `RowCompactLSTM`,
        which multiplies only the kept rows. An `LSTMCell` keeps its size and its zeros. Returns the model, which is
        changed in place; if the model is itself an LSTM, the smaller module. Hooks of modules move over.

        Parameters become smaller ones, which optimizers made before do not know: give those (`prune(optimizer)`), and
        the smaller parameters take their places, with gradients, moments and all else of their shape trimmed alike. An
        optimizer that was not given and steps with parameters that are gone is named by a warning. Raises PrunerError,
        before anything is changed, for an LSTM with a `forward` of its own or with weights that another tool computes,
        which would be lost, and for optimizers of other models.
        """
        model, masks = self._prepared(), self.masks()
        check_replaceable(model, masks)
        check_optimizers(optimizers, model)
        named = named_consumers(model, self.consumers)  # by the names of modules, which squash_mask forgets
        wrappers.warn_if_distributed(model)
        self.squash_mask()
        small, moves = replace_masked(model, masks, self.granularity, named)
        carry_over(moves, optimizers)
        return small

    def _check_attachable(self, model: nn.Module, groups: list[dict[str, Any]]) -> None:
        super()._check_attachable(model, groups)
        named_consumers(model, self.consumers)

    def _shares(self, site: Site, place: Place) -> dict[Place, float]:
        """{place: sparsity} of all that is ranked together with a place."""
        shares = {}
        for group in self.groups:
            owner, own = self._places[group["tensor_fqn"]]
            if owner.module is site.module and "units" not in group:
                shares[own] = group["sparsity_level"]
        if self._choice.recipe.allocation == "uniform":
            return {place: shares[place]}
        if len(set(shares.values())) > 1:
            raise PrunerError(
                f"expected one sparsity_level for all layers of {site.path or 'the LSTM'} with allocation 'global', found "
                f"{sorted(set(shares.values()))}; choose allocation 'uniform'"
            )
        return shares

    def _readers(self, site: Site) -> list[Tensor]:
        """The weights that read the last layer, as far as `consumers` names them."""
        model = self._prepared()
        named = named_consumers(model, self.consumers).get(site.path, {})
        return [weight for path in named for weight in input_weights(model.get_submodule(path))]
