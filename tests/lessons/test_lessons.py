"""What the lessons measure, against values worked out by hand or by other means."""

import html
import math
from html.parser import HTMLParser

import pytest
import torch
from torch import Tensor, nn
from torch.ao.pruning._experimental.pruner.lstm_saliency_pruner import LSTMSaliencyPruner as Upstream

from pruner import PrunerError, examples
from pruner.calibration.calibration import ENOUGH_HELD_BACK
from pruner.examples import embedded_reber
from pruner.importance.masks import keep_mask, row_ranks
from pruner.lessons import (
    LESSONS,
    SOURCES,
    TERMS,
    cell,
    frozen,
    healing,
    norms,
    packed,
    repair,
    smaller,
    source_of,
    steps,
    together,
)
from pruner.lessons.handout import handout
from pruner.lessons.model import GRAMMAR, TEXT, model

# The L1 norms of `norms.NUMBERS`, added up by hand: gates i, f, g, o of units 0 to 3.
BY_HAND = [0.75, 0.3, 1.25, 0.7, 1.5, 0.35, 0.8, 1.25, 2.0, 1.3, 0.45, 1.35, 0.15, 0.75, 0.65, 0.75]


def share_right(lstm: nn.LSTM, weight: Tensor, bias: Tensor) -> float:
    """Share of held-out strings in which no illegal symbol is preferred to a legal one, one string at a time."""
    right = 0
    held_out = embedded_reber.strings()[1]
    for text, legal in held_out:
        inputs = torch.eye(7)[[embedded_reber.SYMBOLS.index(symbol) for symbol in text[:-1]]]
        with torch.no_grad():
            scores = (lstm(inputs[None])[0][0] @ weight.t() + bias).tolist()
        right += all(
            min(step[embedded_reber.SYMBOLS.index(symbol)] for symbol in allowed)
            > max(value for symbol, value in zip(embedded_reber.SYMBOLS, step, strict=True) if symbol not in allowed)
            for step, allowed in zip(scores, legal, strict=True)
        )
    return right / len(held_out)


def grammar_lstm() -> tuple[nn.LSTM, Tensor, Tensor]:
    """The trained grammar model without the library: LSTM, weight and bias of its output layer."""
    tensors = examples.named(GRAMMAR).open().tensors
    lstm = nn.LSTM(7, 32, batch_first=True)
    lstm.load_state_dict({name.removeprefix("lstm."): t for name, t in tensors.items() if name.startswith("lstm.")})
    return lstm.eval().requires_grad_(False), tensors["linear.weight"], tensors["linear.bias"]


@pytest.mark.parametrize(
    ("row", "right", "wrong"),
    [(0, ("i", 0), ("i", 0)), (5, ("f", 1), ("f", 1)), (6, ("f", 2), ("g", 1)), (11, ("g", 3), ("o", 2))],
)
def test_a_row_belongs_to_a_gate_and_a_unit(row: int, right: tuple[str, int], wrong: tuple[str, int]) -> None:
    assert packed.place(row, 4) == packed.Place(*right)
    assert packed.wrong_place(row) == packed.Place(*wrong)


def test_the_wrong_reshape_mixes_gates() -> None:
    reshaped = packed.reshape(2)
    assert reshaped.right.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert reshaped.wrong.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert reshaped.agreeing == 2
    assert "Row 5 is the output gate" not in packed.notice(5, reshaped)[0]
    assert "Row 5 is the cell gate g of unit 1, because 5 = 2 × 2 + 1" in packed.notice(5, reshaped)[0]


def test_norms_by_hand() -> None:
    found = norms.by_hand(norms.NUMBERS)
    assert found.saliency.tolist() == pytest.approx(BY_HAND)
    notices = norms.notice(found)
    assert notices[0] == "The output gate o of unit 0 carries the least weight: 0.05 + 0.1 = 0.15."
    assert notices[1] == "The cell gate g of unit 0 carries the most weight: 1.2 + 0.8 = 2."


