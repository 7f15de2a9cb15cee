"""Inputs of LSTMs that read the output of another one: what the dense model gives them."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from pruner.calibration.calibration import Calibration
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumer_choice import along, consumers_of, feeders
from pruner.lstm.module import build
from pruner.recipe import Recipe

AT_ONCE = 64  # sequences


@torch.no_grad()
def complete(calibration: Calibration, checkpoint: Checkpoint, recipe: Recipe) -> Calibration:
    """The calibration with sequences for those LSTMs that are named as the consumers of others and have none: the outputs
    (N, T, D*R) of the dense LSTM that they read, from a zero state, in float32. Raises PrunerError as `consumers_of` does.
    """
    own = {name: groups for name, groups in calibration.sequences.items() if name not in calibration.fed}
    feeder_of = feeders(checkpoint, consumers_of(checkpoint, recipe))
    fed = {name: feeder for name, feeder in feeder_of.items() if name not in own}
    if fed == calibration.fed:
        return calibration
    by_name, sequences = {lstm.name: lstm for lstm in checkpoint.lstms}, dict(own)
    for lstm in along(fed, [by_name[name] for name in fed]):
        if fed[lstm.name] not in sequences:  # which is told where they are missed
            continue
        module = build(by_name[fed[lstm.name]], checkpoint.tensors).float()

        def outputs(group: Tensor, module: nn.LSTM = module) -> Tensor:
            parts = (calibration.looked_up(batch, checkpoint.tensors) for batch in group.split(AT_ONCE))
            return torch.cat([module(part)[0] for part in parts])

        sequences[lstm.name] = [outputs(group) for group in sequences[fed[lstm.name]]]
    return replace(calibration, sequences=sequences, fed=fed)
