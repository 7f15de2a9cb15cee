"""shrink(model, loader) on another device, or on a pretended one: nothing of it meets a tensor that is elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import joblib
import pytest
import torch
from torch import nn

from pruner import shrink
from pruner.compact import load_pruned
from pruner.in_memory import shrinking
from pruner.in_memory.own_forward import Precision, floating
from pruner.search import smallest
from tests.helpers.elsewhere import ELSEWHERE, Elsewhere, FromNumbers
from tests.helpers.whole_models import CASES, HIDDEN, WIDTH, Labels, loader, made

DEVICES = ["pretended", *(["cuda"] if torch.cuda.is_available() else [])]
QUICK: dict[str, Any] = {"target": {"macs": 0.5}, "steps": 2}


class OfHere(torch.Generator):
    """No generator can be made on a pretended device; what draws from it is there all the same."""

    def __new__(cls, device: Any = None) -> "OfHere":
        return super().__new__(cls)


def in_this_thread(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], look: Callable[[bool], None]
) -> Iterator[tuple[int, Any]]:
    """Modes hold for the thread that enters them."""
    for index, call in enumerate(calls):
        yield index, function(*call, lambda *_: None)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    if request.param == "cuda":
        with joblib.parallel_config(backend="sequential"):
            yield torch.device("cuda:0")
        return
    monkeypatch.setattr(shrinking, "available_devices", lambda: {"cpu": "CPU", str(ELSEWHERE): "pretended"})
    monkeypatch.setattr(smallest, "as_they_come", in_this_thread)
    monkeypatch.setattr(torch, "Generator", OfHere)
    # What torch knows of the name that the pretended device goes by: no autocast, and no numbers.
    plain = Precision("cpu", None, torch.float32, torch.device("cpu"))
    monkeypatch.setattr(Precision, "around", lambda device: plain)
    monkeypatch.setattr(load_pruned._Indexed, "_apply", nn.Module._apply)
    with Elsewhere(), FromNumbers():
        yield ELSEWHERE


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"labels"}))
def test_a_model_is_shrunk_where_it_is(name: str, device: torch.device) -> None:
    model, batches = made(name).to(device), loader(name, 3)
    optimizer = torch.optim.Adam(model.parameters())
    sum(each.sum() for each in floating(model(shrinking.moved(batches[0], str(device))))).backward()
    optimizer.step()
    small = shrink(model, batches, optimizer=optimizer, **QUICK)
    moments = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    assert moments
    assert {each.device for each in (*small.parameters(), *small.buffers(), *moments)} == {device}
    assert 0 < small.report.verdict.loss < 0.5


SMALLER: dict[str, Callable[[], nn.Module]] = {
    "units": lambda: load_pruned.CompactLSTM(WIDTH, HIDDEN, [torch.arange(1, 13)], batch_first=True),
    "rows": lambda: load_pruned.RowCompactLSTM(
        WIDTH, HIDDEN, [(torch.arange(40), torch.arange(9, 60))], batch_first=True
    ),
}


@pytest.mark.parametrize("kind", SMALLER)
def test_what_was_smaller_is_shrunk_again_where_it_is(kind: str, device: torch.device) -> None:
    model, batches = Labels(), loader(count=3)
    model.lstm = SMALLER[kind]()  # type: ignore[assignment]
    model.get_submodule("lstm").reset_parameters()  # type: ignore[operator]
    optimizer = torch.optim.Adam(model.to(device).parameters())
    model(shrinking.moved(batches[0], str(device))).sum().backward()
    optimizer.step()
    small = shrink(model, batches, optimizer=optimizer, inplace=True, **QUICK)
    moments = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    assert {each.device for each in (*small.parameters(), *small.buffers(), *moments)} == {device}
    assert small is model and small.lstm.hidden_size < HIDDEN


def test_a_model_of_the_cpu_is_shrunk_on_another_device_and_stays(device: torch.device) -> None:
    small = shrink(made(), loader(count=3), device=device, **QUICK)
    assert {each.device.type for each in small.parameters()} == {"cpu"}
    assert 0 < small.report.verdict.loss < 0.5
