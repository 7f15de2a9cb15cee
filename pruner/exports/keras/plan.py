"""What becomes of a Keras file: which LSTMs lose units in it, which arrays change, and what people must know of it.

Units are gone where the model's configuration proves who reads them; elsewhere an LSTM keeps its width, zeros in it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pruner.compact.masked_and_compact import Pruned
from pruner.errors import label
from pruner.exports.keras.facts import MODEL, OLD_MODEL, OLD_WEIGHTS, WEIGHTS
from pruner.files.checkpoint import Checkpoint
from pruner.files.contents import Learned
from pruner.files.isolation import read_isolated
from pruner.files.keras_config import NotProven, keeps_values, layers_of, route_of
from pruner.files.keras_files import Path
from pruner.files.keras_resized import resize, why_whole
from pruner.files.keras_whole import Whole, read, received
from pruner.files.source import Source, open_source
from pruner.lstm.kept import consumer_part, unit_masks, unit_parts, units_to_hold
from pruner.lstm.lstm import DTYPES, LSTM, Place
from pruner.lstm.rebuilt import Reconstruction, without

Held = dict[Place, Tensor]  # the units that an LSTM of the file has, by direction


class Unwritable(Exception):
    """There is no Keras file that computes what the pruned model does; the message says why."""


@dataclass(frozen=True)
class Plan:
    """`held` are the units of the LSTMs that become smaller, `readers` the tensors that read them, both by their names;
    `config` is the model's, if it changes; `notes` are sentences for people."""

    file: str
    held: dict[str, Held]
    readers: dict[str, tuple[str, ...]]
    changed: frozenset[Path]  # the arrays with other values
    config: str | None
    optimizer: bool
    notes: list[str]


def read_whole(source: Source, name: str) -> Whole:
    """A Keras file with all that is in it, read as the checkpoint was. Raises PrunerError for a damaged one."""
    if not source.isolated:
        return received(read(source.data, name).container)
    file = open_source(bytes(source.data), as_file=True)
    try:
        return received(read_isolated("keras", file, name).container)
    finally:
        file.close()


def file_of(whole: Whole) -> str:
    """What the file is called in an export."""
    if whole.weights_entry:
        return MODEL
    if whole.config is not None:
        return OLD_MODEL
    return WEIGHTS if whole.is_new else OLD_WEIGHTS


def plan_of(whole: Whole, pruned: Pruned, form: str) -> Plan:
    """Raises Unwritable."""
    checkpoint, recipe = pruned.checkpoint, pruned.recipe
    lstms, file = checkpoint.select(recipe.lstms), file_of(whole)
    placed = {name for place in whole.places.values() for name in place.tensors}
    if missing := [name for lstm in lstms for name in lstm.tensors.values() if name not in placed]:
        raise Unwritable(f"{label(missing[0])} is not what Keras calls its weights")
    readers = {lstm.name: _readers(checkpoint, lstm) for lstm in lstms}
    held: dict[str, Held] = {}
    notes = []
    if form == "compact" and recipe.granularity == "rows":
        notes.append("the LSTMs have their full size, zeros in it: Keras multiplies no single rows")
    elif form == "compact":
        named = {layout.lstm.name: layout.consumers for layout in pruned.forms["compact"].layouts}
        reasons = _why_whole(whole, checkpoint, lstms, named)
        for lstm in lstms:
            if reason := reasons.get(lstm.name):
                notes.append(f"{lstm.title} keeps its {lstm.hidden_size} units, zeros in it: {reason}")
            else:
                held[lstm.name] = held_units(lstm, pruned.masks)
                readers[lstm.name] = readers[lstm.name] or tuple(named[lstm.name])
                notes += _about_units(whole, lstm, held[lstm.name], pruned.masks)
    _check_reconstructions(whole, pruned, readers)
    touched = set(pruned.forms["masked"].changed)
    for name in {*held, *pruned.compensation.reconstructions}:
        touched |= set(readers[name]) | {bias_of(reader) for reader in readers[name]}
    optimizer = whole.has_optimizer and not held
    if whole.has_optimizer and not optimizer:
        notes.append("the states of the optimizer, whose tensors have the old shapes, are left out: it begins anew")
    if unread := [name for name in whole.unread if optimizer or not name.startswith("optimizer")]:
        notes.append(f"left out, since they are no plain numbers: {', '.join(map(label, unread[:5]))}")
    changed = {path for path, place in whole.places.items() if touched & set(place.tensors)}
    return Plan(
        file, held, readers, frozenset(changed), _config(whole, held), optimizer, [f"{file}: {note}" for note in notes]
    )


def held_units(lstm: LSTM, masks: Mapping[str, Tensor]) -> Held:
    """The units that stay; as many in both directions, which Keras gives one number: a few dropped ones stay where the
    other direction keeps more, and being zero change nothing."""
    kept = unit_masks(lstm, masks)
    most = max(1, *(int(mask.sum()) for mask in kept.values()))
    return {place: units_to_hold(mask, most - 1) for place, mask in kept.items()}


def bias_of(weight: str) -> str:
    """The name of the bias beside a weight that reads an LSTM: `dense.bias`, `lstm_1.bias_ih_l0`."""
    layer, dot, own = weight.rpartition(".")
    return f"{layer}{dot}{own.replace('weight', 'bias')}"


