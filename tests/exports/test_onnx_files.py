"""The ONNX files of an export: written whole or not at all, told of in the manifest, refused where they were altered."""

import io
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from pruner import Checkpoint, PrunerError, Recipe, run
from pruner.compact.masked_and_compact import FORMS
from pruner.examples import named as example_named
from pruner.examples import quality_of
from pruner.exports.export import file_facts, pack
from pruner.exports.manifest import Manifest
from pruner.exports.onnx import parts
from pruner.exports.onnx.facts import FLOAT, INT8, ONNX_FILES
from pruner.exports.onnx.facts import told as told_of_onnx
from pruner.exports.verify import verify
from pruner.files.consumers import Consumer, load_consumers
from pruner.files.runtime import isolation
from tests.helpers.command_line import command, printed
from tests.helpers.exports import edit_manifest, read_manifest
from tests.helpers.files import saved_in
from tests.helpers.models import named, random_lstm
from tests.helpers.onnx_exports import run as run_session
from tests.helpers.onnx_exports import session_of, steps

RECIPE = Recipe(0.5, "units", consumers=("linear.weight",))


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    torch.manual_seed(0)
    return saved_in(tmp_path, {**named(random_lstm(hidden_size=8), "lstm."), **named(nn.Linear(8, 2), "linear.")})


@pytest.fixture
def folder(source: Checkpoint, tmp_path: Path) -> Path:
    return run(source, RECIPE).save(tmp_path / "export", onnx=True)


def test_an_export_has_no_onnx_files_unless_they_are_asked_for(source: Checkpoint, tmp_path: Path) -> None:
    folder = run(source, RECIPE).save(tmp_path / "export")
    assert not {file.name for file in folder.iterdir()} & set(ONNX_FILES) and "onnx" not in read_manifest(folder)


def test_both_files_lie_beside_the_checkpoint(folder: Path, source: Checkpoint) -> None:
    names = {
        "pruned.pt",
        "masks.safetensors",
        "manifest.json",
        "load_pruned.py",
        "README.md",
        "example.py",
        *ONNX_FILES,
    }
    assert {file.name for file in folder.iterdir()} == names
    assert not list(folder.parent.glob(".export-*"))
    for name in ONNX_FILES:
        metadata = {each.key: each.value for each in onnx.load(folder / name).metadata_props}
        assert metadata.keys() == {"recipe", "source_sha256", "pruner_version"}
        assert metadata["source_sha256"] == source.sha256 and Recipe.from_json(metadata["recipe"]) == RECIPE
        assert f"{(folder / name).stat().st_mode:o}".endswith("644")


def test_the_manifest_says_what_they_hold(folder: Path) -> None:
    manifest = read_manifest(folder)
    facts = manifest["onnx"]
    assert facts["consumers"] == {"lstm": ["linear.weight"]} and facts["batch_first"] is True and facts["notes"] == []
    assert not set(manifest["files"]) & set(ONNX_FILES)
    for name, file in facts["files"].items():
        assert {key: file[key] for key in ("sha256", "bytes")} == file_facts(folder / name)
        assert "quality" not in file and file["consumers"].keys() == {"max_abs_difference", "max_abs_output"}
    assert 0 < facts["files"][FLOAT]["max_abs_difference"] < 1e-6 < facts["files"][INT8]["max_abs_difference"] < 0.05


def test_verify_runs_them_again(folder: Path, source: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "export.zip").write_bytes(pack(folder))
    for told in (verify(folder), verify(folder, source), verify(tmp_path / "export.zip")):
        assert "7 files are complete and unaltered" in told
        assert sum("runs in ONNX Runtime and is as close" in sentence for sentence in told) == 2


def test_weights_are_of_seven_bits_and_by_rows(folder: Path) -> None:
    graph = onnx.load(folder / INT8).graph
    kinds = [node.op_type for node in graph.node]
    assert "DynamicQuantizeLSTM" in kinds and "MatMulInteger" in kinds and not {"LSTM", "MatMul"} & set(kinds)
    weights = [numpy_helper.to_array(each) for each in graph.initializer if each.data_type == TensorProto.INT8]
    assert sorted(weight.shape for weight in weights if weight.size > 16) == [(1, 3, 16), (1, 4, 16)]
    assert max(abs(weight.astype(int)).max() for weight in weights) in (63, 64)
    scales = [each for each in graph.initializer if each.name.endswith("_scale")]
    assert {tuple(each.dims) for each in scales} == {(1, 16), (2,)}


