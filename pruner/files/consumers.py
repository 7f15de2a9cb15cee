"""Who reads the output of an LSTM in a checkpoint: the user says so, because shapes prove nothing."""

import re
from collections.abc import Mapping

from torch import Tensor

from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.files.computed_weights import beside
from pruner.files.names import tensor_named
from pruner.lstm.find import DTYPES, LSTM
from pruner.recipe import Recipe

_LIKELY = re.compile("linear|fc|head|out|dense|class|proj|decode|pred", re.IGNORECASE)


def output_width(lstm: LSTM) -> int:
    """Width of the last layer's output, both directions side by side."""
    return lstm.directions * lstm.output_size


def bias_beside(tensors: Mapping[str, Tensor], consumer: str) -> str | None:
    """The name of the bias that belongs to a consumer: `linear.bias` beside `linear.weight`, of one number an output."""
    shape = tensors[consumer].shape[:1]
    return next(
        (
            name
            for name in beside(consumer, "bias")
            if name in tensors and tensors[name].shape == shape and tensors[name].dtype in DTYPES
        ),
        None,
    )


def suggestions(checkpoint: Checkpoint, lstms: list[LSTM]) -> list[str]:
    """Tensors whose second dimension is as wide as an LSTM's output, the likelier names first.

    The width proves nothing: a convolution over 64 channels fits an LSTM of 64 units and may read something else.
    """
    widths = {output_width(lstm) for lstm in lstms if not lstm.proj_size}
    own = {name for lstm in checkpoint.lstms for name in lstm.tensors.values()}
    fitting = [
        name
        for name, tensor in checkpoint.tensors.items()
        if name not in own and tensor.dim() >= 2 and tensor.shape[1] in widths and tensor.dtype in DTYPES
    ]
    return sorted(fitting, key=lambda name: (checkpoint.tensors[name].dim() != 2, not _LIKELY.search(name), name))


def consumers_of(checkpoint: Checkpoint, recipe: Recipe) -> dict[str, list[str]]:
    """{LSTM name: tensors of the recipe that read its output}, for every LSTM to prune.

    Raises PrunerError for a tensor that is not there or does not fit the output of exactly one of them.
    """
    lstms = checkpoint.select(recipe.lstms)
    found: dict[str, list[str]] = {lstm.name: [] for lstm in lstms}
    own = {name: lstm for lstm in checkpoint.lstms for name in lstm.tensors.values()}
    for name in dict.fromkeys(tensor_named(checkpoint, name) for name in recipe.consumers):
        if name in own:
            raise PrunerError(
                f"expected a consumer outside of the LSTMs, found {name!r} of {own[name].title}; leave it out: the output "
                "keeps its width for it"
            )
        shape = tuple(checkpoint.tensors[name].shape)
        if checkpoint.tensors[name].dtype not in DTYPES:
            raise PrunerError(
                f"expected a consumer of floating-point numbers, found {name!r} of {checkpoint.tensors[name].dtype}; leave "
                "it out"
            )
        readers = [lstm for lstm in lstms if not lstm.proj_size and shape[1:2] == (output_width(lstm),)]
        if not readers:
            widths = [f"{output_width(lstm)} of {lstm.title}" for lstm in lstms if not lstm.proj_size]
            raise PrunerError(
                f"expected a consumer that reads as many columns as an LSTM without projection has outputs "
                f"({', '.join(widths) or 'there is none'}), found {name!r} of shape {shape}; leave it out"
            )
        if len(readers) > 1:
            raise PrunerError(
                f"expected a consumer that fits one LSTM, found {name!r}, which fits "
                f"{' and '.join(lstm.title for lstm in readers)}; prune one LSTM at a time"
            )
        found[readers[0].name].append(name)
    return found
