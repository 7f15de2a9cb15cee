"""A penalty on whole hidden units, for those who train."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pruner.errors import PrunerError
from pruner.importance.weights import outgoing
from pruner.in_memory.wrappers import check_whole
from pruner.lstm.describing import described
from pruner.lstm.gates import split_gates

SMOOTH = 1e-8  # under the root: near zero the norm is a bowl, and units settle there instead of jumping across


def unit_penalty(lstm: nn.LSTM | nn.LSTMCell, consumers: Iterable[Tensor] = ()) -> Tensor:
    """The group lasso of an LSTM's hidden units, a number to add to a loss: it drives whole units to zero.

    The sum, over all units of all layers and directions, of the Euclidean norm of all that goes when the unit goes: its
    eight rows and biases, and the columns that read it, in its own `weight_hh` (or `weight_hr`), in the next layer and
    in the `consumers` (.., D*H), weights that read the last one (Wen et al. 2018, "Learning intrinsic sparse structures
    within LSTM"). The criterion `group` then finds those units. Raises PrunerError for what is not an `nn.LSTM` or
    `nn.LSTMCell`, and for one that FSDP shards.

        >>> from pruner import unit_penalty
        >>> lstm = torch.nn.LSTM(8, 16)
        >>> loss = lstm(torch.randn(5, 2, 8))[0].square().mean() + 1e-3 * unit_penalty(lstm)
        >>> loss.backward()
    """
    if not isinstance(lstm, nn.LSTM | nn.LSTMCell):
        raise PrunerError(
            f"expected an nn.LSTM or nn.LSTMCell, found {type(lstm).__name__}; penalise the LSTM inside it"
        )
    check_whole(lstm)
    facts = described(lstm)
    read = {f"consumer {index}": weight for index, weight in enumerate(consumers)}
    tensors = {name: getattr(lstm, name) for name in facts.tensors} | read
    norms = []
    for layer, direction in facts.places:
        squares = [
            split_gates(tensors[name]).square().flatten(2).sum((0, 2))
            if tensors[name].dim() > 1
            else split_gates(tensors[name]).square().sum(0)
            for name in facts.packed_names(layer, direction)
        ]
        squares += [columns.square().sum(0) for columns in outgoing(facts, tensors, layer, direction, read)]
        norms.append((torch.stack(squares).sum(0) + SMOOTH).sqrt().sum())
    return torch.stack(norms).sum()
