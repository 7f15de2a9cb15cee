"""Real files of other kinds: what is found, what is declined and how, and masks equal to those of torch.ao.pruning."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from pruner import Recipe, open_checkpoint, run
from pruner.errors import PrunerError
from pruner.exports.verify import verify
from pruner.files import formats
from pruner.importance.masks import keep_mask, row_ranks
from pruner.importance.weights import score
from tests.helpers.real_files import FACTS, Entry, each, foreign_files

ENTRIES = foreign_files()
DECLINED = {
    "UCI_AirQuaity-Time-serie__lstm_model.h5": r"^expected activation tanh, which nn.LSTM has, found relu",
    "GCN-test__lstm.pth": r"^an LSTM written by hand, it seems: expected the layout of nn.LSTM, weight_ih_l0",
    "CV_ENG_8160__homework2_gru.pt": r"^a GRU: 3 gates",
}
CONSUMERS = {
    "hand-gesture-recongnitio__lstm_model.h5": {"lstm": ("lstm_1.weight_ih_l0",), "lstm_1": ("dense.weight",)},
    "LettuceLSTM_RTOS__lstm_model.keras": {"lstm": ("dense.weight",)},
    "pypi_asmscan-bilstm__bass-model1.h5": {"bi-lstm": ("lstm.weight_ih_l0",), "lstm": ("classif.weight",)},
    "Pytorch-TVM-LSTM__lstm.onnx": {"lstm": ("linear.weight",)},
    "dtln_model_1.onnx": {"lstm_4": ("lstm_5.weight_ih_l0",), "lstm_5": ("dense_2.weight",)},
    "onnx_to_tensorflow__lstm.onnx": {"": ()},
}


@each([entry for entry in ENTRIES if entry["lstm"]])
def test_the_lstms_of_a_file_are_found_with_their_sizes(entry: Entry, foreign: Path) -> None:
    checkpoint = open_checkpoint(foreign / entry["name"])
    found = [{key: getattr(lstm, fact) for key, fact in FACTS.items()} for lstm in checkpoint.lstms]
    assert found == sorted(entry["lstm"], key=lambda lstm: lstm["prefix"])
    assert (checkpoint.sha256, checkpoint.size) == (entry["sha256"], entry["size"])
    assert entry["format"].startswith(checkpoint.format)
    assert checkpoint.format in formats.ALL


@each([entry for entry in ENTRIES if not entry["lstm"]])
def test_what_holds_none_is_declined_by_name(entry: Entry, foreign: Path) -> None:
    checkpoint = open_checkpoint(foreign / entry["name"])
    (skipped,) = checkpoint.skipped
    assert re.match(DECLINED[entry["name"]], skipped.reason)
    with pytest.raises(PrunerError, match=f"^expected an LSTM in {re.escape(entry['name'])}, found none; it holds "):
        checkpoint.select()


@each([entry for entry in ENTRIES if "upstream_masks" in entry])
def test_masks_equal_those_of_upstream_bit_for_bit(entry: Entry, foreign: Path) -> None:
    checkpoint = open_checkpoint(foreign / entry["name"])
    (lstm,) = checkpoint.lstms
    saliencies = score(lstm, checkpoint.tensors)
    upstream = dict(np.load(foreign / entry["upstream_masks"]))
    assert len(upstream) == 4 * len(lstm.weight_names())
    for key, expected in upstream.items():
        name, what = re.fullmatch(r"g00\.(.+?)\.(sal|mask@.+)", key).groups()
        if what == "sal":
            np.testing.assert_allclose(saliencies[name], expected, rtol=1e-5, err_msg=key)
        else:
            mask = keep_mask(row_ranks(saliencies[name]), (float(what.removeprefix("mask@")),) * 4)
            assert np.array_equal(mask, expected), key


@each([entry for entry in ENTRIES if entry["lstm"]])
@pytest.mark.parametrize("granularity", ["rows", "units"])
def test_an_export_of_a_file_verifies_against_it(granularity: str, entry: Entry, foreign: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(foreign / entry["name"])
    folder = run(checkpoint, Recipe(0.25, granularity=granularity)).save(tmp_path / "out")
    assert verify(folder, checkpoint)
    assert {lstm["name"] for lstm in json.loads((folder / "manifest.json").read_text())["lstms"]} == {
        lstm.name for lstm in checkpoint.lstms
    }


@each([entry for entry in ENTRIES if entry["name"] in CONSUMERS])
def test_readers_are_offered_where_the_file_proves_them(entry: Entry, foreign: Path) -> None:
    checkpoint = open_checkpoint(foreign / entry["name"])
    assert {name: facts.consumers for name, facts in checkpoint.learned.items()} == CONSUMERS[entry["name"]]
    assert all(consumer in checkpoint.tensors for facts in checkpoint.learned.values() for consumer in facts.consumers)
