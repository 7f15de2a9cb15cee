"""The LSTMs of a model in memory that are pruned as a whole, and where each of their layers and directions lies."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pruner.compact.load_pruned import CompactLSTM, CompactLSTMCell, RowCompactLSTM, RowCompactLSTMCell
from pruner.in_memory.row_mask import values
from pruner.lstm.describing import described
from pruner.lstm.gates import parse_standard_name
from pruner.lstm.lstm import LSTM, Place


@dataclass(frozen=True)
class Site:
    """An `nn.LSTM`, an `LSTMCell`, or the `CompactLSTM` of an earlier round, each layer and direction of which is an
    `nn.LSTM` of its own inside."""

    path: str
    module: Any

    @property
    def facts(self) -> LSTM:
        """What is known of it at full size, with the names that its tensors have in a plain LSTM."""
        return described(self.module) if not isinstance(self.module, CompactLSTM) else _of_compact(self.module)

    def inside(self, place: Place) -> tuple[str, Any, Place]:
        """The module that holds the tensors of a place: its path, itself, and the place in it."""
        if not isinstance(self.module, CompactLSTM):
            return self.path, self.module, place
        index = place[0] * self.module.directions + place[1]
        return joined(self.path, f"layers.{index}.lstm"), self.module.get_submodule(f"layers.{index}.lstm"), (0, 0)

    def names(self, place: Place) -> list[str]:
        """The names in the model of the tensors of 4H rows of a place: both weights and, if any, biases."""
        path, module, inner = self.inside(place)
        return described(module, path).packed_names(*inner)

    def weights(self) -> list[str]:
        """The names in the model of all packed weights."""
        places = self.facts.places
        return [name for place in places for name in self.names(place) if ".weight_" in f".{name}"]

    def outgoing(self, place: Place, readers: list[Tensor]) -> Iterator[Tensor]:
        """The (.., K) weights that read the units of a place, a column a unit; `readers` (.., D*H) read the last layer."""
        layer, direction = place
        _, module, inner = self.inside(place)
        facts = described(module)
        if facts.proj_size:
            yield values(module, f"weight_hr{facts.suffix(*inner)}")
            return
        yield values(module, f"weight_hh{facts.suffix(*inner)}")
        sizes = [described(self.inside((layer, each))[1]).hidden_size for each in range(self.facts.directions)]
        start = sum(sizes[:direction])
        if layer + 1 < self.facts.num_layers:
            for each in range(self.facts.directions):
                _, above, at = self.inside((layer + 1, each))
                yield values(above, f"weight_ih{described(above).suffix(*at)}")[:, start : start + sizes[direction]]
        else:
            full = self.facts.hidden_size
            for columns in (reader[:, direction * full : (direction + 1) * full] for reader in readers):
                yield columns[:, self._kept(place)] if isinstance(self.module, CompactLSTM) else columns

    def _kept(self, place: Place) -> Tensor:
        return self.module.layers[place[0] * self.module.directions + place[1]].kept


def sites_in(model: nn.Module) -> list[Site]:
    """Every LSTM of a model that can be pruned, once, in the order of the model."""
    found: list[Site] = []
    within: set[nn.Module] = set()
    for path, module in model.named_modules():
        if module in within:
            continue
        if isinstance(module, CompactLSTM | CompactLSTMCell):
            within |= set(module.modules())
            if isinstance(module, CompactLSTM) and all(layer.reconstruction is None for layer in module.layers):
                found.append(Site(path, module))
        elif isinstance(module, nn.LSTM | nn.LSTMCell):
            found.append(Site(path, module))
    return found


def left_alone(model: nn.Module) -> list[str]:
    """The paths of smaller modules that are none of these: cells, and what rebuilds its removed units."""
    pruned = {site.module for site in sites_in(model)}
    kinds = (CompactLSTM, CompactLSTMCell, RowCompactLSTMCell)
    return [path for path, module in model.named_modules() if isinstance(module, kinds) and module not in pruned]


def site_of(sites: list[Site], module: nn.Module, name: str) -> tuple[Site, Place] | None:
    """Where a packed weight of a module lies; None where it is of none of the LSTMs."""
    standard = parse_standard_name(name)
    if standard is None:
        return None
    wanted = standard.layer or 0, standard.direction
    for site in sites:
        for place in site.facts.places:
            _, holder, inner = site.inside(place)
            if holder is module and inner == wanted:
                return site, place
    return None


def row_compact(model: nn.Module) -> list[tuple[str, RowCompactLSTM]]:
    """What an earlier round with rows left."""
    places = model.named_modules(remove_duplicate=False)
    return [(path, module) for path, module in places if isinstance(module, RowCompactLSTM)]


def _of_compact(module: CompactLSTM) -> LSTM:
    settings = ("num_layers", "bias", "input_size", "hidden_size", "proj_size", "bidirectional")
    plain = nn.LSTM(**{name: getattr(module, name) for name in settings}, device="meta")
    return described(plain)


def joined(path: str, name: str) -> str:
    """The name that something within a module has in the model."""
    return f"{path}.{name}" if path else name