def test_int8_answers_nearly_alike(folder: Path) -> None:
    inputs = steps(5, 20, 3)
    exact, rounded = (run_session(session_of(onnx.load(folder / name)), {"input": inputs}) for name in ONNX_FILES)
    assert exact.keys() == rounded.keys() == {"output", "h_n", "c_n", "linear"}
    for name, wanted in exact.items():
        torch.testing.assert_close(rounded[name], wanted, rtol=0, atol=0.05)


def test_they_are_made_without_a_word_and_without_leftovers(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    run(source, RECIPE).save(tmp_path / "export", onnx=True)
    assert capfd.readouterr() == ("", "") and list(temporary.iterdir()) == []
    assert logging.getLogger().handlers == []


def test_importing_the_package_imports_neither_onnx_nor_its_runtime() -> None:
    program = (
        "import sys, pruner, pruner.cli.main, pruner.exports.verify; print({'onnx', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_graph_that_computes_something_else_is_not_written(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "ONNX_GATES", ("i", "f", "g", "o"))
    with pytest.raises(PrunerError, match=r"expected pruned.onnx to compute in ONNX Runtime.*nothing was exported"):
        run(source, RECIPE).save(tmp_path / "export", onnx=True)
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt"}


def test_a_graph_that_reads_other_units_is_not_written(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reversed_columns(tensors: Mapping[str, Tensor], names: Iterable[str]) -> list[Consumer]:
        return [replace(each, weight=each.weight.flip(1)) for each in load_consumers(tensors, names)]

    monkeypatch.setattr(parts, "load_consumers", reversed_columns)
    with pytest.raises(PrunerError, match="nothing was exported"):
        run(source, RECIPE).save(tmp_path / "export", onnx=True)


def test_a_projection_leaves_the_rest_of_the_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved_in(tmp_path, named(random_lstm(proj_size=2), "encoder."))
    told = printed(capsys, f"prune {tmp_path}/model.pt --onnx --output {tmp_path}/export")
    reason = "expected LSTMs without projection for an ONNX file, found encoder with proj_size 2"
    assert f"no ONNX files: {reason}" in told
    facts = read_manifest(tmp_path / "export")["onnx"]
    assert facts.keys() == {"declined"} and facts["declined"].startswith(reason)
    assert "5 files are complete and unaltered" in printed(capsys, f"verify {tmp_path}/export")


def test_rows_alone_are_written_at_full_size_which_is_told(source: Checkpoint, tmp_path: Path) -> None:
    facts = Manifest.read(run(source, Recipe()).save(tmp_path / "export", "compact", onnx=True)).onnx
    assert facts is not None and "lstm keeps single rows" in told_of_onnx(facts)[2]
    arrays = {each.name: tuple(each.dims) for each in onnx.load(tmp_path / "export" / FLOAT).graph.initializer}
    assert arrays["lstm.weight_hh_l0.iofc"] == (1, 32, 8)
    assert verify(tmp_path / "export", source)


def test_a_convolution_that_reads_the_output_is_left_out_which_is_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        **named(random_lstm(), "lstm."),
        **named(nn.Linear(4, 2), "linear."),
        **named(nn.Conv1d(4, 2, 3), "conv."),
    }
    result = run(saved_in(tmp_path, tensors), Recipe(0.5, "units", consumers=("linear.weight", "conv.weight")))
    for form in FORMS:
        facts = Manifest.read(result.save(tmp_path / form, form, onnx=True)).onnx
        assert facts is not None and facts["consumers"] == {"lstm": ["linear.weight"]}
        assert "conv.weight is not in the ONNX files" in told_of_onnx(facts)[2]
        assert verify(tmp_path / form)


def test_an_example_is_rated_through_onnx_runtime(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = example_named("embedded-reber")
    result = run(example.open(), Recipe(0.0, "units"), quality=example.quality)
    facts = read_manifest(result.save(tmp_path / "export", onnx=True))["onnx"]["files"]
    for file in facts.values():
        assert file["quality"] == {"name": "strings wholly right", "value": 1.0, "higher_is_better": True}
    half = run(example.open(), Recipe(0.5, "units"), quality=example.quality)
    facts = read_manifest(half.save(tmp_path / "half", onnx=True))["onnx"]["files"]
    assert facts[FLOAT]["quality"]["value"] == half.quality["compact"] < 0.5


def test_the_lines_for_onnx_runtime_run_as_they_stand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (folder / "README.md").read_text().partition("### In ONNX Runtime")[2]
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    assert np.array_equal(names["answers"], names["outputs"][-1])
    assert verify(folder)  # they wrote nothing there


def test_the_lines_give_each_of_several_lstms_its_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several = {**named(random_lstm(), "a."), **random_lstm().state_dict(), **named(nn.LSTMCell(5, 4), "cell.")}
    folder = run(saved_in(tmp_path, several), Recipe(0.5, "units")).save(tmp_path / "export", onnx=True)
    text = (folder / "README.md").read_text().partition("### In ONNX Runtime")[2]
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    assert names["inputs"].keys() == {"input", "a.input", "cell.input"} and len(names["outputs"]) == 8


def test_the_command_line_tells_of_each_file(
    source: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = printed(
        capsys,
        f"prune {tmp_path}/model.pt --granularity units --consumer linear.weight --onnx --output {tmp_path}/export",
    )
    lines = [line for line in told.splitlines() if line.startswith(ONNX_FILES)]
    assert [line.partition(":")[0] for line in lines] == [*ONNX_FILES]
    assert all("bytes; in ONNX Runtime it differs from the pruned model by at most" in line for line in lines)
    told = printed(capsys, f"verify {tmp_path}/export --source {tmp_path}/model.pt")
    assert sum(line.startswith("ok: pruned.") and "ONNX Runtime" in line for line in told.splitlines()) == 2


# What is said of the files, edited.
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((), []),
        ((), {}),
        ((), {"declined": 1}),
        ((), {"declined": "no"}),
        (("files",), {}),
        (("files", FLOAT), None),
        (("files", FLOAT, "sha256"), "0" * 64),
        (("files", FLOAT, "bytes"), 1),
        (("files", FLOAT, "bytes"), True),
        (("files", FLOAT, "more"), 1.0),
        (("files", FLOAT, "max_abs_difference"), 0.5),
        (("files", FLOAT, "max_abs_difference"), float("nan")),
        (("files", FLOAT, "max_abs_difference"), -1.0),
        (("files", FLOAT, "max_abs_output"), 100.0),
        (("files", INT8, "max_abs_difference"), 0.0),
        (("files", INT8, "max_abs_difference"), 0.9),
        (("files", INT8, "consumers", "max_abs_output"), 9.0),
        (("files", INT8, "consumers"), {}),
        (("files", INT8, "quality"), {"name": "bits"}),
        (("consumers",), {}),
        (("consumers",), {"lstm": []}),
        (("consumers",), {"lstm": ["linear.bias"]}),
        (("consumers",), {"lstm": "linear.weight"}),
        (("consumers",), {"lstm": ["lstm.weight_ih_l0"]}),
        (("batch_first",), False),
        (("batch_first",), "yes"),
        (("notes",), [1]),
        (("versions",), {"onnx": 1}),
    ],
    ids=str,
)
def test_other_claims_are_refused(folder: Path, path: tuple[Any, ...], value: Any) -> None:
    edit_manifest(folder, ("onnx", *path), value)
    with pytest.raises(PrunerError, match="is not the export it claims to be"):
        verify(folder)


def test_files_that_the_manifest_does_not_know_are_refused(folder: Path) -> None:
    edit_manifest(folder, ("onnx",), None)
    with pytest.raises(PrunerError, match=r"expected no ONNX files, as the manifest says, found pruned\.int8\.onnx"):
        verify(folder)


@pytest.mark.parametrize("name", ONNX_FILES)
def test_a_file_that_is_missing_or_altered_is_refused(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert command(f"verify {folder}") == 2
    assert capsys.readouterr().err.count("\n") == 1
    (folder / name).unlink()
    assert command(f"verify {folder}") == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("error: expected pruned.int8.onnx, pruned.onnx, as the manifest says")
        and error.count("\n") == 1
    )


# What is in the files, altered by somebody who also makes the manifest agree.
def scaled(model: onnx.ModelProto) -> None:
    for each in model.graph.initializer:
        if each.data_type == TensorProto.FLOAT and each.name.startswith("lstm.weight"):
            each.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(each) * 1.5, each.name))


