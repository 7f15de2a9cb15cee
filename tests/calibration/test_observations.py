"""Statistics: what a naive pass over all data gives, however the data is cut into batches."""

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pruner import PrunerError
from pruner.calibration import gathering
from pruner.calibration.calibration import Calibration
from pruner.calibration.gathering import SEED, gather, windows
from pruner.calibration.observations import LayerStatistics, Statistics
from pruner.files.consumers import Consumer, load_consumers
from pruner.lstm.find import find_lstms
from pruner.lstm.lstm import LSTM
from pruner.lstm.module import build
from pruner.lstm.traces import layers_of, run_layers
from tests.helpers.calibration import lstm_and_head, random_data
from tests.helpers.models import random_steps
from tests.helpers.plain_lstm import Plain, all_layers, plain_layers

NEAR = {"rtol": 1e-4, "atol": 1e-6}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"num_layers": 2},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 2, "proj_size": 2},
    {"num_layers": 2, "bidirectional": True, "proj_size": 2, "bias": False},
]


def naive(lstm: LSTM, pieces: list[Tensor], **settings: Any) -> list[list[list[Plain]]]:
    """Every piece (N, T, I), from a zero state, in the plain loop: by layer, direction and piece."""
    runs = [plain_layers(all_layers(**settings), piece.double().transpose(0, 1))[0] for piece in pieces]
    return [[[run[layer][side] for run in runs] for side in range(lstm.directions)] for layer in range(lstm.num_layers)]


def together(pieces: list[list[Tensor]], side: int, burn_in: int) -> Tensor:
    """(N, W) in no particular order: all steps after the first `burn_in` of the data, in whose end a reverse side begins."""
    return torch.cat(
        [step.detach() for piece in pieces for step in (piece[: len(piece) - burn_in] if side else piece[burn_in:])]
    )


@pytest.mark.parametrize("burn_in", [0, 3])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_moments_are_those_of_all_the_data(settings: dict[str, Any], burn_in: int) -> None:
    lstm, tensors = lstm_and_head(**settings)
    calibration = random_data((5, 9), (2, 6), burn_in=burn_in)
    found = gather(lstm, tensors, calibration)
    layers, runs = all_layers(**settings), naive(lstm, calibration.sequences["rnn"], **settings)
    assert found.steps == 5 * (9 - burn_in) + 2 * (6 - burn_in)
    assert found.layers.keys() == {(layer, side) for layer in range(lstm.num_layers) for side in range(lstm.directions)}
    for (layer, side), own in found.layers.items():
        of_side = runs[layer][side]
        units = together([run.units for run in of_side], side, burn_in)
        torch.testing.assert_close(own.units.mean, units.mean(0), **NEAR)
        torch.testing.assert_close(own.units.covariance, torch.cov(units.t(), correction=0), **NEAR)
        torch.testing.assert_close(own.units.through_origin(), units.t() @ units / len(units), **NEAR)
        torch.testing.assert_close(own.activation, units.abs().mean(0), **NEAR)
        weights = layers[layer][side]
        pre = together([run.pre for run in of_side], side, burn_in) - weights.bias
        previous = [[torch.zeros_like(run.outputs[0]), *run.outputs[:-1]] for run in of_side]
        recurrent = together(previous, side, burn_in) @ weights.hh.t()
        for name, part in {"hh": recurrent, "ih": pre - recurrent}.items():
            torch.testing.assert_close(own.parts[name][0], part.mean(0), **NEAR)
            torch.testing.assert_close(own.parts[name][1], part.var(0, correction=0), **NEAR)
        torch.testing.assert_close(own.variance, pre.var(0, correction=0), **NEAR)
        assert own.taylor_units is own.taylor_rows is None


@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_outputs_hold_both_directions_of_one_step_side_by_side(settings: dict[str, Any]) -> None:
    lstm, tensors = lstm_and_head(**settings)
    calibration = random_data((6, 12), burn_in=4)
    found = gather(lstm, tensors, calibration)
    # The output of the first layer alone, and of all.
    first = {name: tensor for name, tensor in tensors.items() if "_l0" in name}
    for moments, part in zip((found.outputs[0], found.outputs[-1]), (first, tensors), strict=True):
        (own,), _ = find_lstms(part)
        output = build(own, part)(calibration.sequences["rnn"][0])[0][:, 4:].flatten(0, 1).double()
        assert moments is not None
        torch.testing.assert_close(moments.mean, output.mean(0), **NEAR)
        torch.testing.assert_close(moments.covariance, torch.cov(output.t(), correction=0), **NEAR)


