"""What may stand around a model in memory, and what torch knows of a pruner."""

import gc
import warnings
from typing import Any

from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrize import ParametrizationList

from pruner.errors import PrunerError


def unwrapped(model: nn.Module) -> tuple[str, nn.Module]:
    """(prefix of its names, the model that DataParallel, distributed or not, or torch.compile wrap), or ("", the model
    itself)."""
    parallel = isinstance(model, nn.DataParallel | DistributedDataParallel)
    for name in ("module", "_orig_mod"):
        inner = dict(model.named_children()).get(name)
        if inner is not None and (parallel or type(model).__name__ == "OptimizedModule"):
            prefix, innermost = unwrapped(inner)
            return f"{name}.{prefix}", innermost
    return "", model


def check_module(model: Any) -> None:
    """Raise PrunerError for what is no model."""
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise PrunerError(f"expected a model, a torch.nn.Module, found {what}; give the model itself")


def check_not_distributed(model: nn.Module) -> None:
    """Raise PrunerError for a model that DistributedDataParallel wraps: it knows only what it found when it was made."""
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise PrunerError(
            "expected the model itself, found it wrapped by DistributedDataParallel, which would not send the masks to "
            "other processes; call prepare(model) first and wrap it then"
        )


def check_whole(model: nn.Module) -> None:
    """Raise PrunerError for a model whose parameters lie in pieces, as FullyShardedDataParallel and `fully_shard` leave
    them; the first takes them out of the modules that it wraps."""
    parameters = list(model.parameters())
    gone = not parameters and any(isinstance(module, ParametrizationList) for module in model.modules())
    if gone or any(getattr(each, "_fsdp_flattened", False) or _is_piece(each) for each in parameters):
        raise PrunerError(
            f"expected whole parameters, found {type(model).__name__} sharded by FSDP, which holds pieces of them; prune "
            "first, and shard the smaller model"
        )


def _is_piece(parameter: nn.Parameter) -> bool:
    return type(parameter).__name__ == "DTensor"  # of a module that is slow to import, and there already if it is used


def warn_if_distributed(model: nn.Module) -> None:
    """Say so where a DistributedDataParallel of this process wraps a model whose parameters are about to be replaced."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    wrapping = [each for each in gc.get_objects() if type(each) is DistributedDataParallel]
    if any(module is model for each in wrapping for module in each.modules()):
        warnings.warn(
            "A DistributedDataParallel wraps this model and knows only the parameters from before prune(): wrap the model "
            "anew, or the smaller ones are not synchronised.",
            stacklevel=3,
        )


def register_with_torch(kind: type) -> None:
    """Have `isinstance(pruner, torch.ao.pruning.BaseSparsifier)` hold, which the schedulers there ask, where torch has
    it."""
    try:
        from torch.ao.pruning.sparsifier.base_sparsifier import BaseSparsifier
    except ImportError:  # the day that torch drops it, nothing asks for it either
        return
    BaseSparsifier.register(kind)