def resized(
    tensors: Mapping[str, Tensor], lstms: Sequence[LSTM], held: Mapping[str, Held], readers: Mapping[str, Sequence[str]]
) -> dict[str, Tensor]:
    """Tensors of full size without the units that are not held, nor what reads them."""
    found = dict(tensors)
    for lstm in lstms:
        if lstm.name not in held:
            continue
        for standard, part in unit_parts(lstm, held[lstm.name]).items():
            found[lstm.tensors[standard]] = part.shrink(found[lstm.tensors[standard]])
        for reader in readers[lstm.name]:
            found[reader] = consumer_part(lstm, held[lstm.name]).shrink(found[reader])
    return found


def rebuilt_by_readers(
    tensors: Mapping[str, Tensor],
    lstm: LSTM,
    masks: Mapping[str, Tensor],
    filled: Reconstruction,
    readers: Sequence[str],
) -> dict[str, Tensor]:
    """Weights and biases of what reads an LSTM, which compute from the kept units what they did from the removed ones that
    are reconstructed: W_k h_k + W_r (A h_k + b) = (W_k + W_r A) h_k + W_r b."""
    found: dict[str, Tensor] = {}
    for reader in readers:
        weight, bias = tensors[reader].double(), tensors[bias_of(reader)].double()
        for direction, (mask, (matrix, shift)) in enumerate(zip(unit_masks(lstm, masks).values(), filled, strict=True)):
            kept = mask.nonzero().flatten()
            first = direction * lstm.output_size
            lost = weight[:, first + without(kept, lstm.hidden_size)]
            weight[:, first + kept] += lost @ matrix.double()
            bias = bias + lost @ shift.double()
        found[reader] = weight.to(tensors[reader].dtype)
        found[bias_of(reader)] = bias.to(tensors[reader].dtype)
    return found


def _readers(checkpoint: Checkpoint, lstm: LSTM) -> tuple[str, ...]:
    return checkpoint.learned.get(lstm.name, Learned()).consumers


def _why_whole(
    whole: Whole, checkpoint: Checkpoint, lstms: Sequence[LSTM], named: Mapping[str, list[str]]
) -> dict[str, str]:
    """Why LSTMs keep their width, by their names."""
    layers = {layer.name: layer for layer in layers_of(json.loads(whole.config))} if whole.config else {}
    found: dict[str, str | None] = {}
    for lstm in lstms:
        if lstm.name in layers:
            found[lstm.name] = why_whole(layers[lstm.name]) or _odd_reader(checkpoint, lstm)
        elif not named[lstm.name]:
            found[lstm.name] = "the file does not say who reads it, nor did you"
    return {name: reason for name, reason in found.items() if reason}


def _odd_reader(checkpoint: Checkpoint, lstm: LSTM) -> str | None:
    """Numbers in the place of a reader's weight that are packed or quantized, say."""
    for name in _readers(checkpoint, lstm):
        weight = checkpoint.tensors.get(name)
        if weight is None or weight.shape[1:] != (lstm.output_width,) or weight.dtype not in DTYPES:
            return f"{label(name)}, which reads it, is no weight of {lstm.output_width} inputs"
    return None


def _about_units(whole: Whole, lstm: LSTM, held: Held, masks: Mapping[str, Tensor]) -> list[str]:
    notes = []
    size = len(next(iter(held.values())))
    kept = [int(mask.sum()) for mask in unit_masks(lstm, masks).values()]
    if len(set(kept)) > 1:
        notes.append(
            f"both directions of {lstm.title} have {size} units, since Keras gives them one number: of "
            f"{' and '.join(map(str, kept))} that were kept"
        )
    if whole.config is None:
        notes.append(f"there is no model in it: build yours with {size} units in {lstm.title}, then load its weights")
    return notes


def _check_reconstructions(whole: Whole, pruned: Pruned, readers: Mapping[str, tuple[str, ...]]) -> None:
    """Raise Unwritable where removed units are reconstructed and their readers cannot do it."""
    rebuilt = pruned.compensation.reconstructions
    layers = layers_of(json.loads(whole.config)) if whole.config and rebuilt else []
    for lstm in (lstm for lstm in pruned.checkpoint.lstms if lstm.name in rebuilt):
        name, odd = lstm.name, _odd_reader(pruned.checkpoint, lstm)
        layer = next((layer for layer in layers if layer.name == name), None)
        try:
            passed = route_of(layer).passed if layer else []
        except NotProven as error:
            reason = str(error)
        else:
            changing = [each for each in passed if not keeps_values(each)]
            unbiased = [each for each in readers[name] if bias_of(each) not in pruned.checkpoint.tensors]
            if layer and not changing and not unbiased and not odd:
                continue
            reason = "the file does not say who reads it"
            if layer:
                reason = f"{changing[0].name} changes it first" if changing else odd or f"{unbiased[0]} has no bias"
        raise Unwritable(
            f"the removed units of {label(name)} are reconstructed from the others, for which a Keras LSTM has no place, "
            f"and {reason}"
        )


def _config(whole: Whole, held: Mapping[str, Held]) -> str | None:
    """The configuration as it is in the file, whether it changes or not."""
    if whole.config is None or not held:
        return whole.config
    config = json.loads(whole.config)
    resize(config, {name: len(next(iter(units.values()))) for name, units in held.items()})
    return json.dumps(config)


def as_one_bias(tensors: Mapping[str, Tensor], lstm: LSTM) -> dict[str, Tensor]:
    """The tensors with both biases of an LSTM in the first: Keras knows no second one."""
    found = dict(tensors)
    for place in lstm.places:
        first, second = (lstm.bias_name(*place, side) for side in ("ih", "hh"))
        if first is not None and second is not None:
            found[first] = found[first] + found[second]
            found[second] = torch.zeros_like(found[first])
    return found