def test_a_projection_has_no_outputs_to_take_over() -> None:
    lstm, tensors = lstm_and_head(num_layers=2, proj_size=2)
    assert gather(lstm, tensors, random_data((3, 12))).outputs == [None, None]


def tensors_of(found: Any) -> dict[str, Tensor]:
    """All tensors in statistics, by where they are."""
    if isinstance(found, Tensor):
        return {"": found}
    if isinstance(found, dict):
        items = found.items()
    elif isinstance(found, list | tuple):
        items = enumerate(found)
    elif found is None or isinstance(found, int):
        return {}
    else:
        items = ((field.name, getattr(found, field.name)) for field in fields(found))
    return {f"{key} {inner}": tensor for key, value in items for inner, tensor in tensors_of(value).items()}


@pytest.mark.parametrize("task", [None, "regression"])
def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch, task: str | None) -> None:
    lstm, tensors = lstm_and_head(num_layers=2, bidirectional=True)
    calibration = random_data((7, 20), (70, 5), burn_in=2)
    assert len(windows(calibration, lstm, tensors)) == 3
    whole = tensors_of(gather(lstm, tensors, calibration))
    monkeypatch.setattr(gathering, "MAX_ELEMENTS", 3 * gathering.WINDOW * 4 * 16)
    assert len(windows(calibration, lstm, tensors)) == 3 + 24
    if task is None:
        parts = tensors_of(gather(lstm, tensors, calibration))
        assert parts.keys() == whole.keys()
        for place, tensor in parts.items():
            torch.testing.assert_close(tensor, whole[place], rtol=1e-5, atol=1e-7, msg=place)
    else:  # other labels are drawn, but as many
        found = gather(lstm, tensors, calibration, ["head.weight"], task)
        assert found.steps == 7 * 18 + 70 * 3


def test_long_sequences_are_read_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "WINDOW", 7)
    lstm, tensors = lstm_and_head(bidirectional=True)
    calibration = random_data((2, 16), burn_in=4)
    (group,) = calibration.sequences["rnn"]
    batches = [batch() for batch in windows(calibration, lstm, tensors)]
    # Pieces of 6, 6 and 4 steps, of which the last has nothing beyond the burn-in.
    assert len(batches) == 2
    assert torch.equal(batches[0], group[:, :6].transpose(0, 1))
    assert torch.equal(batches[1], group[:, 6:12].transpose(0, 1))
    found = gather(lstm, tensors, calibration)
    assert found.steps == 2 * (2 + 2)
    runs = naive(lstm, [group[:, :6], group[:, 6:12]], bidirectional=True)
    for (layer, side), own in found.layers.items():
        units = together([run.units for run in runs[layer][side]], side, 4)
        torch.testing.assert_close(own.units.mean, units.mean(0), **NEAR)


def test_token_ids_are_looked_up() -> None:
    lstm, tensors = lstm_and_head()
    tensors["embedding"] = random_steps(11, 3, seed=5, dtype=torch.float32)
    ids = torch.randint(11, (4, 12), generator=torch.Generator().manual_seed(0))
    from_ids = gather(lstm, tensors, Calibration("file", {"rnn": [ids]}, "embedding"))
    from_inputs = gather(lstm, tensors, Calibration("file", {"rnn": [tensors["embedding"][ids]]}))
    found, wanted = tensors_of(from_ids), tensors_of(from_inputs)
    assert all(torch.equal(found[place], wanted[place]) for place in wanted)


def sampled_loss(output: Tensor, scores: Tensor, head: Consumer, task: str) -> Tensor:
    """The loss on labels that the model's own scores draw, with the generator that `gather` draws them with."""
    generator = torch.Generator().manual_seed(SEED)
    mine = (output @ head.weight.double().t() + head.bias.double()).flatten(0, 1)
    if task == "softmax":
        labels = torch.multinomial(scores.softmax(-1).flatten(0, 1), 1, generator=generator)[:, 0]
        return F.cross_entropy(mine, labels, reduction="sum")
    noise = torch.randn(scores.flatten(0, 1).shape, generator=generator).double()
    return (mine - (mine.detach() - noise)).square().sum() / 2