def with_a_loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["endless"], body=body))


def with_another_operator(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("ConstantOfShape", ["integers_0"], ["large"]))


def with_a_file_beside_it(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def with_a_function(model: onnx.ModelProto) -> None:
    model.functions.append(helper.make_function("own", "LSTM", [], [], [], [helper.make_opsetid("", 17)]))


def with_a_huge_size(model: onnx.ModelProto) -> None:
    tensor = next(each for each in model.graph.initializer if each.name == "integers_0")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 2**40, tensor.name))


def with_another_recipe(model: onnx.ModelProto) -> None:
    helper.set_model_props(model, {"recipe": "{", "source_sha256": model.metadata_props[1].value})


def without_an_output(model: onnx.ModelProto) -> None:
    del model.graph.output[0]


def without_a_node(model: onnx.ModelProto) -> None:
    del model.graph.node[5]


@pytest.mark.parametrize("name", ONNX_FILES)
@pytest.mark.parametrize(
    "alter",
    [
        scaled,
        with_a_loop,
        with_another_operator,
        with_a_file_beside_it,
        with_a_function,
        with_a_huge_size,
        with_another_recipe,
        without_an_output,
        without_a_node,
    ],
    ids=lambda each: each.__name__,
)
def test_other_graphs_are_refused(folder: Path, name: str, alter: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(folder / name)
    alter(model)
    rewrite(folder, name, model.SerializeToString())
    with pytest.raises(PrunerError, match="is not the export it claims to be"):
        verify(folder)


def growing(model: onnx.ModelProto) -> None:
    """Of nothing but the operators that are needed, and small itself."""
    for step in range(40):
        inputs = ["h_0" if not step else f"grown {step}"] * 2
        model.graph.node.append(helper.make_node("Concat", inputs, [f"grown {step + 1}"], axis=0))
    model.graph.output.append(helper.make_tensor_value_info("grown 40", TensorProto.FLOAT, None))


@pytest.mark.parametrize("alter", [scaled, with_a_loop, without_a_node, growing], ids=lambda each: each.__name__)
def test_the_graphs_of_strangers_are_run_in_a_process_of_its_own(
    folder: Path, alter: Callable[[onnx.ModelProto], None], capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(folder / FLOAT)
    alter(model)
    rewrite(folder, FLOAT, model.SerializeToString())
    assert command(f"verify {folder}") == 2
    error = capsys.readouterr().err
    assert "is not the export it claims to be" in error and error.count("\n") == 1


def test_that_process_needs_no_torch() -> None:
    runner = Path(isolation.__file__).with_name("isolated_runner.py")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", runner, "9", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    assert b"onnxruntime" in done.stderr and b"torch" not in done.stderr


@pytest.mark.parametrize("data", [b"", b"garbage", bytes(2**25)], ids=["empty", "garbage", "large"])
def test_what_is_no_onnx_is_refused(folder: Path, data: bytes) -> None:
    rewrite(folder, FLOAT, data)
    with pytest.raises(PrunerError, match="is not the export it claims to be"):
        verify(folder)


def rewrite(folder: Path, name: str, data: bytes) -> None:
    """Put another file in its place, and its hash into the manifest."""
    (folder / name).write_bytes(data)
    for key, value in file_facts(folder / name).items():
        edit_manifest(folder, ("onnx", "files", name, key), value)


def test_a_zip_holds_them(folder: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(pack(folder))) as archive:
        assert set(ONNX_FILES) <= set(archive.namelist())


def test_shrink_writes_them_too(source: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "inputs.npy", steps(20, 60, 3).numpy())
    options = f"--consumer linear.weight --calibration {tmp_path}/inputs.npy --keep 0.5 --steps 1"
    told = printed(capsys, f"shrink {tmp_path}/model.pt {options} --onnx --output {tmp_path}/small")
    lines = [line for line in told.splitlines() if line.startswith(ONNX_FILES)]
    assert [line.partition(":")[0] for line in lines] == [*ONNX_FILES]
    assert any("runs in ONNX Runtime" in sentence for sentence in verify(tmp_path / "small"))


@pytest.mark.parametrize("isolated", [False, True])
def test_the_quality_of_an_example_is_measured_again(tmp_path: Path, isolated: bool) -> None:
    example = example_named("embedded-reber")
    folder = run(example.open(), replace(RECIPE, sparsity=0.1), quality=example.quality).save(
        tmp_path / "new", onnx=True
    )
    rated = [facts["quality"]["value"] for facts in read_manifest(folder)["onnx"]["files"].values()]
    told = [line for line in verify(folder, isolated=isolated, judge=quality_of) if "in ONNX Runtime" in line]
    assert [f"strings wholly right {value:.4f}" in line for line, value in zip(told, rated, strict=True)] == [
        True,
        True,
    ]
    assert not any("strings wholly right" in line for line in verify(folder, isolated=isolated))

    edit_manifest(folder, ("onnx", "files", INT8, "quality", "value"), rated[1] + 0.1)
    verify(folder)
    with pytest.raises(PrunerError, match=r"expected pruned\.int8\.onnx as good as the manifest says"):
        verify(folder, isolated=isolated, judge=quality_of)
