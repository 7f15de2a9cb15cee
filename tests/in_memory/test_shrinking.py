"""shrink(model, loader): whole models in memory become smaller, and stay what they were."""

import copy
import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pruner import PrunerError, shrink
from pruner.compact.load_pruned import CompactLSTM, replace
from pruner.exports.verify import verify
from pruner.in_memory.own_forward import defaults, floating
from tests.helpers.whole_models import CASES, Labels, Loop, loader, made

HALF: dict[str, Any] = {"target": {"macs": 0.5}, "steps": 5}


@pytest.fixture(autouse=True)
def in_this_process() -> Iterator[None]:
    """No time to start workers, which `test_candidates_heal_in_processes_of_their_own` does."""
    with joblib.parallel_config(backend="sequential"):
        yield


def state_of(model: nn.Module) -> dict[str, Any]:
    """All of a model that shrinking may not touch."""
    return {
        "tensors": {name: tensor.clone() for name, tensor in model.state_dict(keep_vars=False).items()},
        "flags": [module.training for module in model.modules()],
        "trained": [parameter.requires_grad for parameter in model.parameters()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "hooks": [len(module._forward_hooks) for module in model.modules()],
        "random": torch.get_rng_state(),
    }


def assert_untouched(model: nn.Module, before: dict[str, Any]) -> None:
    after = state_of(model)
    tensors = before["tensors"]
    assert all(torch.equal(tensors[name], tensor) for name, tensor in after["tensors"].items())
    assert torch.equal(before["random"], after["random"])
    for key in ("flags", "trained", "attributes", "hooks"):
        assert before[key] == after[key], key


def answers(model: nn.Module, batch: Any) -> list[Tensor]:
    with torch.no_grad():
        return list(floating(copy.deepcopy(model).eval()(batch)))


@pytest.mark.parametrize("name", CASES)
def test_a_model_becomes_smaller_runs_and_says_what_is_gone(name: str, tmp_path: Path) -> None:
    model, batches = made(name), loader(name)
    before = state_of(model)
    small = shrink(model, iter(batches), **HALF)
    assert_untouched(model, before)
    report = small.report
    assert type(small) is type(model) and small.training == model.training
    assert report.macs[1] <= 0.5 * report.macs[0] and report.parameters[1] < report.parameters[0]
    uneven = {each.name for each in report.removed if each.reason and "different numbers of units" in each.reason}
    trimmed = {lstm: () if lstm in uneven else read for lstm, read in CASES[name].trimmed.items()}
    assert {each.name: each.trimmed for each in report.removed if each.units} == trimmed
    assert all(each.trimmed or each.reason for each in report.removed)
    assert 0 < report.verdict.loss < 0.5
    assert [each.shape for each in answers(small, batches[0])] == [each.shape for each in answers(model, batches[0])]
    sum(each.sum() for each in floating(small(batches[0]))).backward()
    assert all("->" in line for line in str(report).splitlines()[1:4])
    small.save(tmp_path / "small")
    assert verify(tmp_path / "small")
    loaded = replace(made(name), tmp_path / "small")
    for one, other in zip(answers(loaded, batches[0]), answers(small, batches[0]), strict=True):
        assert torch.equal(one, other)
    torch.save(small.state_dict(), tmp_path / "small.pt")
    again = copy.deepcopy(small)
    again.load_state_dict(torch.load(tmp_path / "small.pt"))


def test_reports_say_why_something_stays() -> None:
    handed = shrink(made("encoder and decoder"), loader("encoder and decoder"), **HALF).report
    assert "because its state is handed to decoder (LSTM)" in str(handed) and "because it is given a state" in str(
        handed
    )
    assert "decoder is handed states of others" in str(handed)
    normed = shrink(made("normed"), loader("normed"), **HALF).report
    assert "because norm (LayerNorm) reads it" in str(normed)
    assert "unused: stays as it is, because no batch reached it" in str(normed)


def test_what_heals_inside_the_model_loses_less_than_what_was_folded() -> None:
    brief, longer = (
        shrink(made("encoder and decoder"), loader("encoder and decoder"), target={"macs": 0.4}, steps=steps)
        for steps in (1, 40)
    )
    assert longer.report.verdict.loss < 0.8 * brief.report.verdict.loss


def test_a_share_to_keep_is_sought_and_a_loss_judges() -> None:
    def loss(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), batch[1].flatten())

    batches = [(steps, steps.sum(-1).clamp(0, 2).long()) for steps in loader(count=8)]
    small = shrink(
        made(), batches, keep=0.5, steps=10, loss=loss, task="softmax", forward=lambda model, batch: model(batch[0])
    )
    verdict = small.report.verdict
    assert re.search(r"Of \d+ candidates, .* has \d+% of the multiply-accumulates", str(small.report))
    assert verdict.measure == "loss" and verdict.after <= 1.5 * verdict.before
    with torch.no_grad():
        found = sum(loss(small(steps), (steps, labels)) for steps, labels in batches[-2:]) / 2
    assert found.item() == pytest.approx(verdict.after, rel=1e-5)


