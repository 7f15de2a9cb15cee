"""The trained examples: they open, are recognised, are as good as recorded, and are judged on data they never saw."""

import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from pruner import PrunerError, Recipe, examples, open_checkpoint, run
from pruner.examples import EXAMPLES, embedded_reber, example_of, named, pydocs_chars
from pruner.lstm.module import build

NAMES = list(EXAMPLES)
RECORDED = {"pydocs-chars": "bits_per_character", "embedded-reber": "strings_right"}


def test_both_are_there() -> None:
    assert NAMES == ["pydocs-chars", "embedded-reber"]
    assert named("embedded-reber").name == "embedded-reber"
    with pytest.raises(PrunerError, match="expected an example among pydocs-chars, embedded-reber; found 'reber'"):
        named("reber")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("pydocs-chars", (2, 64, 256)), ("embedded-reber", (1, 7, 32))],
)
def test_an_example_opens_as_it_is_described(name: str, shape: tuple[int, int, int]) -> None:
    example = EXAMPLES[name]
    checkpoint = example.open()
    (lstm,) = checkpoint.lstms
    assert (lstm.num_layers, lstm.input_size, lstm.hidden_size) == shape
    assert (
        f"{lstm.num_layers}-layer" in example.description and f"{lstm.hidden_size} hidden units" in example.description
    )
    assert example_of(checkpoint) is example
    assert example.file.stat().st_size <= 4_000_000


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_known_after_pruning_too(name: str, tmp_path: Path) -> None:
    folder = run(EXAMPLES[name].open(), Recipe()).save(tmp_path / "export")
    assert example_of(open_checkpoint(folder / "pruned.safetensors")) is EXAMPLES[name]


def look_alike(tmp_path: Path, change: dict[str, Tensor], metadata: dict[str, str] | None) -> Path:
    tensors = {**EXAMPLES["embedded-reber"].open().tensors, **change}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", metadata)
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize(
    ("change", "metadata"),
    [
        ({"linear.weight": torch.zeros(8, 32)}, {"example": "embedded-reber"}),
        ({"extra": torch.zeros(1)}, {"example": "embedded-reber"}),
        ({}, {"example": "pydocs-chars"}),
        ({}, {"example": "another"}),
        ({}, {}),
        ({}, None),
    ],
    ids=["another shape", "one tensor more", "another name", "unknown", "unsaid", "no metadata"],
)
def test_a_look_alike_is_no_example(tmp_path: Path, change: dict[str, Tensor], metadata: dict[str, str] | None) -> None:
    assert example_of(open_checkpoint(look_alike(tmp_path, change, metadata))) is None


def test_the_same_tensors_by_the_same_name_are_an_example(tmp_path: Path) -> None:
    path = look_alike(tmp_path, {}, {"example": "embedded-reber"})
    assert example_of(open_checkpoint(path)) is EXAMPLES["embedded-reber"]


def quality(name: str) -> float:
    checkpoint = EXAMPLES[name].open()
    lstms = {lstm.name: build(lstm, checkpoint.tensors) for lstm in checkpoint.lstms}
    return EXAMPLES[name].quality(checkpoint.tensors, lstms)


@pytest.mark.parametrize(
    ("given", "consumers", "task"),
    [
        ({"criterion": "obs"}, ("linear.weight",), "softmax"),
        ({"criterion": "obs", "consumers": ("linear.weight",)}, ("linear.weight",), "softmax"),
        ({"compensation": "fold", "consumers": ("other.weight",)}, ("other.weight",), None),
        (
            {"criterion": "obs", "consumers": ("linear.weight",), "task": "regression"},
            ("linear.weight",),
            "regression",
        ),
        ({"criterion": "l1"}, (), None),
    ],
    ids=["nothing named", "its head named", "another named", "another task", "no use for either"],
)
def test_what_is_known_of_an_example_completes_a_recipe(
    given: dict[str, Any], consumers: tuple[str, ...], task: str | None
) -> None:
    recipe = named("embedded-reber").complete(Recipe(granularity="units", **given))
    assert (recipe.consumers, recipe.task) == (consumers, task)


def test_pydocs_chars_is_as_good_as_recorded() -> None:
    bits = quality("pydocs-chars")
    assert 1.0 < bits < 1.7
    metadata = EXAMPLES["pydocs-chars"].open().metadata
    assert float(metadata["bits_per_character"]) == pytest.approx(1.5763, abs=0.01)
    if metadata["corpus_sha256"] == pydocs_chars.corpus_sha256():
        assert bits == pytest.approx(float(metadata["bits_per_character"]), abs=0.01)


def test_embedded_reber_is_as_good_as_recorded() -> None:
    right = quality("embedded-reber")
    assert right > 0.99
    assert right == pytest.approx(float(EXAMPLES["embedded-reber"].open().metadata["strings_right"]), abs=0.005)


