"""What is left of an LSTM when units or rows go, its consumers taking over what the others tell of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pruner.calibration.observations import Moments, Statistics
from pruner.files.consumers import Consumer
from pruner.lstm.gates import SIDES
from pruner.lstm.kept import Kept, Part, last_layer, layer_of, output_columns, packed_rows
from pruner.lstm.lstm import LSTM, Place
from pruner.lstm.rebuilt import Reconstruction, without
from pruner.lstm.traces import Layers, Weights

RIDGE = 1e-3  # of the mean variance of the kept units
LEAST = 1e-100  # what that counts as where none of them ever moves


@dataclass(frozen=True)
class Shrunk:
    """What is left: `layers` of kept units only (of full size where rows were dropped), and the consumers of their output.

    `reconstruction` holds, for each direction of the last layer, weight (R, K) and bias (R,) that give the removed units
    from the kept ones, where nobody said who reads them.
    """

    layers: Layers
    consumers: list[Consumer]
    reconstruction: Reconstruction | None = None


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


def fold(weight: Tensor, bias: Tensor | None, moments: Moments, kept: Tensor) -> tuple[Tensor, Tensor | None]:
    """A weight (M, N, ..) over N units that reads only the kept ones and what they tell of the others: (M, K, ..), its bias.

    Without a bias there is no place for a constant, and the fit goes through the origin.
    """
    removed = without(kept.cpu(), len(moments.mean))
    told, offset = (part.to(weight.device) for part in takeover(moments, kept.cpu(), removed, bias is not None))
    wide = weight.double().movedim(1, -1)
    lost = wide[..., removed.to(weight.device)]
    folded = (wide[..., kept] + lost @ told).movedim(-1, 1)
    if bias is not None:
        missing = lost @ offset
        bias = (bias.double() + missing.reshape(len(missing), -1).sum(1)).to(bias.dtype)
    return folded.to(weight.dtype).contiguous(), bias


def shrunk_units(
    dense: Layers, consumers: list[Consumer], kept: Kept, lstm: LSTM, statistics: Statistics, by_fold: bool
) -> Shrunk:
    """The layers and consumers without the removed units: whatever reads those loses them or, `by_fold`, takes them over
    from the others."""

    def read(
        weight: Tensor, bias: Tensor | None, moments: Moments | None, units: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        if moments is None:  # a projection stands between
            return weight, bias
        return fold(weight, bias, moments, units) if by_fold else (Part(None, units).shrink(weight), bias)

    layers: Layers = [[] for _ in dense]
    for layer, direction in lstm.places:
        weights, units = dense[layer][direction], kept[layer, direction]
        own = statistics.layers[layer, direction].units
        bias = weights.bias if lstm.bias else None
        ih, hh, hr = weights.ih, weights.hh, weights.hr
        if hr is None:
            hh, bias = read(hh, bias, own, units)
        else:
            hr, _ = read(hr, None, own, units)
        if layer:
            below = output_columns(layer_of(lstm, kept, layer - 1), lstm.hidden_size)
            ih, bias = read(ih, bias, statistics.outputs[layer - 1], below)
        rows = packed_rows(units, lstm.hidden_size)
        all_of_bias = weights.bias if bias is None else bias
        layers[layer].append(Weights(ih[rows], hh[rows], all_of_bias[rows], hr))
    columns = output_columns(last_layer(lstm, kept), lstm.hidden_size)
    trimmed = []
    for consumer in consumers:
        weight, bias = read(consumer.weight, consumer.bias, statistics.outputs[-1], columns)
        trimmed.append(replace(consumer, weight=weight, bias=bias))
    rebuilt = by_fold and not consumers and not lstm.proj_size
    return Shrunk(layers, trimmed, _reconstruction(kept, lstm, statistics) if rebuilt else None)


def _reconstruction(kept: Kept, lstm: LSTM, statistics: Statistics) -> Reconstruction:
    found = []
    for direction, units in enumerate(last_layer(lstm, kept)):
        moments = statistics.layers[lstm.num_layers - 1, direction].units
        told, offset = takeover(moments, units.cpu(), without(units.cpu(), lstm.hidden_size))
        found.append((told.float().to(units.device), offset.float().to(units.device)))
    return found


def without_rows(dense: Layers, masks: Mapping[Place, tuple[Tensor, Tensor]], statistics: Statistics | None) -> Layers:
    """The layers with zeros in the rows that masks (4H,) of both packed weights drop, and, with statistics, the mean of what
    these gave in the bias."""
    layers: Layers = [[] for _ in dense]
    for place, pair in masks.items():
        layer, direction = place
        weights = dense[layer][direction]
        ih, hh = (mask.to(weights.bias.device) for mask in pair)
        bias = weights.bias
        if statistics is not None:
            for side, mask in zip(SIDES, (ih, hh), strict=True):
                mean = statistics.layers[place].parts[side][0].to(bias)
                bias = bias + torch.where(mask, 0, mean)
        layers[layer].append(replace(weights, ih=weights.ih * ih[:, None], hh=weights.hh * hh[:, None], bias=bias))
    return layers
