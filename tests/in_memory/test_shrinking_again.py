"""shrink(model, loader) of models that were shrunk or pruned before: smaller once more, and never one module in another."""

import copy
import io
import operator
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from pruner import LSTMSaliencyPruner, PrunerError, Recipe, open_checkpoint, run, shrink
from pruner.compact.load_pruned import (
    CompactLSTM,
    CompactLSTMCell,
    RowCompactLSTM,
    RowCompactLSTMCell,
    replace,
)
from pruner.exports.verify import verify
from pruner.in_memory import shrinking
from pruner.in_memory.earlier_rounds import COMPACT, at_dense_size
from pruner.in_memory.in_checkpoint import described
from pruner.in_memory.own_forward import floating
from pruner.search.candidates import Target, sparsity_for
from tests.helpers.whole_models import HIDDEN, WIDTH, loader, made

HALF: dict[str, Any] = {"target": {"macs": 0.5}, "steps": 2}
QUARTER: dict[str, Any] = {"target": {"macs": 0.25}, "steps": 2}


@pytest.fixture(autouse=True)
def in_this_process() -> Iterator[None]:
    with joblib.parallel_config(backend="sequential"):
        yield


@cache
def once(name: str) -> Any:
    """What `shrink` leaves of a model."""
    return shrink(made(name), loader(name), **HALF)


def pruned(name: str, granularity: str = "units", sparsity: float = 0.25) -> Any:
    """What `LSTMSaliencyPruner.prune()` leaves of a model."""
    pruner = LSTMSaliencyPruner({"sparsity_level": sparsity}, granularity=granularity)
    pruner.prepare(made(name))
    pruner.step()
    return pruner.prune()


def replaced(name: str, folder: Path, granularity: str = "units") -> Any:
    """What `load_pruned.replace` makes of a model and an export."""
    file = io.BytesIO()
    torch.save(made(name).state_dict(), file)
    result = run(open_checkpoint(file.getvalue(), name), Recipe(0.25, granularity))
    return replace(made(name), result.save(folder / granularity, "compact"))


# A model, what an earlier round made of it, and the module that it left.
ROUNDS: dict[str, tuple[str, Callable[[Path], Any], type[nn.Module]]] = {
    "shrunk, layers that differ": ("tagger", lambda _: once("tagger"), CompactLSTM),
    "units pruned": ("normed", lambda _: pruned("normed"), CompactLSTM),
    "rows pruned": ("tagger", lambda _: pruned("tagger", "rows"), RowCompactLSTM),
    "states handed over": ("encoder and decoder", lambda _: ignoring(pruned("encoder and decoder")), CompactLSTM),
    "cell": ("loop", lambda folder: replaced("loop", folder), CompactLSTMCell),
    "rows of a cell": ("loop", lambda folder: replaced("loop", folder, "rows"), RowCompactLSTMCell),
    "units that come back": ("normed", lambda _: once("normed"), CompactLSTM),
    "units of a cell that come back": ("loop", lambda _: once("loop"), CompactLSTMCell),
}


def ignoring(model: Any) -> Any:
    model.decoder.on_lost_state = "ignore"
    return model


def compact_in(model: nn.Module) -> dict[str, Any]:
    return {path: module for path, module in model.named_modules() if isinstance(module, COMPACT)}


def answers(model: nn.Module, batch: Any) -> list[Tensor]:
    with torch.no_grad():
        return list(floating(copy.deepcopy(model).eval()(batch)))


def distance(small: nn.Module, model: nn.Module, batches: list[Any]) -> float:
    """The squared error of the first answer over the square of what it should be."""
    found, wanted = (torch.cat([answers(each, batch)[0] for batch in batches]) for each in (small, model))
    return float((found - wanted).square().sum() / wanted.square().sum())


@pytest.fixture(params=ROUNDS)
def again(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Any]:
    name, first, kind = ROUNDS[request.param]
    model = first(tmp_path)
    assert kind in {type(module) for module in compact_in(model).values()}
    return name, model


