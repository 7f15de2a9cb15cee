"""What pruning and parametrization tools leave behind in a state dict."""

import re

import torch
from torch import Tensor

from pruner.lstm.gates import parse_standard_name
from pruner.lstm.lstm import DTYPES, Skipped

_PARAMETRIZED = re.compile(r"(?P<module>.*?)parametrizations\.(?P<tensor>[^.]+)\.(?P<part>.+)")


def resolve_leftovers(stored: dict[str, Tensor]) -> tuple[dict[str, str], dict[str, Tensor], list[Skipped]]:
    """Undo what pruning and parametrization tools leave in a state dict.

    Returns the plain name of every tensor with the name it is stored under, the values with masks applied, and what
    cannot be rebuilt. `torch.nn.utils.prune` leaves `weight_orig` and `weight_mask`
    (https://docs.pytorch.org/tutorials/intermediate/pruning_tutorial.html); `torch.nn.utils.parametrize` leaves
    `parametrizations.weight.original`, and this project's LSTMSaliencyPruner a mask of rows beside it.
    """
    aliases = {name: name for name in stored}
    tensors = dict(stored)
    unresolved = []
    parts: dict[tuple[str, str], set[str]] = {}
    for name in stored:
        if match := _PARAMETRIZED.fullmatch(name):
            parts.setdefault((match["module"], match["tensor"]), set()).add(match["part"])
    leftovers = {
        name: (name.removesuffix("_orig"), name.removesuffix("_orig") + "_mask")
        for name in stored
        if name.endswith("_orig") and name.removesuffix("_orig") + "_mask" in stored
    }
    for (module, tensor), found in parts.items():
        if found <= {"original", "0.mask"} and "original" in found:
            inside = f"{module}parametrizations.{tensor}."
            leftovers[f"{inside}original"] = (f"{module}{tensor}", f"{inside}0.mask")
        elif parse_standard_name(tensor):
            reason = (
                f"{tensor} is computed by a parametrization that the file does not hold; call "
                "torch.nn.utils.parametrize.remove_parametrizations before saving"
            )
            unresolved.append(Skipped(module.rstrip("."), reason))
    for name, (plain, mask) in leftovers.items():
        if mask in stored:
            masked = _masked(stored[name], stored[mask])
            if masked is None:
                continue
            tensors[name] = masked
        aliases.setdefault(plain, name)
        del aliases[name]
    return aliases, tensors, unresolved


def beside(name: str, tensor: str) -> list[str]:
    """The names under which a file may hold another tensor of the module that `name` belongs to: its plain one, and those
    that pruning and parametrization tools leave."""
    match = _PARAMETRIZED.fullmatch(name)
    module = match["module"] if match else name[: name.rfind(".") + 1]
    return [f"{module}{tensor}", f"{module}{tensor}_orig", f"{module}parametrizations.{tensor}.original"]


def _masked(tensor: Tensor, mask: Tensor) -> Tensor | None:
    """The tensor times its mask, which is of the same shape or has one value a row; None if they do not fit."""
    if tensor.dtype not in DTYPES or mask.dtype not in (*DTYPES, torch.bool, torch.uint8):
        return None
    if mask.dim() == 1 and tensor.dim() > 1 and len(mask) == len(tensor):
        mask = mask.reshape(-1, *[1] * (tensor.dim() - 1))
    elif mask.shape != tensor.shape:
        return None
    return (tensor.detach() * mask).to(tensor.dtype)