@pytest.mark.parametrize("name", NAMES)
def test_quality_falls_when_everything_is_pruned(name: str) -> None:
    example = EXAMPLES[name]
    result = run(example.open(), Recipe(1.0), quality=example.quality)
    assert result.quality is not None and result.quality.keys() == {"dense", "masked", "compact"}
    before = result.quality["dense"]
    for after in (result.quality["masked"], result.quality["compact"]):
        assert (after < before - 0.5) if example.higher_is_better else (after > before + 0.5)
    assert result.quality["compact"] == pytest.approx(result.quality["masked"], abs=0.01)


def test_held_out_paragraphs_were_never_trained_on() -> None:
    training, held_out = ({part.strip() for part in text.split("\n\n")} for text in pydocs_chars.corpus())
    assert training.isdisjoint(held_out)
    assert len(training) > 5 * len(held_out) > 500


def test_characters_are_encoded_by_their_place_and_strangers_as_unknown() -> None:
    assert pydocs_chars.encode("abz", pydocs_chars.UNKNOWN + "ab").tolist() == [1, 2, 0]


REST = r"(?:XT*VP)*(?:S|XT*VV)"
REBER = rf"B(?:TS*X{REST}|PT*V(?:V|P{REST}))E"
EMBEDDED = re.compile(rf"B(?:T{REBER}T|P{REBER}P)E")


def test_reber_strings_obey_the_grammar() -> None:
    training, held_out = embedded_reber.strings()
    assert (len(training), len(held_out)) == (2000, 500)
    assert not [text for text, _ in training + held_out if not EMBEDDED.fullmatch(text)]
    assert len({text for text, _ in training + held_out}) == 2500


def test_legal_symbols_are_those_that_strings_with_this_beginning_go_on_with() -> None:
    followers: dict[str, set[str]] = {}
    stated: dict[str, str] = {}
    uses: dict[str, int] = {}
    for text, legal in [entry for part in embedded_reber.strings() for entry in part]:
        assert len(legal) == len(text) - 1 and legal[-2:] == [text[1], "E"]
        for step, symbols in enumerate(legal):
            beginning = text[: step + 1]
            followers.setdefault(beginning, set()).add(text[step + 1])
            assert stated.setdefault(beginning, symbols) == symbols
            uses[beginning] = uses.get(beginning, 0) + 1
    assert all(followers[beginning] <= set(stated[beginning]) for beginning in followers)
    common = [beginning for beginning, count in uses.items() if count > 100]
    assert len(common) > 20
    assert all(followers[beginning] == set(stated[beginning]) for beginning in common)


def test_strings_are_encoded_one_hot_and_padded() -> None:
    inputs, targets = embedded_reber.encode(["BTE", "BTXSE"])
    assert inputs.shape == (2, 4, 7) and targets.shape == (2, 4)
    assert inputs[1].argmax(1).tolist() == [0, 1, 3, 2] and targets[1].tolist() == [1, 3, 2, 6]
    assert not inputs[0, 2:].any() and targets[0].tolist() == [1, 6, -100, -100]


def test_a_string_counts_only_if_every_step_is_right() -> None:
    held_out = embedded_reber.strings()[1]

    class Oracle(torch.nn.Module):
        """Gives every legal symbol of the held-out strings a higher value, save one in the last step of the first."""

        def forward(self, inputs: Tensor) -> tuple[Tensor, None]:
            values = torch.zeros(inputs.shape)
            for row, (_, legal) in enumerate(held_out):
                for step, symbols in enumerate(legal):
                    values[row, step] = torch.tensor([float(symbol in symbols) for symbol in embedded_reber.SYMBOLS])
            values[0, len(held_out[0][1]) - 1] = 0
            return values, None

    tensors = {"linear.weight": torch.eye(7), "linear.bias": torch.zeros(7)}
    assert embedded_reber.strings_right(tensors, Oracle()) == pytest.approx(1 - 1 / 500)


@pytest.mark.parametrize(
    ("name", "differs"), [("pydocs-chars", True), ("pydocs-chars", False), ("embedded-reber", True)]
)
def test_a_note_says_when_the_data_differs(monkeypatch: pytest.MonkeyPatch, name: str, differs: bool) -> None:
    recorded = EXAMPLES["pydocs-chars"].open().metadata
    monkeypatch.setattr(pydocs_chars, "corpus_sha256", lambda: "other" if differs else recorded["corpus_sha256"])
    note = examples.data_note(EXAMPLES[name])
    if name == "pydocs-chars" and differs:
        assert note and f"Python {recorded['python']}" in note
    else:
        assert note is None


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_judges_as_the_whole_does(name: str) -> None:
    example = EXAMPLES[name]
    checkpoint = example.open()
    dense = {lstm.name: build(lstm, checkpoint.tensors) for lstm in checkpoint.lstms}
    pruned = run(checkpoint, Recipe(0.3)).pruned
    whole, part = example.sample(checkpoint.tensors, dense), example.sample(pruned.tensors(), pruned.modules("masked"))
    assert (example.sample.name, example.sample.higher_is_better) == (example.quality_name, example.higher_is_better)
    assert whole > part if example.higher_is_better else whole < part
