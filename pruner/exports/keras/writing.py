"""The Keras file of an export, written beside its plain state dict."""

from collections.abc import Callable
from pathlib import Path as Folder

import numpy as np
import torch
from torch import Tensor

from pruner.compact.masked_and_compact import Pruned
from pruner.exports.keras.plan import Plan, Unwritable, file_of, plan_of, read_whole, rebuilt_by_readers, resized
from pruner.files.arrays import BFLOAT16
from pruner.files.keras_files import KERAS, KERAS_H5
from pruner.files.keras_layout import CUDNN_KERNEL, CUDNN_RECURRENT, JOINED, SAME, SUM, TRANSPOSED
from pruner.files.keras_whole import Whole
from pruner.lstm.gates import split_gates


def write_keras_file(folder: Folder, pruned: Pruned, form: str) -> list[str]:
    """Write a form of what was a Keras file as one, and return sentences for people who load it; nothing for other formats.

    Raises OSError where there is no room.
    """
    checkpoint = pruned.checkpoint
    if checkpoint.format not in (KERAS, KERAS_H5):
        return []
    whole = read_whole(checkpoint.source, checkpoint.name)
    try:
        plan = plan_of(whole, pruned, form)
        arrays = arrays_of(whole, plan, _tensors(pruned, plan))
        whole.changed(arrays, plan.config, plan.optimizer).write(folder / plan.file)
    except (Unwritable, ValueError, TypeError) as reason:
        (folder / file_of(whole)).unlink(missing_ok=True)
        return [f"{file_of(whole)}: not written, since {reason}"]
    return plan.notes


def arrays_of(whole: Whole, plan: Plan, tensors: dict[str, Tensor]) -> dict[tuple[str, ...], np.ndarray]:
    """The new values of the arrays that change, from tensors of the sizes that they have in the file."""
    found = {}
    for path in plan.changed:
        place, before = whole.places[path], whole.array(path)
        packed = _PACKED[place.how](*(tensors[name] for name in place.tensors)).contiguous()
        found[path] = _as_array(packed, before.dtype)
    return found


def _tensors(pruned: Pruned, plan: Plan) -> dict[str, Tensor]:
    """The tensors of the file in its sizes."""
    tensors = dict(pruned.tensors())
    lstms = pruned.checkpoint.select(pruned.recipe.lstms)
    for lstm in lstms:
        if filled := pruned.compensation.reconstructions.get(lstm.name):
            dtype = getattr(torch, lstm.dtype)  # as the state dict holds them
            stored = [(matrix.cpu().to(dtype), shift.cpu().to(dtype)) for matrix, shift in filled]
            tensors |= rebuilt_by_readers(tensors, lstm, pruned.masks, stored, plan.readers[lstm.name])
    return resized(tensors, lstms, plan.held, plan.readers)


def _as_array(tensor: Tensor, dtype: np.dtype) -> np.ndarray:
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(BFLOAT16)
    return tensor.numpy().astype(dtype)


def _cudnn_kernel(weight: Tensor) -> Tensor:
    """Each gate is a block of columns (I, H) that holds the rows of (H, I), one after the other."""
    return torch.cat([gate.reshape(gate.shape[1], gate.shape[0]) for gate in split_gates(weight)], 1)


_PACKED: dict[str, Callable[..., Tensor]] = {
    SAME: lambda tensor: tensor,
    TRANSPOSED: lambda weight: weight.t(),
    SUM: lambda first, second: first + second,
    JOINED: lambda first, second: torch.cat([first, second]),
    CUDNN_KERNEL: _cudnn_kernel,
    CUDNN_RECURRENT: lambda weight: torch.cat(list(split_gates(weight)), 1),
}
