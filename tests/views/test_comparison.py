"""Two choices against each other."""

import pytest
import torch

from pruner import Recipe
from pruner.importance.weights import score
from pruner.views.comparison import by_block, by_row, differing_settings, rank_correlation
from tests.helpers.models import found_in, random_lstm


def test_only_settings_that_differ_are_told() -> None:
    a = Recipe(0.3, gate_sparsity={"hf": 0.1})
    now = Recipe(0.5, granularity="units", consumers=("head.weight",), lstms=("rnn",))
    table = differing_settings(a, now).set_index("setting")
    assert list(table.index) == ["sparsity", "granularity", "lstms", "gate sparsity", "consumers"]
    assert table.loc["gate sparsity"].tolist() == ["hf: 0.1", "none"]
    assert table.loc["lstms"].tolist() == ["all", "rnn"]
    assert table.loc["consumers"].tolist() == ["none", "head.weight"]
    assert differing_settings(a, a).empty


def test_blocks_count_what_both_and_only_one_drops() -> None:
    lstm, tensors = found_in(random_lstm(num_layers=2), "rnn.")
    saliency = score(lstm, tensors)
    masks = {name: torch.ones(16, dtype=torch.bool) for name in saliency}
    masks_a = {name: mask.clone() for name, mask in masks.items()}
    masks_a["rnn.weight_hh_l1"][[4, 5, 6]] = False  # hf of units 0, 1, 2
    masks["rnn.weight_hh_l1"][[6, 7]] = False  # hf of units 2, 3
    table = by_block([lstm], masks_a, masks, saliency, saliency)
    assert table["block"].tolist() == ["ii", "if", "ig", "io", "hi", "hf", "hg", "ho"] * 2
    line = table[(table["layer"] == 1) & (table["block"] == "hf")].iloc[0]
    assert (line["both"], line["only A"], line["only now"], line["overlap"]) == (1, 2, 1, 0.25)
    others = table.drop(line.name)
    assert not others[["both", "only A", "only now"]].to_numpy().any() and (others["overlap"] == 1).all()
    assert table["rank correlation"].tolist() == pytest.approx([1.0] * 16)


def test_rows_tell_both_saliencies_and_decisions() -> None:
    lstm, tensors = found_in(random_lstm(num_layers=2), "rnn.")
    saliency = score(lstm, tensors)
    saliency_a = {name: 2 * values for name, values in saliency.items()}
    masks = {name: torch.ones(16, dtype=torch.bool) for name in saliency}
    masks_a = {name: mask.clone() for name, mask in masks.items()}
    masks_a["rnn.weight_hh_l1"][5] = False
    masks["rnn.weight_ih_l0"][0] = False
    table = by_row([lstm], masks_a, masks, saliency_a, saliency).reset_index(drop=True)
    assert len(table) == 4 * 16 and table["saliency A"].tolist() == (2 * table["saliency now"]).tolist()
    places = [(line["tensor"], line["row"]) for _, line in table[~table["kept A"]].iterrows()]
    assert places == [("rnn.weight_hh_l1", 5)]
    assert [(line["gate"], line["unit"]) for _, line in table[~table["kept now"]].iterrows()] == [("ii", 0)]


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ([1.0, 2.0, 3.0], [10.0, 20.0, 90.0], 1.0),
        ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], -1.0),
        ([1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 3.0], 0.6),  # 1 - 6 * 4 / (4 * 15)
        ([1.0], [5.0], 1.0),
    ],
)
def test_rank_correlation_is_spearmans(a: list[float], b: list[float], wanted: float) -> None:
    assert rank_correlation(torch.tensor(a), torch.tensor(b)) == pytest.approx(wanted)
