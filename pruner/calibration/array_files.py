"""A file of inputs -> its arrays as tensors."""

import os
from pathlib import Path

from torch import Tensor

from pruner.errors import PrunerError, label, shown
from pruner.files import input_arrays
from pruner.files.isolation import read_isolated
from pruner.files.materialise import Materialiser, check_tensors
from pruner.files.source import open_source

MAX_DIMENSIONS = 3  # of what an LSTM reads
MAX_OF_GRAPHS = 8  # of what a graph reads that LSTMs are a part of


def read_inputs(
    source: str | os.PathLike[str] | bytes,
    name: str | None = None,
    *,
    isolated: bool = False,
    most_dimensions: int = MAX_DIMENSIONS,
) -> dict[str, list[Tensor]]:
    """{name in the file: its tensors of integers or floats, as stored}, from a path or bytes, as `input_arrays.read` says.

    `isolated` reads it in a process of its own, with limits on memory and time. Raises PrunerError for everything that is
    not a safe and complete file of arrays of at most as many dimensions.
    """
    name = label(name or ("inputs" if isinstance(source, bytes) else Path(source).name), most=255)
    opened = open_source(source, isolated, "a file of calibration inputs")
    try:
        apart = isolated and opened.size
        contents = read_isolated("inputs", opened, name) if apart else input_arrays.read(opened.data, name)
    finally:
        opened.close()
    materialiser = Materialiser(name)
    found: dict[str, list[Tensor]] = {
        key: [materialiser.tensor(stored).detach() for stored in group] for key, group in contents.container.items()
    }
    for key, group in found.items():
        check_tensors(dict.fromkeys([key], group[0]), max(opened.size, materialiser.held), name)
        if group[0].is_complex() or str(group[0].dtype) == "torch.bool":
            raise PrunerError(
                f"expected integers or floats, found {_called(key)} of {group[0].dtype}: {name}; convert it before saving"
            )
        if group[0].dim() > most_dimensions:
            raise PrunerError(
                f"expected at most {most_dimensions} dimensions, found shape {shown(tuple(group[0].shape))}: {name}; "
                "reshape it before saving"
            )
    claimed = sum(8 * tensor.numel() for group in found.values() for tensor in group)
    if claimed > input_arrays.MAX_BYTES:
        raise PrunerError(
            f"expected at most {input_arrays.MAX_BYTES:,} bytes of arrays, found {claimed:,}: {name}; keep fewer sequences"
        )
    return found


def _called(key: str) -> str:
    return shown(key) if key else "an array"