def test_an_edited_number_changes_its_row_alone() -> None:
    weight = norms.read(norms.NUMBERS)
    weight[6, 1] = -3
    found = norms.by_hand(norms.write(weight))
    assert found.saliency.tolist() == pytest.approx([*BY_HAND[:6], 3.4, *BY_HAND[7:]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found 1 rows"),
        ("1 2; 3 4", "found 2 rows"),
        (norms.NUMBERS + "; 1 2", "found 17 rows"),
        (norms.NUMBERS.replace("0.3 -0.4", "0.3"), "found '0.3' in row 3"),
        (norms.NUMBERS.replace("0.3 -0.4", "0.3 nan"), "found '0.3 nan' in row 3"),
        (norms.NUMBERS.replace("0.3 -0.4", "0.3 x"), "in row 3; correct that row"),
    ],
)
def test_numbers_that_are_none_are_named(text: str, message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        norms.read(text)


def test_masks_by_hand() -> None:
    saliency = torch.tensor(BY_HAND, dtype=torch.float64)
    # Half of each gate: i loses units 1, 3; f 1, 2; g 2, 1; o 0, 2.
    aware = [True, False, True, False, True, False, False, True, True, False, False, True, False, True, False, True]
    assert keep_mask(row_ranks(saliency), (0.5,) * 4).tolist() == aware
    # The eight lowest of all: 0.15, 0.3, 0.35, 0.45, 0.65, 0.7 and, of the three of 0.75, the first two.
    blind = together.gate_blind_mask(saliency, 8)
    assert [row for row, kept in enumerate(blind.tolist()) if not kept] == [0, 1, 3, 5, 10, 12, 13, 14]


def test_rows_in_the_wrong_part_by_hand() -> None:
    # i | f f f | g g g | o in parts of two: i f | f f | g g | g o, where one f and one g are in the wrong part.
    assert together.misplaced(torch.tensor([1, 3, 3, 1])) == 2
    assert together.misplaced(torch.tensor([2, 2, 2, 2])) == 0


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_ranking_together_and_apart(share: float) -> None:
    found = together.compare(share)
    dropped = int(32 * share)
    for way in ("aware", "blind"):
        lstm, weight, bias = grammar_lstm()
        for side in ("ih", "hh"):
            packed_weight = lstm.get_parameter(f"weight_{side}_l0")
            lowest = packed_weight.double().abs().sum(1)
            if way == "aware":
                falls = torch.cat(
                    [part.topk(dropped, largest=False).indices + 32 * g for g, part in enumerate(lowest.chunk(4))]
                )
            else:
                falls = lowest.topk(4 * dropped, largest=False).indices
            packed_weight[falls] = 0
            assert found.kept[way][side].tolist() == (packed_weight.abs().sum(1) > 0).view(4, 32).sum(1).tolist()
        assert found.quality[way] == share_right(lstm, weight, bias)
    if share:
        # Norms of two gates cannot be compared, costs can.
        assert found.quality["blind"] < found.quality["aware by cost"] < found.quality["aware"]
        assert found.quality["aware"] + 0.2 < found.quality["blind by cost"]
        falling = {side: 128 - int(kept.sum()) for side, kept in found.kept["blind by cost"].items()}
        assert falling == {"ih": 4 * dropped, "hh": 4 * dropped}


@pytest.mark.parametrize("side", ["ih", "hh"])
def test_the_steps_end_in_the_mask_of_upstream(side: str) -> None:
    found = steps.stages(GRAMMAR, side)
    lstm, _, _ = grammar_lstm()
    model_ = nn.ModuleDict({"lstm": lstm.requires_grad_(True)})
    upstream = Upstream({"sparsity_level": steps.SHARE})
    upstream.prepare(model_, [{"tensor_fqn": f"lstm.weight_{side}_l0"}])
    upstream.enable_mask_update = True
    upstream.step()
    assert torch.equal(found.mask, lstm.parametrizations[f"weight_{side}_l0"][0].mask)
    assert (found.dropped, found.hidden_size, int((~found.mask).sum())) == (8, 32, 32)
    for step in steps.STEPS:
        assert steps.notice(found, step)


def test_a_gate_without_its_rows_is_constant() -> None:
    tensors = model(GRAMMAR).tensors
    for gate, unit, function in (("f", 3, torch.sigmoid), ("g", 7, torch.tanh)):
        found = frozen.watch("BTBTXSETE", gate, unit, "both")
        row = "ifgo".index(gate) * 32 + unit
        expected = float(function(tensors["lstm.bias_ih_l0"][row] + tensors["lstm.bias_hh_l0"][row]))
        assert found.constant == pytest.approx(expected, abs=1e-6)
        assert found.values["masked"].tolist() == pytest.approx([expected] * 8, abs=1e-6)
        assert float(found.values["whole"].std()) > 0.01


def test_gates_and_cells_over_time_are_those_of_torch() -> None:
    text, unit = "BPBPTVPSEPE", 5
    found = frozen.watch(text, "f", unit, "weight_ih")
    for name in ("whole", "masked"):
        lstm, weight, bias = grammar_lstm()
        if name == "masked":
            lstm.weight_ih_l0[32 + unit] = 0
        state = torch.zeros(2, 32)
        for step, symbol in enumerate(text[:-1]):
            inputs = torch.eye(7)[embedded_reber.SYMBOLS.index(symbol)]
            gates = lstm.weight_ih_l0 @ inputs + lstm.weight_hh_l0 @ state[0] + lstm.bias_ih_l0 + lstm.bias_hh_l0
            i, f, g, o = gates.view(4, 32)
            cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
            state = torch.stack([o.sigmoid() * cell.tanh(), cell])
            assert float(found.values[name][step]) == pytest.approx(float(f[unit].sigmoid()), abs=1e-5)
            assert float(found.cells[name][step]) == pytest.approx(float(cell[unit]), abs=1e-5)
            if step == len(text) - 3:
                shares = (weight @ state[0] + bias).softmax(0)
                for symbol in "TP":
                    share = float(shares[embedded_reber.SYMBOLS.index(symbol)])
                    assert found.shares[name][symbol] == pytest.approx(share, abs=1e-5)


def test_the_unit_that_decides_is_found_by_measurement() -> None:
    found = frozen.find_decider()

    def without(unit: int) -> float:
        lstm, weight, bias = grammar_lstm()
        lstm.weight_ih_l0[32 + unit] = 0
        lstm.weight_hh_l0[32 + unit] = 0
        return share_right(lstm, weight, bias)

    others = found.quality.argsort()[1:3].tolist()
    for unit in (found.unit, *others):
        assert float(found.quality[unit]) == pytest.approx(without(unit))
    assert float(found.quality[found.unit]) < 0.7 < min(float(found.quality[unit]) for unit in others)
    watched = frozen.watch(found.text, "f", found.unit, "both")
    other = "TP".replace(watched.outer, "")
    assert watched.shares["whole"][watched.outer] > watched.shares["whole"][other]
    assert watched.shares["masked"][watched.outer] < watched.shares["masked"][other]


def test_gluing_is_what_upstream_does() -> None:
    tensors, small = smaller.glued(model(GRAMMAR), 0.25)

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, weight, bias = grammar_lstm()
            self.lstm.requires_grad_(True)
            self.linear = nn.Linear(32, 7)
            self.linear.load_state_dict({"weight": weight, "bias": bias})

        def forward(self, inputs: Tensor) -> Tensor:
            output, _ = self.lstm(inputs)
            return self.linear(output)

    upstream = Upstream({"sparsity_level": 0.25})
    upstream.prepare(Tagger(), [{"tensor_fqn": f"lstm.weight_{side}_l0"} for side in ("ih", "hh")])
    upstream.enable_mask_update = True
    upstream.step()
    expected = upstream.prune()
    for name, tensor in small.state_dict().items():
        assert torch.equal(tensor, expected.lstm.get_parameter(name)), name
    assert torch.equal(tensors["linear.weight"], expected.linear.weight)


def test_gluing_two_layers_fits_together() -> None:
    tensors, small = smaller.glued(model(TEXT), 0.5)
    with torch.no_grad():
        output, _ = small(torch.zeros(1, 3, 64))
    assert output.shape == (1, 3, 128)
    assert tensors["linear.weight"].shape[1] == 128


def test_three_ways_to_shrink() -> None:
    found = smaller.shrink(0.25)
    lstm, weight, bias = grammar_lstm()
    rows = torch.stack(
        [lstm.get_parameter(f"weight_{side}_l0").double().abs().sum(1).view(4, 32) for side in ("ih", "hh")]
    )
    dropped = torch.zeros(2, 4, 32, dtype=torch.bool).scatter_(2, rows.argsort(2)[:, :, :8], True)
    assert found.agreement.tolist() == (8 - dropped.sum((0, 1))).tolist()
    units = rows.sum((0, 1)).argsort()[:8]
    for name, parameter in lstm.named_parameters():
        parameter.view(4, 32, -1)[:, units] = 0 if "l0" in name else parameter
    assert found.quality["units"] == share_right(lstm, weight, bias)
    assert found.quality["whole"] == 1
    assert found.quality["glued"] < found.quality["units"]
    assert found.parameters["whole"] == 4 * 32 * (7 + 32) + 8 * 32
    assert found.parameters["glued"] == found.parameters["units"] == 4 * 24 * (7 + 24) + 8 * 24
    assert found.compact.max_abs_difference < 1e-6 < found.drift["units"]


def test_the_larger_model_is_timed_in_all_ways() -> None:
    times = smaller.speed(0.75)
    assert times.keys() == smaller.WAYS.keys()
    assert all(0 < each < 10_000 for each in times.values())


def test_what_kept_units_tell_is_what_a_regression_tells() -> None:
    found = repair.repair(0.5)
    lstm, weight, bias = grammar_lstm()
    texts = sorted((text for text, _ in embedded_reber.strings()[0]), key=len)
    # The longest of the training strings are held back from the fit: not a fifth, which would be more than is enough.
    held_back = round(len(texts) * ENOUGH_HELD_BACK / sum(len(text) - 1 for text in texts))
    assert 100 < held_back < 400
    texts = texts[:-held_back]
    states = torch.cat([lstm(embedded_reber.encode([text])[0])[0][0] for text in texts]).double()
    kept = torch.cat([states[:, found.kept], torch.ones(len(states), 1, dtype=torch.float64)], 1)
    fitted = kept @ torch.linalg.lstsq(kept, states[:, found.removed]).solution
    left = (states[:, found.removed] - fitted).var(0) / states[:, found.removed].var(0)
    assert found.explained.tolist() == pytest.approx((1 - left).tolist(), abs=0.02)
    assert found.correlation.flatten().tolist() == pytest.approx(
        torch.corrcoef(states.t()).flatten().tolist(), abs=1e-3
    )
    for name, parameter in lstm.named_parameters():
        assert parameter.shape[0] == 128, name
        parameter.view(4, 32, -1)[:, found.removed] = 0
    assert found.quality["none"] == share_right(lstm, weight, bias)
    assert found.quality["none"] + 0.1 < found.quality["fold"]


def test_what_is_not_known_by_others_cannot_be_told() -> None:
    moments = repair.Moments(
        torch.zeros(3, dtype=torch.float64), torch.tensor([[1.0, 2, 0], [2, 4, 0], [0, 0, 1]]).double()
    )
    told = repair.explained(moments, torch.tensor([0]), torch.tensor([1, 2]))
    assert told.tolist() == pytest.approx([1, 0], abs=1e-4)
    assert repair.correlation(moments).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_a_lesson_is_whole(lesson: packed.Lesson) -> None:
    assert [answer.right for answer in lesson.answers].count(True) == 1
    assert len({answer.text for answer in lesson.answers}) == len(lesson.answers) >= 3
    assert set(lesson.sources) <= set(SOURCES) and lesson.sources
    for function in lesson.code:
        lines = source_of(function).splitlines()
        assert lines[0].startswith("def ") and 2 <= len(lines) <= 10
        assert '"""' not in source_of(function)


def test_the_numbers_in_check_questions() -> None:
    right = {lesson.name: next(answer for answer in lesson.answers if answer.right) for lesson in LESSONS}
    assert divmod(packed.EXAMPLE_ROW, packed.EXAMPLE_SIZE) == (2, 6)
    assert right["packed"].text == "The cell gate g of unit 6"
    assert math.fsum([0.3, 0.4]) > math.fsum([0.5, 0.1]) and math.hypot(0.3, 0.4) < math.hypot(0.5, 0.1)
    assert right["norms"].text == "Row B"
    assert right["steps"].text == str(int(30 * 0.25)) == "7"
    assert f"{1 / (1 + math.exp(-2)):.2f}" == "0.88"
    alone = cell.frozen_alone()
    assert right["cell"].text == "The cell gate g" and alone["g"] == 0 < min(alone["i"], alone["f"])
    quality = together.compare(0.2).quality
    assert right["together"].text.startswith("All rows together, by what")
    assert max(quality, key=lambda way: quality[way]) == "blind by cost"
    assert quality["blind"] < quality["aware"]


def test_no_term_is_used_before_it_is_explained() -> None:
    explained: set[str] = set()
    for number, (lesson, text) in enumerate(_all_words()):
        explained |= set(lesson.terms)
        early = [term for term in TERMS if term not in explained and term.split()[-1] in text.lower().split()]
        assert not [term for term in early if term not in ("compact",)], f"lesson {number}: {early}"
    assert explained == set(TERMS)


def _all_words() -> list[tuple[packed.Lesson, str]]:
    stages, decider = steps.stages(GRAMMAR, "ih"), frozen.find_decider()
    notices = [
        cell.notice(cell.walk()),
        packed.notice(70, packed.reshape(32)),
        norms.notice(norms.by_hand(norms.NUMBERS)),
        together.notice(together.compare(0.2), "hh"),
        [notice for step in steps.STEPS for notice in steps.notice(stages, step)],
        [n for rows in frozen.ROWS for n in frozen.notice(frozen.watch(decider.text, "f", decider.unit, rows), rows)],
        smaller.notice(smaller.shrink(0.25), 0.25),
        repair.notice(repair.repair(0.5)),
        healing.notice([]),
    ]
    told = []
    for lesson, own in zip(LESSONS, notices, strict=True):
        answers = [part for answer in lesson.answers for part in (answer.text, answer.why)]
        words = [lesson.title, lesson.question, lesson.introduction, lesson.check, *answers, *own]
        told.append((lesson, " ".join(words).replace("*", " ").replace(",", " ").replace(".", " ").replace(":", " ")))
    return told


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.attributes: list[str] = []
        self._open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        if self._open == "h1":
            self.headings.append(data)
            self._open = ""


def test_the_handout_holds_every_lesson_and_loads_nothing() -> None:
    text = handout()
    page = _Page()
    page.feed(text)
    titles = [f"{number}. {lesson.title}" for number, lesson in enumerate(LESSONS)]
    assert page.headings == [*titles, "Answers", "Terms"]
    lessons, answers = text.split("<h1>Answers</h1>")
    for right in (answer for lesson in LESSONS for answer in lesson.answers if answer.right):
        why = html.escape(right.why).split("`")[0].split("*")[0]
        assert why in answers and why not in lessons
    assert "wholly right: i " in answers and "strings right</th>" not in lessons.split("4. The pruner")[0]
    assert not {"src", "href", "srcset", "data"} & set(page.attributes)
    assert "url(" not in text and "@import" not in text and "<script" not in text
    assert "(0.5, -0.25): 0.75" in text and "(0.15, 0.6): 0.75" in text
    assert f"{frozen.find_decider().text}" in text
