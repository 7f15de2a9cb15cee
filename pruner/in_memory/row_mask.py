"""Masks on the tensors of a model: attached, found, taken off, and whose they are."""

import copy
import weakref
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pruner.errors import PrunerError


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


# Whose masks they are. A copy of a model, and a file, hold masks of nobody, which any pruner may take over.
_pruners: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Any]] = weakref.WeakKeyDictionary()


def owner_of(model: nn.Module, tensor_fqn: str) -> tuple[Any, str]:
    """The module that holds a tensor, and the tensor's name there. Raises PrunerError where there is no such module."""
    path, _, name = tensor_fqn.rpartition(".")
    try:
        return model.get_submodule(path), name
    except AttributeError as error:
        raise PrunerError(f"expected the name of a tensor of the model, found {tensor_fqn!r} ({error})") from error


def mask_on(model: nn.Module, tensor_fqn: str) -> Any:
    """The parametrization that holds the mask of a tensor."""
    module, name = owner_of(model, tensor_fqn)
    return module.parametrizations[name][0]


def attach(module: nn.Module, name: str, kind: type[nn.Module] = RowMask) -> None:
    """Give a tensor a mask that keeps all of its rows, unless there is one."""
    if is_masked(module, name):
        return
    tensor = getattr(module, name)
    mask = torch.ones(len(tensor), dtype=torch.bool, device=tensor.device)
    parametrize.register_parametrization(module, name, kind(mask))
    own_class: Any = type(module)  # which `parametrize` made for this module
    own_class.__deepcopy__ = _copied


def take_over(module: nn.Module, name: str, pruner: object) -> None:
    """Note whose the mask on a tensor is from now on."""
    own: Any = module.parametrizations
    _pruners[own[name][0]] = weakref.ref(pruner)


def is_masked(module: nn.Module, name: str) -> bool:
    """Whether a tensor has a mask on it."""
    if not parametrize.is_parametrized(module, name):
        return False
    own: Any = module.parametrizations
    return len(own[name]) == 1 and isinstance(getattr(own[name][0], "mask", None), Tensor)


def take_off(module: nn.Module, name: str) -> None:
    """Make the masked values of a tensor its own; the parameter stays the same object, which optimizers know."""
    parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def values(module: nn.Module, name: str, masked: bool = False) -> Tensor:
    """A tensor of a module, as it is under its mask, or as it was without."""
    if masked or not is_masked(module, name):
        return getattr(module, name).detach()
    return _parameter(module, name).detach()


def check_free(module: nn.Module, name: str, tensor_fqn: str) -> None:
    """Raise PrunerError unless a tensor is a plain parameter, or under a mask of nobody."""
    if is_masked(module, name):
        own: Any = module.parametrizations
        owner = _pruners.get(own[name][0], lambda: None)()
        free = owner is None or owner.model is None
    else:
        free = name in dict(module.named_parameters(recurse=False, remove_duplicate=False))
    if not free:
        raise PrunerError(
            f"expected plain weights, found {tensor_fqn!r} parametrized already, or computed by another tool "
            "such as weight_norm or torch.nn.utils.prune; squash its mask, or take that tool off, first"
        )


def check_alone(model: nn.Module, groups: Iterable[list[str]]) -> None:
    """Raise PrunerError for a tensor that is also another one of the model, outside of its group, which all have one mask:
    masked rows would be missing there, too."""
    held = defaultdict[int, list[str]](list)
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(path, recurse=False, remove_duplicate=False):
            held[id(parameter)].append(name.replace("parametrizations.", "").removesuffix(".original"))
    for group in groups:
        for name in group:
            same = held[id(_parameter(*owner_of(model, name)))]
            if len(same) > 1 and not set(same) <= set(group):
                raise PrunerError(
                    f"expected tensors of one mask each, found {' and '.join(map(repr, same))} to be the same one; "
                    "give each its own, or leave all of them out of the config"
                )


def _parameter(module: Any, name: str) -> Any:
    """What lies under a mask, or the tensor itself."""
    return module.parametrizations[name].original if is_masked(module, name) else getattr(module, name)


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy as PyTorch makes it, but for two things that go wrong there.

    The copy has a class of its own, because taking a mask off changes the class; and what an LSTM keeps of computed weights
    from its last call is computed anew, because it cannot be copied.
    """
    if id(module) in memo:
        return memo[id(module)]
    shared = type(module)
    own = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    replica: Any = nn.Module.__new__(type(shared.__name__, shared.__bases__, own))
    memo[id(module)] = replica
    left = {name: value for name, value in vars(module).items() if name not in ("_flat_weights", "_flat_weight_refs")}
    vars(replica).update(copy.deepcopy(left, memo))
    if isinstance(module, nn.RNNBase):
        vars(replica).update(_flat_weights=[], _flat_weight_refs=[])
        replica._init_flat_weights()
    return replica
