"""A second device, pretended on a machine that has none: tensors that say they are on it are kept in memory, and whatever
brings tensors of both devices together fails, as it does on a GPU."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("meta")  # the one device that every build of torch knows beside the CPU

# What reads or gives how many sequences go on at each step, which stays here.
PACKED = ("aten._pack_padded_sequence.", "aten._pad_packed_sequence.", "aten._pack_padded_sequence_b", "aten.lstm.data")


class There(Tensor):
    """A tensor that says it is elsewhere, around the one that holds its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "There":
        return Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=ELSEWHERE, requires_grad=held.requires_grad
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class FromNumbers(TorchFunctionMode):
    """Has `torch.tensor` make its tensors here and send them there, because it fills them before anyone can look."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.tensor and torch.device(kwargs.get("device") or "cpu") == ELSEWHERE:
            return function(*args, **{**kwargs, "device": "cpu"}).to(ELSEWHERE)
        return function(*args, **kwargs)


class Elsewhere(TorchDispatchMode):
    """Within it, tensors can be made on the second device."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [isinstance(tensor, There) for tensor in tensors]
    name = str(function)
    copies = name.startswith(("aten._to_copy", "aten.to.", "aten.copy_"))
    here = [tensor for tensor, far in zip(tensors, there, strict=True) if not far and tensor.dim()]
    indices = "index" in name and name.startswith(("aten.index.", "aten.index_put"))  # torch moves indices itself
    if name.startswith(PACKED):
        here = [tensor for tensor in here if tensor.dtype != torch.int64]
    if any(there) and here and not copies and not indices:
        raise RuntimeError(f"expected all tensors on one device, found two in {name}")
    # In inference mode `to` arrives as it was called, its device among the others.
    wanted = kwargs.get("device") or next((each for each in args if isinstance(each, torch.device)), None)
    if wanted is not None:
        kwargs = {**kwargs, **({"device": torch.device("cpu")} if "device" in kwargs else {})}
        args = [torch.device("cpu") if isinstance(each, torch.device) else each for each in args]
    far = torch.device(wanted) == ELSEWHERE if wanted is not None else any(there)
    kwargs.pop("pin_memory", None)
    in_place = name.split(".")[1].endswith("_")
    held = tree_map(lambda leaf: leaf.held if isinstance(leaf, There) else leaf, (args, kwargs))
    found = function(*held[0], **held[1])
    if in_place:
        return args[0] if function._schema.returns else None
    if far and name.startswith(PACKED[:2]):
        return There(found[0]), found[1]
    return tree_map(lambda leaf: There(leaf) if isinstance(leaf, Tensor) and far else leaf, found)
