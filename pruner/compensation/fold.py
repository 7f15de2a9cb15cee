"""What is left of an LSTM when units or rows go, its readers taking over what the others tell of them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pruner.calibration.observations import Head, Moments, Statistics
from pruner.lstm.gates import GATES, SIDES
from pruner.lstm.lstm import LSTM
from pruner.lstm.traces import Layers, Weights

RIDGE = 1e-3  # of the mean variance of the kept units
LEAST = 1e-100  # what that counts as where none of them ever moves


@dataclass(frozen=True)
class Shrunk:
    """What is left: `layers` of kept units only (of full size where rows were dropped), and the heads that read them.

    `reconstruction` holds, for each direction of the last layer, weight (R, K) and bias (R,) that give the removed units
    from the kept ones, where nobody said who reads them.
    """

    layers: Layers
    heads: list[Head]
    reconstruction: list[tuple[Tensor, Tensor]] | None = None


def takeover(moments: Moments, kept: Tensor, removed: Tensor, constant: bool = True) -> tuple[Tensor, Tensor]:
    """What kept units tell of removed ones: A (R, K) and offset (R,), so that `removed = A kept + offset` in least squares.

    A = S_RK (S_KK + ridge)^-1 with the covariance S, offset = m_R - A m_K; without a constant, the same through the origin.
    This is channel pruning's reconstruction (He, Zhang & Sun 2017, "Channel pruning for accelerating very deep neural
    networks") with the removed channels as its target.
    """
    matrix = moments.covariance if constant else moments.through_origin()
    among, across = matrix[kept][:, kept], matrix[removed][:, kept]
    ridge = RIDGE * among.diagonal().mean().clamp(min=LEAST)
    weights = torch.linalg.solve(among + ridge * torch.eye(len(kept), dtype=among.dtype), across.t()).t()
    offset = moments.mean[removed] - weights @ moments.mean[kept]
    return weights, offset if constant else torch.zeros_like(offset)


def fold(reader: Tensor, bias: Tensor | None, moments: Moments, kept: Tensor) -> tuple[Tensor, Tensor | None]:
    """A reader (M, N, ..) of N units that reads only the kept ones and what they tell of the others: (M, K, ..), its bias.

    Without a bias there is no place for a constant, and the fit goes through the origin.
    """
    rest = torch.ones(len(moments.mean), dtype=torch.bool)
    rest[kept.cpu()] = False
    removed = rest.nonzero().flatten()
    weights, offset = (part.to(reader.device) for part in takeover(moments, kept.cpu(), removed, bias is not None))
    wide = reader.double().movedim(1, -1)
    folded = (wide[..., kept] + wide[..., removed.to(reader.device)] @ weights).movedim(-1, 1)
    if bias is not None:
        missing = wide[..., removed.to(reader.device)] @ offset
        bias = (bias.double() + missing.reshape(len(missing), -1).sum(1)).to(bias.dtype)
    return folded.to(reader.dtype).contiguous(), bias


def sliced(
    dense: Layers, heads: list[Head], kept: list[list[Tensor]], lstm: LSTM, statistics: Statistics, by_fold: bool
) -> Shrunk:
    """The layers and heads without the removed units, which readers lose, or, `by_fold`, take over from the others."""

    def read(
        reader: Tensor, bias: Tensor | None, moments: Moments | None, units: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        if moments is None:  # a projection stands between
            return reader, bias
        if not by_fold:
            return reader.index_select(1, units), bias
        return fold(reader, bias, moments, units)

    layers: Layers = []
    for layer, sides in enumerate(dense):
        layers.append([])
        for side, weights in enumerate(sides):
            units, own = kept[layer][side], statistics.layers[layer, side].units
            bias = weights.bias if lstm.bias else None
            hh, hr = weights.hh, weights.hr
            if hr is None:
                hh, bias = read(hh, bias, own, units)
            else:
                hr, _ = read(hr, None, own, units)
            ih = weights.ih
            if layer:
                ih, bias = read(ih, bias, statistics.outputs[layer - 1], side_by_side(kept[layer - 1], lstm))
            rows = torch.cat([gate * lstm.hidden_size + units for gate in range(len(GATES))])
            whole = weights.bias if bias is None else bias
            layers[-1].append(Weights(ih[rows], hh[rows], whole[rows], hr))
    last, output = kept[-1], statistics.outputs[-1]
    small = []
    for head in heads:
        weight, bias = read(head.weight, head.bias, output, side_by_side(last, lstm))
        small.append(replace(head, weight=weight, bias=bias))
    reconstruction = None
    if by_fold and not heads and not lstm.proj_size:
        reconstruction = []
        for side, units in enumerate(last):
            rest = torch.ones(lstm.hidden_size, dtype=torch.bool)
            rest[units.cpu()] = False
            moments = statistics.layers[lstm.num_layers - 1, side].units
            found = takeover(moments, units.cpu(), rest.nonzero().flatten())
            reconstruction.append((found[0].float().to(units.device), found[1].float().to(units.device)))
    return Shrunk(layers, small, reconstruction)


def side_by_side(kept: list[Tensor], lstm: LSTM) -> Tensor:
    """The columns of a layer's output that its kept units fill."""
    return torch.cat([side * lstm.hidden_size + units for side, units in enumerate(kept)])


def dropped(dense: Layers, pairs: list[list[tuple[Tensor, Tensor]]], statistics: Statistics | None) -> Layers:
    """The layers with zeros in the rows that masks drop, and, with statistics, the mean of what these gave in the bias."""
    layers: Layers = []
    for layer, sides in enumerate(dense):
        layers.append([])
        for side, weights in enumerate(sides):
            masks = [mask.to(weights.bias.device) for mask in pairs[layer][side]]
            bias = weights.bias
            if statistics is not None:
                for name, mask in zip(SIDES, masks, strict=True):
                    mean = statistics.layers[layer, side].parts[name][0].to(bias)
                    bias = bias + torch.where(mask, 0, mean)
            layers[-1].append(
                replace(weights, ih=weights.ih * masks[0][:, None], hh=weights.hh * masks[1][:, None], bias=bias)
            )
    return layers
