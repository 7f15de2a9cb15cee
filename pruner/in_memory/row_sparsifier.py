"""The workflow of torch.ao.pruning for LSTMs in memory: prepare, step, train on, squash."""

import abc
import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.optimizer import Optimizer

from pruner.compact.compaction import expand
from pruner.errors import PrunerError, shown
from pruner.in_memory import wrappers
from pruner.in_memory.convert import converted
from pruner.in_memory.groups import NOT_SAVED, check_keys, check_whole_units, checked_groups, every_packed, located
from pruner.in_memory.optimizers import hold_at_zero
from pruner.in_memory.row_mask import RowMask, attach, check_alone, check_free, mask_on, owner_of, take_off, take_over
from pruner.in_memory.schedules import Schedule, checked
from pruner.in_memory.sites import Site, left_alone, row_compact, sites_in
from pruner.lstm.lstm import Place, title_of
from pruner.recipe import GRANULARITIES, check_choice, check_sparsity


class RowSparsifier(abc.ABC):
    """Keeps masks on packed LSTM weights and has `update_mask`, which subclasses write, choose them.

    It has the surface of `torch.ao.pruning`'s `BaseSparsifier` and `BaseStructuredSparsifier`, whose virtual subclass it is
    where torch has them, so that the schedulers there run with it. `groups` holds one dictionary a tensor, or with `units`
    one a layer and direction; `state` the mask of each by `tensor_fqn`; `enable_mask_update` says whether `step` does
    anything.
    """

    def __init__(
        self,
        defaults: Mapping[str, Any] | None = None,
        granularity: str = "rows",
        units: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.defaults: dict[str, Any] = {"sparsity_level": 0.5, **(defaults or {})}
        check_keys(self.defaults, "the defaults")
        level = self.defaults["sparsity_level"]
        for each in level.values() if isinstance(level, Mapping) else [level]:
            check_sparsity("sparsity_level", each)
        check_choice("granularity", granularity, GRANULARITIES)
        self.granularity, self.units = granularity, dict(units or {})
        self.enable_mask_update = True
        self.config: Sequence[Mapping[str, Any]] | None = None
        self.groups: list[dict[str, Any]] = []
        self.state: dict[str, dict[str, Any]] = defaultdict(dict)
        self.model: nn.Module | None = None
        self._places: dict[str, tuple[Site, Place]] = {}
        self._schedule: Schedule | None = None
        self._taken = 0
        wrappers.register_with_torch(type(self))

    def make_config_from_model(self, model: nn.Module, SUPPORTED_MODULES: Iterable[type] | None = None) -> None:  # noqa: N803
        """Set `config` to every packed weight of the LSTMs and LSTMCells of a model, or of those of some classes."""
        self.config = every_packed(model, SUPPORTED_MODULES)

    def prepare(self, model: nn.Module, config: Sequence[Mapping[str, Any]] | None = None) -> None:
        """Attach an all-kept mask to each tensor of the config; None means every LSTM and LSTMCell of the model.

        An entry is `{"tensor_fqn": "lstm.weight_ih_l0"}`, or `module` with `tensor_name`, or `module` alone for all of
        its packed weights; with `sparsity_level`, `units` to keep, a `mask` to begin with, or keys of a subclass, where
        they differ from the defaults. With `units`, either weight stands for its whole layer and direction. What an
        earlier round left is pruned on: of a `CompactLSTM` the share of what is left, of a `RowCompactLSTM`, which
        becomes an `nn.LSTM` of full size again, the share of all; smaller cells, and what rebuilds the units that it
        lost, stay as they are, which `shrink` makes smaller. Masks that a file or a deep copy brought along are
        taken over. Parameters stay the same objects, so optimizers go on. Raises PrunerError, before anything is
        attached, for a tensor that is not there, is not a packed LSTM weight, is masked already, is shared, or
        is computed by another tool.
        """
        if self.model is not None:
            raise PrunerError("expected a new pruner, found one already prepared; call squash_mask() or prune() first")
        wrappers.check_module(model)
        wrappers.check_not_distributed(model)
        wrappers.check_whole(model)
        widened = row_compact(model)
        for path, small in widened:
            model.set_submodule(path, expand(small))
        try:
            if config is None:
                self.make_config_from_model(model)
            else:
                self.config = config
            if not self.config:
                raise _nothing_in(model)
            groups = checked_groups(model, self.config, self.defaults, self.units, self.granularity)
            self._check_attachable(model, groups)
        except PrunerError:
            for path, small in widened:
                model.set_submodule(path, small)
            raise
        self._attach(model, groups)

    def step(self, use_path: bool = True) -> None:
        """Choose every mask anew by `update_mask`; does nothing while `enable_mask_update` is False. With a schedule,
        this is one step of it. `use_path` is there because torch.ao.pruning has it, and does nothing, as there."""
        if not self.enable_mask_update:
            return
        self._prepared()
        if self._schedule is not None:
            self._taken += 1
            if not self._schedule.is_due(self._taken):
                return
            for group in self.groups:
                group["sparsity_level"] = self._schedule.level(self._taken, group["final_sparsity"])
        for group in self.groups:
            check_sparsity(f"sparsity_level of {group['tensor_fqn']}", group["sparsity_level"])
        with torch.no_grad():
            for group in self.groups:
                self.update_mask(**group)
        self._settle()

    @abc.abstractmethod
    def update_mask(self, module: nn.Module, tensor_name: str, **kwargs: Any) -> None:
        """Choose the mask of one group, given all that is in it: `module.parametrizations[tensor_name][0].mask`, (4H,) bool.

        With `units`, the mask must hold whole units, and is then that of the whole layer and direction. A new mask is a new
        tensor, because a backward pass under way still needs the old one.
        """

    def schedule(self, shape: str, steps: int = 1, begin: int = 0, every: int = 1, initial: float = 0.0) -> None:
        """From now on each `step()` is a step of training, and the sparsity grows to the present `sparsity_level` of
        each group.

        `shape` is `cubic`, `linear` or `constant`; see `schedules.Schedule`. Where it stands is part of `state_dict()`.
        Raises PrunerError for a pruner that is not prepared, and for settings that make no sense.
        """
        self._prepared()
        self._schedule, self._taken = Schedule(shape, steps, begin, every, initial), 0
        for group in self.groups:
            group["final_sparsity"] = group["sparsity_level"]

    def squash_mask(
        self,
        params_to_keep: Sequence[str] | None = None,
        params_to_keep_per_layer: Mapping[str, Sequence[str]] | None = None,
        *,
        freeze: bool = False,
        optimizers: Sequence[Optimizer] = (),
    ) -> None:
        """Turn masked rows into zeros of plain weights and take the masks off the model.

        Both arguments name keys of the groups that their module keeps in a dictionary `sparse_params`: for all modules,
        and by the names of modules. Zeros are ordinary weights from then on, and training fills them; with `freeze=True`
        their gradients are zero, by a hook on the parameter, which copies of the model lack. Weight decay leaves zeros
        as they are, but momentum from before the mask goes on to move them unless the `optimizers` are given, whose
        moments there become zero. Raises PrunerError, before anything is changed, for keys that no group has.
        """
        model = self._prepared()
        kept = [self._kept_keys(group, params_to_keep, params_to_keep_per_layer) for group in self.groups]
        masks = self.masks()
        for name, mask in masks.items():
            module, last = owner_of(model, name)
            take_off(module, last)
            if freeze:
                hold_at_zero(module.get_parameter(last), mask, optimizers)
        for group, keys in zip(self.groups, kept, strict=True):
            if keys:
                group["module"].sparse_params = {key: group[key] for key in keys}
        self._forget()

    def masks(self) -> dict[str, Tensor]:
        """{name of a masked tensor: (4H,) bool mask}, True = kept."""
        model = self._prepared()
        return {name: mask_on(model, name).mask for group in self.groups for name in self._names(group)}

    def convert(
        self,
        module: nn.Module,
        mapping: Mapping[type[nn.Module], type[nn.Module]] | None = None,
        inplace: bool = False,
        parameterization: type[nn.Module] = RowMask,
    ) -> nn.Module:
        """A model with each masked module of a class in `mapping` made another by `mapping[class].from_dense(module)`,
        in a copy unless `inplace`. Raises PrunerError without a mapping."""
        if mapping is None:
            raise PrunerError("expected a mapping of module classes, found none; name what each class becomes")
        return converted(module if inplace else copy.deepcopy(module), mapping, parameterization)

    def state_dict(self) -> dict[str, Any]:
        """Masks by tensor name, groups without their modules, and where a schedule stands: what `torch.save` can write."""
        groups = [{key: value for key, value in group.items() if key not in NOT_SAVED} for group in self.groups]
        schedule = None if self._schedule is None else {**self._schedule.to_dict(), "taken": self._taken}
        return {"state": {name: dict(own) for name, own in self.state.items()}, "groups": groups, "schedule": schedule}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        """Take over masks, groups and schedule for the model that is prepared; other masks leave it, and it keeps its
        weights.

        Raises PrunerError, before anything is changed, for tensors that the model does not have (unless `strict` is
        False, then they are left out) and for masks of another size.
        """
        model, loaded = self._prepared(), []
        schedule = dict(state_dict.get("schedule") or {})
        taken, found = schedule.pop("taken", 0), checked(schedule) if schedule else None
        for entry in state_dict["groups"]:
            own = {**entry, "mask": state_dict["state"].get(entry["tensor_fqn"], {}).get("mask")}
            try:
                loaded += checked_groups(model, [own], {"sparsity_level": 0.5}, {}, self.granularity)
            except PrunerError:
                if strict:
                    raise
        for name in self.masks():
            parametrize.remove_parametrizations(*owner_of(model, name), leave_parametrized=False)
        state = {name: dict(own) for name, own in state_dict["state"].items()}
        self._forget()
        self._attach(model, loaded)
        for group in self.groups:
            self.state[group["tensor_fqn"]] = {**state.get(group["tensor_fqn"], {}), **self.state[group["tensor_fqn"]]}
        self._schedule, self._taken = found, taken

    def __getstate__(self) -> dict[str, Any]:
        # Schedulers of torch.ao.pruning put a `step` of their own on the pruner, which a copy must not call.
        return {name: value for name, value in vars(self).items() if name != "step"}

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ({self.granularity})"]
        for group in self.groups:
            mask = mask_on(self._prepared(), group["tensor_fqn"]).mask
            lines.append(
                f"    {group['tensor_fqn']}: sparsity_level {group['sparsity_level']:g}, "
                f"{int((~mask).sum())} of {len(mask)} rows masked"
            )
        return "\n".join(lines)

    def _prepared(self) -> nn.Module:
        if self.model is None:
            raise PrunerError("expected a prepared pruner, found none; call prepare(model) first")
        wrappers.check_whole(self.model)
        return self.model

    def _check_attachable(self, model: nn.Module, groups: list[dict[str, Any]]) -> None:
        """Raise PrunerError unless every tensor to mask is free and no other, and every consumer there."""
        sites = sites_in(model)
        places = [located(sites, group["module"], group["tensor_fqn"]) for group in groups]
        names = [self._names(group, at) for group, at in zip(groups, places, strict=True)]
        for name in (name for group in names for name in group):
            check_free(*owner_of(model, name), name)
        check_alone(model, names)

    def _attach(self, model: nn.Module, groups: list[dict[str, Any]]) -> None:
        sites = sites_in(model)
        self.model, self.groups = model, groups
        self._places = {group["tensor_fqn"]: located(sites, group["module"], group["tensor_fqn"]) for group in groups}
        for group in groups:
            for name in self._names(group):
                attach(*owner_of(model, name), group["parametrization"])
                take_over(*owner_of(model, name), self)
            if (first := group.pop("mask", None)) is not None:
                on = mask_on(model, group["tensor_fqn"])
                on.mask = first.to(on.mask.device, copy=True)
        self._settle()

    def _settle(self) -> None:
        """Have all tensors of a unit follow the mask of their group, and note the masks in `state`."""
        model = self._prepared()
        for group in self.groups:
            mask = mask_on(model, group["tensor_fqn"]).mask
            if self.granularity == "units":
                check_whole_units(mask, group["tensor_fqn"])
                for name in self._names(group):
                    if name != group["tensor_fqn"]:
                        mask_on(model, name).mask = mask.clone()
            self.state[group["tensor_fqn"]]["mask"] = mask

    def _forget(self) -> None:
        self.model, self.groups, self._places, self._schedule, self._taken = None, [], {}, None, 0
        self.state = defaultdict(dict)

    def _names(self, group: dict[str, Any], at: tuple[Site, Place] | None = None) -> list[str]:
        """The tensors that one group masks: its own, or with `units` all of its layer and direction that have 4H rows."""
        if self.granularity == "rows":
            return [group["tensor_fqn"]]
        site, place = at or self._places[group["tensor_fqn"]]
        return site.names(place)

    def _kept_keys(self, group: Mapping[str, Any], every: Any, per_layer: Any) -> list[str]:
        """The keys of a group that its module keeps."""
        keys = [*(every or ()), *(per_layer or {}).get(group["module_fqn"], ())]
        missing = [key for key in keys if key not in group]
        if missing:
            raise PrunerError(f"expected keys to keep among {', '.join(map(str, group))}, found {shown(missing[0])}")
        return keys


def _nothing_in(model: nn.Module) -> PrunerError:
    """What to say of a model in which nothing can be masked."""
    smaller = left_alone(model)
    if not smaller:
        return PrunerError(f"expected an LSTM in the model, found none in {type(model).__name__}")
    return PrunerError(
        f"expected an LSTM that can be pruned once more, found {' and '.join(map(title_of, smaller))}, which is a smaller "
        "cell or rebuilds the units that it lost; give the model to shrink, or prune the one that it was made from"
    )
