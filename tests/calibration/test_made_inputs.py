"""Inputs that the project makes: at random, and sampled from the model itself."""

from typing import Any

import pytest
import torch
from torch import nn

from pruner.calibration.inputs import STEPS, STREAMS, TEMPERATURE, gaussian, sampled
from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.files.opening import open_checkpoint
from pruner.lstm.lstm import LSTM
from pruner.lstm.module import build
from pruner.progress import Cancelled
from tests.helpers.files import npy, saved
from tests.helpers.input_files import INPUTS, LANGUAGE_MODEL, PAIR, checkpoint_of, language_model, only, read
from tests.helpers.models import random_lstm


def test_random_inputs_are_standard_normal_and_always_the_same() -> None:
    found = gaussian(PAIR, PAIR.lstms)
    assert (found.source, found.burn_in, found.embedding) == ("gaussian", 20, None)
    assert {name: tuple(group.shape) for name, (group,) in found.sequences.items()} == {
        "encoder": (64, 128, 3),
        "decoder": (64, 128, 2),
    }
    rows = found.sequences["encoder"][0].flatten(0, 1)
    torch.testing.assert_close(rows.mean(0), torch.zeros(3), atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(rows.T), torch.eye(3), atol=0.06, rtol=0)
    assert found.sha256 == gaussian(PAIR, PAIR.lstms).sha256
    assert found.steps() == {"encoder": 64 * 108, "decoder": 64 * 108}
    fit, held = found.split()
    assert fit.steps() == {"encoder": 51 * 108, "decoder": 51 * 108} and held.steps()["encoder"] == 13 * 108