def test_progress_never_goes_back() -> None:
    seen: list[float] = []
    shrink(made(), loader(), **HALF, progress=lambda done, what: seen.append(done))
    assert len(seen) > 10 and seen == sorted(seen)


def test_in_place_the_model_itself_is_smaller() -> None:
    model = made()
    heard: list[int] = []
    model.lstm.register_forward_hook(lambda module, args, output: heard.append(len(args)))
    model.get_submodule("linear").weight.requires_grad_(False)
    small = shrink(model, loader(), inplace=True, **HALF)
    assert small is model and isinstance(small.lstm, CompactLSTM)
    heard.clear()
    small(loader()[0])
    assert heard == [1]
    assert not small.linear.weight.requires_grad and small.linear.bias.requires_grad


def test_frozen_and_tied_parameters_stay_so() -> None:
    small = shrink(made("normed"), loader("normed"), **HALF)
    assert small.head.weight is small.embedding.weight
    frozen = {name.rpartition(".")[2] for name, each in small.lstm.named_parameters() if not each.requires_grad}
    assert frozen == {"weight_hh_l0"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_other_precisions_are_kept(dtype: torch.dtype) -> None:
    batches = [batch.to(dtype) for batch in loader()]
    small = shrink(made().to(dtype).eval(), batches, **HALF)
    assert {each.dtype for each in small.parameters()} == {dtype} and not small.training
    assert answers(small, batches[0])[0].dtype == dtype
    assert small.report.verdict.loss < 0.3


def test_whatever_surrounds_the_call_is_no_matter(tmp_path: Path) -> None:
    contexts: list[Any] = [
        torch.no_grad(),
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
        defaults(torch.float64, torch.device("meta")),
    ]
    for number, surroundings in enumerate(contexts):
        model, batches = made(), loader()
        with surroundings:
            small = shrink(model, batches, **HALF)
            small.save(tmp_path / str(number))
        assert small.report.verdict.loss < 0.3
        small(loader()[0]).sum().backward()


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [nn.DataParallel, compiled], ids=["DataParallel", "OptimizedModule"])
def test_wrappers_are_taken_off_and_said_to(wrap: Any, request: pytest.FixtureRequest) -> None:
    small = shrink(wrap(made()), loader(), **HALF)
    assert type(small) is Labels
    assert f"{request.node.callspec.id} was taken off" in str(small.report)


def test_copies_can_be_saved_pickles_and_trained_models_say_why_not(tmp_path: Path) -> None:
    small = shrink(made("loop"), loader("loop"), **HALF)
    copy.deepcopy(small).save(tmp_path / "copy")
    pickled = pickle.loads(pickle.dumps(small))
    assert str(pickled.report) == str(small.report)
    with pytest.raises(PrunerError, match="found one that was pickled"):
        pickled.save(tmp_path / "pickled")
    with torch.no_grad():
        next(small.cell.parameters()).add_(1)
    with pytest.raises(PrunerError, match="expected the weights as shrink left them"):
        small.save(tmp_path / "trained")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["copy"]
    assert json.loads((tmp_path / "copy/manifest.json").read_text())["form"] == "compact"


def test_a_model_that_cannot_be_sent_to_workers_heals_here() -> None:
    model = made()
    model.lock = _Unpicklable()
    small = shrink(model, loader(), **HALF)
    assert "Candidates were healed one after the other" in str(small.report)


class _Unpicklable:
    def __deepcopy__(self, memo: Any) -> "_Unpicklable":
        return self

    def __reduce__(self) -> Any:
        raise TypeError("no")


def test_candidates_heal_in_processes_of_their_own() -> None:
    with joblib.parallel_config(backend="loky", n_jobs=2):
        small = shrink(made(), loader(), **HALF)
    assert not any("one after the other" in note for note in small.report.notes)
    assert small.report.verdict.loss == shrink(made(), loader(), **HALF).report.verdict.loss


class Deaf(Labels):
    """Something else than an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.GRU(4, 4, batch_first=True)  # type: ignore[assignment]
        self.linear = nn.Linear(4, 3)


class Lazy(Labels):
    """One whose sizes nobody knows yet."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(3)