def test_a_dense_module_computes_what_an_earlier_round_left(again: tuple[str, Any]) -> None:
    name, model = again
    batch = loader(name)[0]
    wanted = answers(model, batch)
    wide, earlier = at_dense_size(copy.deepcopy(model).eval())
    for each in earlier:
        each.act_as_before()
    assert earlier and not compact_in(wide)
    for found, one in zip(answers(wide, batch), wanted, strict=True):
        torch.testing.assert_close(found, one, rtol=0, atol=1e-5)


def test_what_was_smaller_becomes_smaller_and_stays_one_model(again: tuple[str, Any], tmp_path: Path) -> None:
    name, model = again
    batches = loader(name)
    before, modules = copy.deepcopy(model.state_dict()), list(model.modules())
    small = shrink(model, batches, **QUARTER)
    assert list(model.modules()) == modules
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    for module in compact_in(small).values():
        assert not any(isinstance(each, COMPACT) for each in list(module.modules())[1:])
    report = small.report
    assert report.macs[1] <= 0.25 * report.macs[0]
    assert all(whole == HIDDEN for each in report.removed for whole, _ in each.units)
    for path, module in compact_in(model).items():
        macs = sum(each.numel() for each in module.parameters() if each.dim() == 2)
        beside = ", with what rebuilds its units" * any("reconstruction" in key for key, _ in module.named_parameters())
        told = (
            f"{path} was made smaller before, to {macs:,} multiply-accumulates a step; all sizes here count from the dense "
            f"LSTM that it stands for{beside}."
        )
        assert (told in str(report)) == (path != "unused")
    assert [each.shape for each in answers(small, batches[0])] == [each.shape for each in answers(model, batches[0])]
    assert report.verdict.loss == pytest.approx(distance(small, model, batches[-2:]), rel=1e-3)
    sum(each.sum() for each in floating(small(batches[0]))).backward()
    folder = small.save(tmp_path / "small")
    assert verify(folder)
    loaded = replace(made(name), folder)
    for one, other in zip(answers(loaded, batches[0]), answers(small, batches[0]), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


class Uneven(nn.Module):
    """Two layers, of which an earlier round left 4 and 16 units."""

    def __init__(self) -> None:
        super().__init__()
        kept = [torch.tensor([1, 4, 9, 15]), torch.arange(HIDDEN)]
        self.lstm, self.head = CompactLSTM(WIDTH, HIDDEN, kept, batch_first=True), nn.Linear(HIDDEN, 3)

    def forward(self, steps: Tensor) -> Tensor:
        return self.head(self.lstm(steps)[0])


@pytest.mark.parametrize("target", [0.9, 0.4])
def test_units_that_are_gone_do_not_come_back(target: float) -> None:
    model = Uneven()
    small = shrink(model, loader(), target={"macs": target}, steps=2)
    for before, after in zip(model.lstm.layers, small.lstm.layers, strict=True):
        assert set(after.kept.tolist()) <= set(before.kept.tolist())
    assert len(small.lstm.layers[0].kept) == 4
    assert ("Nothing more had to go for 90% of the multiply-accumulates." in small.report.notes) == (target == 0.9)
    assert len(small.lstm.layers[1].kept) == (16 if target == 0.9 else 15)  # of which the sizes of both are .42 and .38


def test_a_size_that_shapes_alone_tell_knows_what_is_gone() -> None:
    model, earlier = at_dense_size(Uneven())
    recipe = Recipe(granularity="units")
    found = sparsity_for(described(model, earlier).checkpoint, recipe, Target(None, "macs", 0.4))
    assert found == 0.07  # one unit of 16, of the layer that has them all


@pytest.mark.parametrize("name", ["labels", "chain"])
def test_what_an_earlier_round_left_plain_is_dense_now(name: str, tmp_path: Path) -> None:
    model, batches = once(name), loader(name)
    small = shrink(model, batches, **HALF)
    assert not compact_in(small) and {type(each) for each in small.children()} == {nn.LSTM, nn.Linear}
    sizes = {each.name: each.units for each in small.report.removed}
    for path, lstm in small.named_children():
        if isinstance(lstm, nn.LSTM):
            assert sizes[path] == ((model.get_submodule(path).hidden_size, lstm.hidden_size),)
    assert small.report.verdict.loss == pytest.approx(distance(small, model, batches[-2:]), rel=1e-3)
    loaded = replace(copy.deepcopy(model), small.save(tmp_path / "small"))
    assert torch.equal(answers(loaded, batches[0])[0], answers(small, batches[0])[0])


def test_a_model_that_is_itself_such_a_module_becomes_another() -> None:
    batches = loader()
    lstm = CompactLSTM(4, HIDDEN, [torch.arange(1, 13)], batch_first=True, on_lost_state="ignore")
    frozen = lstm.get_parameter("layers.0.lstm.weight_hh_l0").requires_grad_(False)
    heard: list[int] = []
    lstm.register_forward_hook(lambda *_: heard.append(1))
    small = shrink(lstm, batches, inplace=True, optimizer=Adam(lstm.parameters()), **QUARTER)
    assert type(lstm) is type(small) is CompactLSTM and small is not lstm
    assert lstm.get_parameter("layers.0.lstm.weight_hh_l0") is frozen
    assert not small.get_parameter("layers.0.lstm.weight_hh_l0").requires_grad and small.on_lost_state == "ignore"
    heard.clear()
    small(batches[0])
    assert heard == [1]


def trained(model: nn.Module, batches: list[Any]) -> Adam:
    """An optimizer whose moments tell every number of a parameter from the others."""
    optimizer = Adam(model.parameters(), 1e-4)
    for batch in batches[:2]:
        optimizer.zero_grad()
        sum(each.float().square().mean() for each in floating(model(batch))).backward()
        optimizer.step()
    return optimizer


def rows_of(kept: Tensor) -> Tensor:
    return torch.cat([gate * HIDDEN + kept for gate in range(4)])


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("left", ["units", "rows", "units that come back"])
def test_moments_follow_from_a_smaller_module_into_the_next(left: str, inplace: bool) -> None:
    model = copy.deepcopy(once("normed")) if "come back" in left else pruned("normed", left)
    batches = loader("normed")
    optimizer, layer = trained(model, batches), model.lstm.layers[0]
    wide = torch.zeros(4 * HIDDEN, HIDDEN)
    if left != "rows":
        moments = optimizer.state[layer.lstm.weight_ih_l0]["exp_avg"]
        wide[rows_of(layer.kept)] = moments
    else:
        moments = optimizer.state[layer.weight_ih_rows]["exp_avg"]
        wide[layer.rows_ih] = moments
    assert moments.unique().numel() > moments.numel() / 2
    other = optimizer.state[model.head.weight]["exp_avg"].clone()
    small = shrink(model, batches, inplace=inplace, optimizer=optimizer, **QUARTER)
    assert (small is model) == inplace
    now = small.lstm.layers[0]
    assert torch.equal(optimizer.state[now.lstm.weight_ih_l0]["exp_avg"], wide[rows_of(now.kept)])
    assert torch.equal(optimizer.state[small.head.weight]["exp_avg"], other)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in small.parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.zero_grad()
        sum(each.sum() for each in floating(small(batches[0]))).backward()
        optimizer.step()


def test_gradients_and_moments_of_turned_columns_follow_too() -> None:
    model, batches = replaced_cell_of_rows(), loader("loop")
    optimizer, layer = trained(model, batches), model.cell.layers[0]
    wide = torch.zeros(2, 4 * HIDDEN, HIDDEN)
    wide[:, layer.rows_hh] = torch.stack(
        [optimizer.state[layer.weight_hh_columns]["exp_avg"].t(), layer.weight_hh_columns.grad.t()]
    )
    shrink(model, batches, inplace=True, optimizer=optimizer, **QUARTER)
    now = model.cell.layers[0]
    found = torch.stack([optimizer.state[now.lstm.weight_hh_l0]["exp_avg"], now.lstm.weight_hh_l0.grad])
    assert torch.equal(found, wide[:, rows_of(now.kept)][:, :, now.kept])


def replaced_cell_of_rows() -> Any:
    model: Any = made("loop")
    rows = torch.arange(8, 60), torch.arange(0, 64, 2)
    model.cell = RowCompactLSTMCell(WIDTH, HIDDEN, [rows])
    model.cell.reset_parameters()
    return model


@pytest.mark.parametrize("when", ["put", "_try", "measured"])
def test_where_something_fails_the_model_itself_is_untouched(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ignoring(pruned("encoder and decoder"))
    optimizer = trained(model, loader("encoder and decoder"))
    before = copy.deepcopy(model.state_dict()), list(model.modules()), list(model.parameters())
    fail = getattr(shrinking, when)

    def failing(*arguments: Any) -> Any:
        if when != "put" or arguments[0] is model:
            raise MemoryError
        return fail(*arguments)

    monkeypatch.setattr(shrinking, when, failing)
    with pytest.raises(MemoryError):
        shrink(model, loader("encoder and decoder"), inplace=True, optimizer=optimizer, **QUARTER)
    state, modules, parameters = before
    assert list(model.modules()) == modules and all(map(operator.is_, model.parameters(), parameters))
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert optimizer.state.keys() == set(parameters) and not hasattr(model, "report")


@pytest.mark.parametrize("inplace", [False, True])
def test_what_no_batch_reaches_stays_as_small_as_it_was(inplace: bool) -> None:
    model, batches = pruned("normed"), loader("normed")
    model.unused = CompactLSTM(3, 8, [torch.tensor([0, 2, 5])])
    optimizer, unused = Adam(model.parameters()), model.unused
    state = copy.deepcopy(unused.state_dict())
    small = shrink(model, batches, inplace=inplace, optimizer=optimizer, **QUARTER)
    assert (small.unused is unused) == inplace and type(small.unused) is CompactLSTM
    assert all(torch.equal(state[name], tensor) for name, tensor in small.unused.state_dict().items())
    assert "unused: stays as it is, because no batch reached it" in str(small.report)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in small.parameters()}


@pytest.mark.parametrize("first", [made, pruned])
def test_a_module_of_two_names_becomes_one_smaller_one(first: Callable[[str], Any], tmp_path: Path) -> None:
    model, batches = first("normed"), loader("normed")
    model.again, model.others = model.lstm, nn.ModuleList([model.lstm])
    small = shrink(model, batches, inplace=True, optimizer=trained(model, batches), **HALF)
    assert small.again is small.others[0] is small.lstm and type(small.lstm) is CompactLSTM
    assert [each.name for each in small.report.removed if each.units] == ["lstm"]
    loaded = replace(made("normed"), small.save(tmp_path / "small"))
    assert torch.equal(answers(loaded, batches[0])[0], answers(small, batches[0])[0])


def test_modules_without_rows_share_none() -> None:
    """Tensors without numbers all lie at no address."""
    rows = torch.arange(0), torch.arange(16)
    _, earlier = at_dense_size(RowCompactLSTM(3, 4, [rows, rows]))
    assert len(earlier) == 1


def parametrized(model: Any) -> Any:
    nn.utils.parametrizations.weight_norm(model.cell.layers[0].lstm, "weight_hh_l0")
    return model


def tied(model: Any) -> Any:
    model.other = copy.deepcopy(model.cell)
    model.other.layers[0].lstm.weight_hh_l0 = model.cell.layers[0].lstm.weight_hh_l0
    return model


DECLINED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "parametrized": (lambda folder: parametrized(replaced("loop", folder)), "CompactLSTMCell may do more than an LSTM"),
    "tied": (
        lambda folder: tied(replaced("loop", folder)),
        "cell stays, because it shares tensors with another module",
    ),
}


@pytest.mark.parametrize("case", DECLINED)
def test_what_cannot_become_smaller_again_is_declined_by_name(case: str, tmp_path: Path) -> None:
    build, reason = DECLINED[case]
    with pytest.raises(PrunerError, match=reason):
        shrink(build(tmp_path), loader("loop"), **HALF)