@pytest.mark.parametrize("burn_in", [0, 2])
@pytest.mark.parametrize("task", ["softmax", "regression"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_importance_is_that_of_autograd_on_the_same_labels(settings: dict[str, Any], task: str, burn_in: int) -> None:
    lstm, tensors = lstm_and_head(**settings)
    calibration = random_data((4, 8), burn_in=burn_in)
    (group,) = calibration.sequences["rnn"]
    inputs = group.transpose(0, 1)
    found = gather(lstm, tensors, calibration, ["head.weight"], task)
    (head,) = load_consumers(tensors, ["head.weight"])
    # The same float32 scores, so that the same labels are drawn.
    scores = head(run_layers(layers_of(lstm, tensors), inputs)[1])
    layers = all_layers(**settings)
    runs, output = plain_layers(layers, inputs.double())
    sampled_loss(output, scores, head, task).backward()
    for (layer, side), own in found.layers.items():
        run, weights = runs[layer][side], layers[layer][side]
        units = together([run.units], side, burn_in)
        of_units = together([[unit.grad for unit in run.units]], side, burn_in)
        of_rows = together([[pre.grad for pre in run.pre]], side, burn_in)
        torch.testing.assert_close(own.importance, of_units.t() @ of_units / len(of_units), **NEAR)
        torch.testing.assert_close(own.sensitivity, of_rows.square().mean(0), **NEAR)
        assert own.taylor_units is not None and own.taylor_rows is not None
        torch.testing.assert_close(own.taylor_units, (units * of_units).abs().mean(0), **NEAR)
        previous = together([[torch.zeros_like(run.outputs[0]), *run.outputs[:-1]]], side, burn_in)
        recurrent = previous @ weights.hh.t()
        given = together([run.pre], side, burn_in) - weights.bias - recurrent
        for name, part in {"hh": recurrent, "ih": given}.items():
            torch.testing.assert_close(own.taylor_rows[name], (part * of_rows).abs().mean(0), **NEAR)


@pytest.mark.parametrize("task", ["softmax", "regression"])
def test_importance_tends_to_the_fisher_information(task: str) -> None:
    """Of a single step through a linear head, which has a closed form: C'C, or C' (diag p - p p') C with the shares p."""
    lstm, tensors = lstm_and_head()
    calibration = random_data((20_000, 1))
    found = gather(lstm, tensors, calibration, ["head.weight"], task).layers[0, 0].importance
    (head,) = load_consumers(tensors, ["head.weight"])
    curvature = torch.eye(5)
    if task == "softmax":
        output = build(lstm, tensors)(calibration.sequences["rnn"][0])[0][:, 0]
        shares = head(output).softmax(-1)
        curvature = torch.diag(shares.mean(0)) - shares.t() @ shares / len(shares)
    wanted = (head.weight.t() @ curvature @ head.weight).double()
    assert float((found - wanted).norm() / wanted.norm()) < 0.05


@pytest.mark.parametrize("with_head", [False, True])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_without_a_task_importance_is_that_of_the_readers(settings: dict[str, Any], with_head: bool) -> None:
    lstm, tensors = lstm_and_head(**settings)
    calibration = random_data((4, 8))
    found = gather(lstm, tensors, calibration, ["head.weight"] if with_head else [])
    assert all(layer.importance is layer.reading for layer in found.layers.values())
    layers = all_layers(**settings)
    runs = naive(lstm, calibration.sequences["rnn"], **settings)
    width, size = lstm.output_size, lstm.hidden_size

    def moved(layer: int, side: int) -> Tensor:
        """Mean squared derivative of each row's unit by the row."""
        (run,) = runs[layer][side]
        grads = [
            torch.autograd.grad(unit.sum(), pre, retain_graph=True)[0]
            for unit, pre in zip(run.units, run.pre, strict=True)
        ]
        return torch.cat(grads).square().mean(0)

    for layer in reversed(range(lstm.num_layers)):
        for side in range(lstm.directions):
            own, weights = found.layers[layer, side], layers[layer][side]
            columns = range(side * width, (side + 1) * width)
            readers: list[Tensor] = []
            if layer + 1 < lstm.num_layers:
                for upper in range(lstm.directions):
                    above, gain = found.layers[layer + 1, upper].importance.diagonal(), moved(layer + 1, upper)
                    readers += [
                        (gain[row] * above[row % size]).sqrt() * layers[layer + 1][upper].ih[row, columns]
                        for row in range(4 * size)
                    ]
            elif with_head:
                readers += list(tensors["head.weight"][:, columns].double())
            else:
                readers += list(torch.eye(width, dtype=torch.float64))

            def of_units(readers: list[Tensor], hr: Tensor | None = weights.hr) -> Tensor:
                through = torch.stack(readers) if hr is None else torch.stack(readers) @ hr
                return sum((torch.outer(row, row) for row in through), torch.zeros(size, size, dtype=torch.float64))

            from_above, gain = of_units(readers).diagonal(), moved(layer, side)
            readers += [(gain[row] * from_above[row % size]).sqrt() * weights.hh[row] for row in range(4 * size)]
            torch.testing.assert_close(own.importance, of_units(readers), **NEAR)
            assert torch.equal(own.importance, own.reading)
            wanted = torch.stack([gain[row] * own.importance[row % size, row % size] for row in range(4 * size)])
            torch.testing.assert_close(own.sensitivity, wanted, **NEAR)


def test_how_units_are_read_does_not_depend_on_the_task() -> None:
    lstm, tensors = lstm_and_head(num_layers=2)
    with_task, without = (
        gather(lstm, tensors, random_data((4, 8)), ["head.weight"], task) for task in ("softmax", None)
    )
    for place, own in with_task.layers.items():
        assert not torch.equal(own.importance, own.reading)
        torch.testing.assert_close(own.reading, without.layers[place].reading, rtol=1e-12, atol=0)


def test_a_convolution_reads_with_every_place_of_its_kernel() -> None:
    lstm, tensors = lstm_and_head()
    tensors["conv.weight"] = random_steps(2, 4, 3, seed=9, dtype=torch.float32)
    found = gather(lstm, tensors, random_data((3, 12)), ["conv.weight"]).layers[0, 0].importance
    tensors["flat.weight"] = torch.cat([tensors["conv.weight"][:, :, place] for place in range(3)])
    flat = gather(lstm, tensors, random_data((3, 12)), ["flat.weight"]).layers[0, 0].importance
    torch.testing.assert_close(found, flat, rtol=1e-9, atol=0)
    with pytest.raises(PrunerError, match=r"expected the linear layers that read rnn .*found conv\.weight"):
        gather(lstm, tensors, random_data((3, 12)), ["conv.weight"], "softmax")


@pytest.mark.parametrize("task", [None, "softmax"])
def test_more_steps_take_no_more_room(task: str | None) -> None:
    lstm, tensors = lstm_and_head(num_layers=2, bidirectional=True)
    short, long = (
        gather(lstm, tensors, random_data((count, 12)), ["head.weight"] if task else [], task) for count in (3, 30)
    )
    assert long.steps == 10 * short.steps
    shapes = {place: tensor.shape for place, tensor in tensors_of(short).items()}
    assert {place: tensor.shape for place, tensor in tensors_of(long).items()} == shapes
    assert all(tensor.dtype == torch.float64 for tensor in tensors_of(long).values())


class Stop(Exception):
    pass


@pytest.mark.parametrize("task", [None, "softmax"])
def test_progress_is_told_and_can_stop(task: str | None) -> None:
    lstm, tensors = lstm_and_head(num_layers=2)
    told: list[float] = []

    def listen(done: float, what: str) -> None:
        assert "rnn" in what
        told.append(done)

    def ask(stop_at: int | None = None) -> Statistics:
        def progress(done: float, what: str) -> None:
            listen(done, what)
            if stop_at is not None and len(told) > stop_at:
                raise Stop

        return gather(lstm, tensors, random_data((3, 12), (2, 9)), ["head.weight"], task, progress=progress)

    ask()
    assert told == sorted(told) and told[0] >= 0 and told[-1] <= 1 and len(told) >= 4
    for stop_at in range(len(told)):
        told.clear()
        with pytest.raises(Stop):
            ask(stop_at)


@pytest.mark.parametrize(
    ("calibration", "consumers", "task", "message"),
    [
        (random_data((3, 12)), [], "softmax", r"linear layers that read rnn for the task 'softmax', found none"),
        (random_data((3, 12)), [], "regression", r"linear layers that read rnn for the task 'regression', found none"),
        (
            random_data((3, 12), burn_in=12),
            [],
            None,
            "expected sequences longer than the burn-in of 12 steps, found none for rnn",
        ),
        (Calibration("file", {"rnn": []}), [], None, "longer than the burn-in of 0 steps, found none for rnn"),
    ],
    ids=["softmax without head", "regression without head", "all burn-in", "nothing"],
)
def test_what_cannot_be_gathered_is_told(
    calibration: Calibration, consumers: list[str], task: str | None, message: str
) -> None:
    lstm, tensors = lstm_and_head()
    with pytest.raises(PrunerError, match=message):
        gather(lstm, tensors, calibration, consumers, task)


def test_statistics_are_float64_whatever_the_weights(tmp_path: Any) -> None:
    lstm, tensors = lstm_and_head()
    half = {name: tensor.half() for name, tensor in tensors.items()}
    (narrow,), _ = find_lstms(half)
    found = gather(narrow, half, random_data((5, 12)), ["head.weight"], "regression").layers[0, 0]
    wanted = gather(lstm, tensors, random_data((5, 12)), ["head.weight"], "regression").layers[0, 0]
    assert isinstance(found, LayerStatistics) and found.importance.dtype == torch.float64
    torch.testing.assert_close(found.units.covariance, wanted.units.covariance, rtol=0.02, atol=1e-4)