@pytest.mark.parametrize(("tokens", "size"), [(50, 3), (2, 5), (1, 4), (30, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_random_inputs_resemble_an_embedding(tokens: int, size: int, dtype: torch.dtype) -> None:
    embed = nn.Embedding(tokens, size, dtype=dtype)
    embed.weight.data = 3 + embed.weight.data @ torch.randn(size, size).to(dtype)
    model = checkpoint_of(embed=embed, lstm=random_lstm(input_size=size))
    found = gaussian(model, model.lstms, "embed.weight")
    (inputs,) = found.inputs(model.lstms[0], model.tensors, 64)
    rows, expected = inputs.flatten(0, 1), model.tensors["embed.weight"].float()
    assert rows.dtype == torch.float32 and found.embedding == "embed.weight"
    scale = expected.std(0, correction=0).max().item() + 1e-3
    torch.testing.assert_close(rows.mean(0), expected.mean(0), atol=0.06 * scale, rtol=0)
    covariances = [torch.atleast_2d(torch.cov(each.T, correction=0)) for each in (rows, expected)]
    torch.testing.assert_close(*covariances, atol=0.1 * scale**2, rtol=0)


def test_an_embedding_that_fits_only_one_lstm() -> None:
    both = checkpoint_of(embed=nn.Embedding(11, 3), encoder=random_lstm(), decoder=random_lstm(input_size=2))
    with pytest.raises(PrunerError, match=r"expected floats \(V, 2\) as embedding of decoder"):
        gaussian(both, both.lstms, "embed.weight")


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_layers": 2}, {"proj_size": 2}, {"bias": False}, {"dtype": torch.float16}, {"dtype": torch.float64}],
    ids=str,
)
def test_sampling_draws_streams_of_ids(settings: dict[str, Any]) -> None:
    model = language_model(**settings)
    found = sampled(model, model.lstms[0], "embed.weight", "head.weight")
    ids = only(found)
    assert (found.source, found.embedding, found.burn_in) == ("sampled", "embed.weight", 20)
    assert ids.shape == (STREAMS, STEPS) and ids.dtype == torch.int64 and set(ids.unique().tolist()) == set(range(11))
    assert found.sha256 == sampled(model, model.lstms[0], "embed.weight", "head.weight").sha256
    assert found.steps() == {"lstm": STREAMS * (STEPS - 20)}
    assert len(ids[:, 0].unique()) > 5


def cyclic_model() -> Checkpoint:
    """Follows token k by k + 1, modulo 5, with near certainty, unless its bias forbids it."""
    lstm = nn.LSTM(5, 5)
    with torch.no_grad():
        for tensor in lstm.parameters():
            tensor.zero_()
        lstm.weight_ih_l0[10:15] = 10 * torch.eye(5)  # the cell gate: the token seen
        lstm.bias_ih_l0.copy_(torch.tensor([10.0] * 5 + [-10.0] * 5 + [0.0] * 5 + [10.0] * 5))  # input on, forget off
    head = nn.Linear(5, 5)
    head.weight.data, head.bias.data = 100 * torch.eye(5).roll(1, 0), torch.zeros(5)
    embed = nn.Embedding(5, 5)
    embed.weight.data = torch.eye(5)
    return checkpoint_of(embed=embed, lstm=lstm, head=head)


def test_sampling_follows_the_model() -> None:
    model = cyclic_model()
    ids = only(sampled(model, model.lstms[0], "embed.weight", "head.weight"))
    assert torch.equal(ids[:, 1:], (ids[:, :-1] + 1) % 5)


def test_sampling_adds_the_bias_beside_the_head() -> None:
    model = cyclic_model()
    bias = torch.tensor([0.0, 0.0, 1000.0, 0.0, 0.0])
    for changed, expected in (({"head.bias": bias}, {2}), ({"head.bias": bias[:4]}, set(range(5)))):
        other = open_checkpoint(saved({**model.container, **changed}))
        ids = only(sampled(other, other.lstms[0], "embed.weight", "head.weight"))
        assert set(ids[:, 1:].unique().tolist()) == expected


def test_sampling_has_the_distribution_of_the_model_with_its_memory() -> None:
    """Where tokens are drawn from a model, their mean log-likelihood under it is minus its mean entropy."""
    weights = {name: tensor * (1 if "embed" in name else 4) for name, tensor in LANGUAGE_MODEL.container.items()}
    model = open_checkpoint(saved(weights))
    (lstm,) = model.lstms
    ids = only(sampled(model, lstm, "embed.weight", "head.weight"))

    def surprise(remembers: bool) -> float:
        inputs = model.tensors["embed.weight"][ids[:, :-1]]
        output, _ = build(lstm, model.tensors)(inputs if remembers else inputs.flatten(0, 1)[:, None])
        logits = output.reshape(STREAMS, STEPS - 1, 4) @ model.tensors["head.weight"].T + model.tensors["head.bias"]
        likelihood = (logits / TEMPERATURE).log_softmax(-1)
        expected = (likelihood.exp() * likelihood).sum(-1)
        return (likelihood.gather(2, ids[:, 1:, None])[..., 0] - expected).mean().item()

    assert abs(surprise(remembers=True)) < 0.03 < 0.1 < abs(surprise(remembers=False))


@pytest.mark.parametrize(
    ("model", "head", "message"),
    [
        (
            language_model(bidirectional=True),
            "head.weight",
            "reads forwards to sample from, found the bidirectional lstm",
        ),
        (LANGUAGE_MODEL, "head", "expected the name of a tensor of the checkpoint as consumer, found 'head'"),
        (
            LANGUAGE_MODEL,
            "embed.weight",
            r"expected floats \(V, 4\) as consumer of lstm, found 'embed.weight' of .* shape \(11, 3\)",
        ),
        (
            LANGUAGE_MODEL,
            "lstm.weight_hh_l0",
            "as many tokens, found 11 in 'embed.weight' and 16 in 'lstm.weight_hh_l0'",
        ),
        (language_model(proj_size=2), "lstm.weight_hr_l0", r"expected floats \(V, 2\) as consumer"),
    ],
    ids=["bidirectional", "unknown", "width", "tokens", "projection"],
)
def test_models_that_cannot_generate(model: Checkpoint, head: str, message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        sampled(model, model.lstms[0], "embed.weight", head)


def test_outputs_that_are_no_numbers() -> None:
    broken = open_checkpoint(saved({**LANGUAGE_MODEL.container, "head.bias": torch.full((11,), torch.nan)}))
    with pytest.raises(
        PrunerError, match=r"expected finite outputs of 'head\.weight', found NaN or infinity at step 1;"
    ):
        sampled(broken, broken.lstms[0], "embed.weight", "head.weight")


def test_sampling_tells_its_progress_and_can_be_stopped() -> None:
    told: list[tuple[float, str]] = []
    sampled(LANGUAGE_MODEL, LANGUAGE_MODEL.lstms[0], "embed.weight", "head.weight", lambda *step: told.append(step))
    fractions = [fraction for fraction, _ in told]
    assert len(told) == STEPS // 16 and fractions == sorted(fractions) and 0 < fractions[0] < fractions[-1] < 1
    assert told[0][1] == "Sampling inputs of lstm, step 1 of 512"

    def stop(fraction: float, _: str) -> None:
        if fraction > 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        sampled(LANGUAGE_MODEL, LANGUAGE_MODEL.lstms[0], "embed.weight", "head.weight", stop)


def test_nothing_changes_the_checkpoint() -> None:
    model = language_model(torch.float16)
    before = {name: tensor.clone() for name, tensor in model.tensors.items()}
    sampled(model, model.lstms[0], "embed.weight", "head.weight")
    gaussian(model, model.lstms, "embed.weight")
    assert all(tensor.dtype == torch.float16 and torch.equal(tensor, before[k]) for k, tensor in model.tensors.items())


def test_an_lstm_cell_is_sampled_and_read_like_an_lstm() -> None:
    model = checkpoint_of(embed=nn.Embedding(11, 3), cell=nn.LSTMCell(3, 4), head=nn.Linear(4, 11))
    lstm: LSTM = model.lstms[0]
    assert only(sampled(model, lstm, "embed.weight", "head.weight")).shape == (STREAMS, STEPS)
    assert list(read(npy(INPUTS), checkpoint=model).sequences) == ["cell"]