REFUSED: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "no batches": (Labels, [], {}, "expected a loader of at least two batches, the last to judge by, found none"),
    "one batch": (Labels, loader(count=1), {}, "expected a loader of at least two batches.* found 1"),
    "no loader": (Labels, 3, {}, "expected a loader, .* found int; give a DataLoader"),
    "no LSTM": (Deaf, loader(), {}, "expected an nn.LSTM or nn.LSTMCell in the model, found none in Deaf"),
    "batches of pairs": (
        Labels,
        [(batch, 1) for batch in loader()],
        {},
        r"found AttributeError .* a tuple of 2 things, the first shape \(8, 12, 4\).*forward=lambda model, batch",
    ),
    "a wrong width": (Labels, [torch.randn(2, 3, 5)] * 3, {}, "expected a model that reads every batch, found"),
    "no numbers": (
        Labels,
        loader(),
        {"forward": lambda model, batch: model(batch).argmax(-1)},
        "expected a model that gives floating-point tensors, found none",
    ),
    "lazy layers": (Lazy, loader(), {}, r"expected a model that was called once, found linear\.weight without a shape"),
    "no model": (lambda: "model.pt", loader(), {}, "expected a model, a torch.nn.Module of Python code, found str"),
    "both wishes": (Labels, loader(), {"keep": 0.9}, "expected either keep=0.97 or target=dict"),
    "another target": (Labels, loader(), {"target": {"time": 0.5}}, "expected either keep=0.97 or target=dict"),
    "a keep of 2": (Labels, loader(), {"keep": 2, "target": None}, "expected keep between 0 and 1, found 2"),
    "a task": (Labels, loader(), {"task": "tags"}, "expected a task among softmax, regression; found 'tags'"),
    "batches of NaN": (
        Labels,
        [batch * torch.nan for batch in loader()],
        {},
        "expected finite numbers in what the model",
    ),
    "fewer answers": (
        Labels,
        [*loader(), torch.randn(5, 12, 4)],
        {"forward": lambda model, batch: list(model(batch))},
        "expected 8 tensors or more from every batch, as from the first, found 5",
    ),
    "a loss that fails": (Labels, loader(), {"loss": lambda *_: 1 / 0}, "expected a loss of .* ZeroDivisionError"),
    "a loss of float": (Labels, loader(), {"loss": lambda *_: 0.5}, "expected a loss that is a tensor, found float"),
    "a loss of NaN": (Labels, loader(), {"loss": lambda found, _: found.sum() * torch.nan}, "is a number, found nan"),
    "no optimizer": (Labels, loader(), {"optimizer": None}, "expected torch.optim optimizers, found NoneType"),
    "a budget": (Labels, loader(), {"budget": "soon"}, "expected a budget as 30s, 2m .* found 'soon'"),
    "a device": (Labels, loader(), {"device": "abacus"}, "expected a device among cpu.*; found 'abacus'"),
    "a size": (Labels, loader(), {"target": {"macs": 0.001}}, "expected a share of macs that can be left"),
    "short sequences": (Labels, [torch.randn(1, 2, 4)] * 3, {}, "expected at least 10 time steps of lstm to fit on"),
}


@pytest.mark.parametrize(("model", "batches", "settings", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_is_refused_in_one_sentence(
    model: Any, batches: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(PrunerError, match=message):
        shrink(model(), batches, **{**HALF, **settings})


def test_a_forward_without_gradients_is_refused() -> None:
    class Closed(Labels):
        @torch.no_grad()
        def forward(self, steps: Tensor) -> Tensor:
            return super().forward(steps)

    with pytest.raises(PrunerError, match="expected a forward pass through which gradients come back"):
        shrink(Closed(), loader(), **HALF)


def test_every_call_of_a_model_that_keeps_its_state_begins_as_the_first() -> None:
    class Keeping(Labels):
        state: Any = None

        def forward(self, steps: Tensor) -> Tensor:
            output, self.state = self.lstm(steps, self.state)
            return self.linear(output)

    model = Keeping()
    model.load_state_dict(made().state_dict())
    small = shrink(model, loader(), target={"macs": 0.5}, steps=12)
    assert model.state is None and small.state is None and small.report.verdict.loss < 0.03
    assert "is handed states of others" not in str(small.report)


def test_answers_that_are_no_numbers_are_ruined() -> None:
    class Proud(Labels):
        def forward(self, steps: Tensor) -> Tensor:
            output = self.lstm(steps)[0]
            same = isinstance(self.lstm, nn.LSTM) and torch.allclose(output, nn.LSTM.forward(self.lstm, steps)[0])
            return self.linear(output) if same else self.linear(output) * torch.nan

    verdict = shrink(Proud(), loader(), **HALF).report.verdict
    assert verdict.word == "ruined" and verdict.loss == torch.inf


def test_what_is_computed_again_in_the_backward_pass_is_the_same() -> None:
    class Again(Labels):
        def forward(self, steps: Tensor) -> Any:
            return checkpoint(super().forward, steps, use_reentrant=False)

    model, again = made(), Again()
    again.load_state_dict(model.state_dict())
    once, twice = (shrink(each, loader(), **HALF).state_dict() for each in (model, again))
    assert all(torch.equal(tensor, twice[name]) for name, tensor in once.items())


def test_a_forward_that_reads_the_weights_themselves_is_refused_before_anything_takes_long() -> None:
    class Peeking(Loop):
        def forward(self, steps: Tensor) -> Any:
            return super().forward(steps)[0] + self.cell.weight_hh.mean()

    with pytest.raises(PrunerError, match="has no attribute 'weight_hh'"):
        shrink(Peeking(), loader("loop"), target={"macs": 0.5}, budget="1h")
