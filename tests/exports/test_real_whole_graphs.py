"""Real ONNX files, their units pruned by half, exported as their whole graphs: equal to the masked model, step by step."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from pruner import Recipe, open_checkpoint, run
from pruner.exports.manifest import Manifest
from pruner.exports.verify import verify
from pruner.files.checkpoint import Checkpoint
from tests.helpers.real_files import FOREIGN

NOISY = FOREIGN / "dtln_model_1.onnx"
DECLINED = FOREIGN / "onnx_to_tensorflow__lstm.onnx"


def masked_graph(path: Path, checkpoint: Checkpoint, dropped: dict[str, np.ndarray]) -> bytes:
    """The source's own graph with zeros in its initializers, put there by hand."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        lstm, _, kind = tensor.name.rpartition("_")
        if lstm in dropped:
            array = numpy_helper.to_array(tensor).copy()
            rows = np.concatenate([dropped[lstm]] * (8 if kind == "B" else 4))
            array[:, rows] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model.SerializeToString()


@pytest.mark.skipif(not NOISY.exists(), reason="the real files do not lie beside the project")
def test_a_noise_suppressor_gives_what_its_masked_graph_gives(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(NOISY)
    result = run(checkpoint, Recipe(0.5, "units", consumers=("dense_2.weight",)))
    folder = result.save(tmp_path / "export")
    kept = {layout.lstm.name: layout.kept_units[0, 0] for layout in result.forms["compact"].layouts}
    dropped = {name: np.isin(np.arange(128), units, invert=True) for name, units in kept.items()}
    assert all(mask.sum() == 64 for mask in dropped.values())
    masked = onnxruntime.InferenceSession(masked_graph(NOISY, checkpoint, dropped))
    small = onnxruntime.InferenceSession(folder / "pruned.onnx")
    inputs = np.random.default_rng(0).standard_normal((50, 1, 1, 257)).astype(np.float32)
    state = {session: np.zeros((1, 2, 128, 2), np.float32) for session in (masked, small)}
    largest = gap = 0.0
    for step in inputs:
        found = []
        for session in (masked, small):
            output, state[session] = session.run(None, {"input_2": step, "input_3": state[session]})
            found.append(output)
        largest, gap = max(largest, float(np.abs(found[0]).max())), max(gap, float(np.abs(found[0] - found[1]).max()))
    assert gap <= 1e-5 < 0.1 < largest
    assert np.abs(state[masked] - state[small]).max() <= 1e-5
    assert verify(folder, checkpoint)
    again = {lstm.name: (lstm.input_size, lstm.hidden_size) for lstm in open_checkpoint(folder / "pruned.onnx").lstms}
    assert again == {"lstm_4": (257, 64), "lstm_5": (64, 64)}


@pytest.mark.skipif(not DECLINED.exists(), reason="the real files do not lie beside the project")
def test_what_onnx_runtime_does_not_run_is_told(tmp_path: Path) -> None:
    facts = Manifest.read(run(open_checkpoint(DECLINED), Recipe(0.5, "units")).save(tmp_path / "export")).onnx
    assert facts is not None and "expected a model that ONNX Runtime runs, found one it refuses" in facts["declined"]
