"""Masked modules made other modules, as torch.ao.pruning does for kernels of its own."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from pruner.in_memory.replacing import with_hooks_of


def converted(
    module: nn.Module, mapping: Mapping[type[nn.Module], type[nn.Module]], parameterization: type[nn.Module]
) -> nn.Module:
    """The module with each child under such a parametrization, of a class in the mapping, made by that class, on the
    same device and with the same hooks."""
    for name, child in list(module.named_children()):
        wanted: Any = mapping.get(parametrize.type_before_parametrizations(child))
        if wanted is not None and _has(child, parameterization):
            made = wanted.from_dense(child).to(next(child.parameters()).device)
            setattr(module, name, with_hooks_of(child, made))
        else:
            converted(child, mapping, parameterization)
    return module


def _has(module: nn.Module, parameterization: type[nn.Module]) -> bool:
    own: Any = getattr(module, "parametrizations", {})
    return any(isinstance(each, parameterization) for tensor in own.values() for each in tensor)
