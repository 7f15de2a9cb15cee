"""The biases of whole gates."""

import math

import pytest
import torch

from pruner.lstm.gates import GATES
from pruner.views.biases import BINS, SEEN, bias_histograms, bias_table, far_from_trained, gate_biases
from tests.helpers.models import found_in, random_lstm


def test_both_biases_of_a_gate_are_added() -> None:
    lstm, tensors = found_in(random_lstm(num_layers=2, bidirectional=True, hidden_size=4), "net.")
    found = gate_biases(lstm, tensors, 1, 1)
    both = tensors["net.bias_ih_l1_reverse"].double() + tensors["net.bias_hh_l1_reverse"].double()
    for index in range(len(GATES)):
        assert torch.equal(found[index], both[4 * index : 4 * index + 4])


def test_an_lstm_without_biases_has_zeros() -> None:
    lstm, tensors = found_in(random_lstm(bias=False))
    assert not gate_biases(lstm, tensors, 0, 0).any()


def test_a_line_of_the_table_counts_every_unit_and_tells_the_mean() -> None:
    lstm, tensors = found_in(random_lstm(num_layers=2, hidden_size=8))
    tensors["bias_ih_l1"][8:16], tensors["bias_hh_l1"][8:16] = 1.5, 0.5
    table = bias_table(lstm, tensors)
    assert len(table) == 2
    assert all(len(table[gate][0]) == BINS and sum(table[gate][0]) == 8 for gate in GATES)
    assert table["mean f"][1] == pytest.approx(2.0)
    assert table["kept"][1] == pytest.approx(1 / (1 + math.exp(-2)))
    assert table["f"][1][-1] == 8  # the highest of all biases


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ([0.0, 1.0, 3.04], []),
        ([SEEN[0] - 0.9, SEEN[1] + 0.9], []),
        ([-2.0, 0.0], ["far below"]),
        ([0.0, 5.0], ["far above"]),
        ([-9.0, 5.0], ["far below", "far above"]),
        ([math.nan], []),
        ([-9.0, math.nan, 5.0], ["far below", "far above"]),
    ],
)
def test_only_what_no_trained_model_showed_is_remarked_upon(means: list[float], said: list[str]) -> None:
    found = far_from_trained({f"layer {layer}": mean for layer, mean in enumerate(means)})
    assert len(found) == len(said)
    assert all("layer 0" in sentence for sentence in found if "below" in sentence)
    assert all(f"layer {len(means) - 1}" in sentence for sentence in found if "above" in sentence)
    assert all(words in sentence for words, sentence in zip(said, found, strict=True))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("whole", [False, True])
def test_biases_that_are_not_finite_are_left_out(broken: float, whole: bool) -> None:
    lstm, tensors = found_in(random_lstm(hidden_size=4))
    tensors["bias_ih_l0"][: 16 if whole else 1] = broken
    assert sum(bias_table(lstm, tensors)["i"][0]) == (0 if whole else 3)
    bars = bias_histograms(gate_biases(lstm, tensors, 0, 0), 0, "f").data[0]
    assert sum(bars.y) == (0 if whole else 3)


def test_a_figure_marks_the_mean_and_the_unit_of_every_gate() -> None:
    biases = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    figure = bias_histograms(biases, 5, "f")
    lines = [trace.x[0] for trace in figure.data if trace.type == "scatter"]
    assert lines[::2] == pytest.approx(biases.mean(1).tolist())
    assert lines[1::2] == pytest.approx(biases[:, 5].tolist())
    ranges = {tuple(figure.layout[axis].range) for axis in ("xaxis", "xaxis2", "xaxis3", "xaxis4")}
    assert len(ranges) == 1
    alone = bias_histograms(biases, None, "f", shared=False)
    assert len([trace for trace in alone.data if trace.type == "scatter"]) == 4
    assert tuple(alone.layout.xaxis.range) != tuple(alone.layout.xaxis2.range)
