"""What came as ONNX goes out as its whole graph, with its LSTMs pruned: it gives what the graph of masked weights gives."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from pruner import Checkpoint, PrunerError, Recipe, open_checkpoint, run
from pruner.compact.masked_and_compact import NO_COMPENSATION, Compensation, Pruned, pruned_by
from pruner.exports.manifest import Manifest
from pruner.exports.onnx import rewriting
from pruner.exports.onnx.facts import FLOAT, INT8
from pruner.exports.onnx.whole import graphs_of
from pruner.exports.verify import verify
from pruner.files.runtime import isolation
from pruner.lstm.kept import unit_masks
from pruner.pipeline import choose_masks
from tests.helpers.command_line import command, printed
from tests.helpers.exports import edit_manifest
from tests.helpers.onnx_models import run as run_graph
from tests.helpers.whole_graphs import HIDDEN, WHOLE, Whole, with_tensors

NARROW = {
    "a linear layer reads it",
    "weights through nodes",
    "both directions, through a fixed shape",
    "the last state is read",
    "two in a chain",
    "states taken and given",
    "initializers among the inputs",
}


def opened(whole: Whole) -> Checkpoint:
    return open_checkpoint(whole.bytes_of(whole.modules()), "model.onnx")


def recipe_for(checkpoint: Checkpoint, **settings: object) -> Recipe:
    known = [name for each in checkpoint.learned.values() for name in each.consumers]
    return Recipe(0.5, **{"granularity": "units", "consumers": tuple(known), **settings})


def pruned_of(checkpoint: Checkpoint, filled: bool = False, **settings: object) -> Pruned:
    """Pruned, and `filled`: with random numbers that tell of removed units by the others."""
    recipe = recipe_for(checkpoint, **settings)
    masks = choose_masks(checkpoint, recipe)
    compensation = NO_COMPENSATION
    if filled:
        told = {
            lstm.name: [
                (torch.randn(int((~own).sum()), int(own.sum())), torch.randn(int((~own).sum())))
                for own in list(unit_masks(lstm, masks).values())[-lstm.directions :]
            ]
            for lstm in checkpoint.lstms
        }
        compensation = Compensation({}, told, {})
    return pruned_by(checkpoint, recipe, masks, compensation)


def written(pruned: Pruned, form: str = "compact") -> onnx.ModelProto:
    checkpoint = pruned.checkpoint
    made = graphs_of(checkpoint, pruned.forms[form].layouts, pruned.forms[form].tensors(checkpoint), {"recipe": "{}"})
    onnx.checker.check_model(made.pruned, full_check=True)
    return made.pruned


def fed(whole: Whole) -> dict[str, Tensor]:
    torch.manual_seed(1)
    given = {
        name: torch.randn([size if isinstance(size, int) else {"time": 7, "batch": 2}[size] for size in shape])
        for name, shape in whole.inputs.items()
    }
    return {name: value if name == "x" else torch.zeros_like(value) for name, value in given.items()}


@pytest.mark.parametrize("name", WHOLE)
def test_it_gives_what_the_graph_of_masked_weights_gives(name: str) -> None:
    whole = WHOLE[name]
    pruned = pruned_of(opened(whole))
    masked = whole.bytes_of(with_tensors(whole.modules(), pruned.tensors()))
    expected = run_graph(masked, fed(whole), list(whole.outputs))
    for form in ("compact", "masked"):
        found = run_graph(written(pruned, form).SerializeToString(), fed(whole), list(whole.outputs))
        for ours, theirs in zip(found, expected, strict=True):
            assert float((ours - theirs).abs().max()) <= 1e-6 < float(theirs.abs().max())


@pytest.mark.parametrize("name", WHOLE)
def test_shapes_that_the_file_says_of_all_values_are_no_obstacle(name: str) -> None:
    """As PyTorch's exporter of today says them, of initializers too."""
    whole = WHOLE[name]
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(whole.bytes_of(whole.modules())))
    model.graph.value_info.extend(
        helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in model.graph.initializer
    )
    after = written(pruned_of(open_checkpoint(model.SerializeToString(), "model.onnx")))
    run_graph(after.SerializeToString(), fed(whole), list(whole.outputs))


@pytest.mark.parametrize("name", WHOLE)
def test_everything_else_stays_as_it_was(name: str) -> None:
    whole = WHOLE[name]
    before, after = onnx.load_from_string(whole.bytes_of(whole.modules())), written(pruned_of(opened(whole)))
    assert (after.opset_import, after.ir_version, after.producer_name) == (
        before.opset_import,
        before.ir_version,
        "author",
    )
    assert {each.key: each.value for each in after.metadata_props} == {"said": "by the author", "recipe": "{}"}
    assert after.graph.output == before.graph.output
    constants = {each.name for each in after.graph.initializer}
    given = [[each for each in graph.input if each.name in whole.inputs] for graph in (before.graph, after.graph)]
    assert given[0] == given[1] and len(after.graph.input) == len(given[1]) + (
        len(constants) if whole.ir_version < 4 else 0
    )
    gone = {"Transpose", "Unsqueeze", "Constant"} if whole.through_nodes else set[str]()
    names = [each.name for each in after.graph.node]
    assert [each.name for each in before.graph.node if each.op_type not in gone] == [
        each for each in names if each in {kept.name for kept in before.graph.node}
    ]
    sizes = [each.i for one in after.graph.node for each in one.attribute if each.name == "hidden_size"]
    assert set(sizes) == {HIDDEN // 2}
    widened = any(each.op_type == "Pad" for each in after.graph.node)
    assert widened == (name not in NARROW or name == "states taken and given")
    if name in NARROW:
        weight = next(each for each in after.graph.initializer if each.name == "linear.weight")
        assert weight.dims[0] == (HIDDEN if "both" in name else HIDDEN // 2)


@pytest.mark.parametrize("name", ["its output goes out", "a linear layer reads it", "the last state is read"])
@pytest.mark.parametrize("form", ["compact", "masked"])
def test_removed_units_come_back_as_what_the_others_tell(name: str, form: str) -> None:
    whole = WHOLE[name]
    torch.manual_seed(2)
    pruned = pruned_of(opened(whole), filled=True, consumers=())
    (lstm,) = pruned.checkpoint.lstms
    layout = pruned.forms["compact"].layouts[0]
    module = layout.module(pruned.forms["compact"].tensors(pruned.checkpoint))
    output, (h_n, _) = module(fed(whole)["x"].transpose(0, 1))
    steps = output.unflatten(-1, (lstm.directions, HIDDEN)).permute(1, 2, 0, 3)
    wanted, expected = ("first_h", h_n) if name == "the last state is read" else ("first_Y", steps)
    (found,) = run_graph(written(pruned, form).SerializeToString(), fed(whole), [wanted])
    assert torch.allclose(found, expected, atol=1e-6)


def test_directions_of_different_sizes_become_two_nodes() -> None:
    whole = WHOLE["its output goes out"]
    pruned = pruned_of(opened(whole), allocation="global")
    kept = [len(units) for units in pruned.forms["compact"].layouts[0].kept_units.values()]
    assert len(set(kept)) == 2
    masked = whole.bytes_of(with_tensors(whole.modules(), pruned.tensors()))
    made = written(pruned)
    assert [each.op_type for each in made.graph.node].count("LSTM") == 2
    (expected,), (found,) = (run_graph(data, fed(whole), ["y"]) for data in (masked, made.SerializeToString()))
    assert float((expected - found).abs().max()) <= 1e-6


def test_what_was_written_opens_again_and_is_pruned_again() -> None:
    whole = WHOLE["states taken and given"]
    again = open_checkpoint(written(pruned_of(opened(whole))).SerializeToString(), "pruned.onnx")
    assert [(lstm.name, lstm.hidden_size) for lstm in again.lstms] == [("first", HIDDEN // 2)]
    assert again.learned["first"].consumers == ("linear.weight",)
    smaller = written(pruned_of(again))
    assert run_graph(smaller.SerializeToString(), fed(whole), ["y"])[0].isfinite().all()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    whole = WHOLE["states taken and given"]
    (tmp_path / "model.onnx").write_bytes(whole.bytes_of(whole.modules()))
    return tmp_path / "model.onnx"


def test_an_export_has_it_unasked_and_verify_runs_it_again(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = source.parent / "export"
    told = printed(capsys, f"prune {source} --granularity units --consumer linear.weight --output {folder}")
    assert "pruned.onnx: " in told and "outputs of the whole graph differ" in told
    assert (folder / FLOAT).exists() and not (folder / INT8).exists()
    assert "the whole model" in (folder / "README.md").read_text()
    assert "its outputs beside those of the masked graph: " in printed(capsys, f"verify {folder} --source {source}")
    assert "is the manifest's own figure: --source measures it" in printed(capsys, f"verify {folder}")
    edit_manifest(folder, ("onnx", "files", FLOAT, "max_abs_output"), 3.0)
    with pytest.raises(PrunerError, match="is not the export it claims to be"):
        verify(folder)


def test_int8_is_written_where_it_is_asked_for(source: Path) -> None:
    checkpoint = open_checkpoint(source)
    facts = Manifest.read(run(checkpoint, recipe_for(checkpoint)).save(source.parent / "export", onnx=True)).onnx
    assert facts is not None and facts["files"].keys() == {FLOAT, INT8}
    assert 0 < facts["files"][INT8]["graph"]["max_abs_difference"] < 0.1
    told = verify(source.parent / "export")[-1]
    assert told.startswith(INT8) and f"its outputs beside those of {FLOAT}: largest difference " in told
    edit_manifest(source.parent / "export", ("onnx", "files", INT8, "graph", "max_abs_difference"), 1.0)
    with pytest.raises(PrunerError, match="is not the export it claims to be"):
        verify(source.parent / "export")


def test_a_graph_that_gives_something_else_is_not_written(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "output_columns", lambda units, size: torch.arange(sum(map(len, units))))
    checkpoint = open_checkpoint(source)
    folder = run(checkpoint, recipe_for(checkpoint)).save(source.parent / "export")
    facts = Manifest.read(folder).onnx
    assert facts is not None and facts["declined"].startswith("expected the pruned graph to give in ONNX Runtime what")
    assert not (folder / FLOAT).exists() and verify(folder)


def custom(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("their.domain", 1))
    model.graph.node.append(helper.make_node("Theirs", ["x"], ["theirs"], domain="their.domain"))


def endless(model: onnx.ModelProto) -> None:
    def info(name: str, kind: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [])

    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["sum", "sum"], ["more"])],
        "body",
        [info("turn", TensorProto.INT64), info("go", TensorProto.BOOL), info("sum", TensorProto.FLOAT)],
        [info("on", TensorProto.BOOL), info("more", TensorProto.FLOAT)],
    )
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    model.graph.node.append(helper.make_node("Constant", [], ["yes"], value=yes))
    model.graph.node.append(helper.make_node("ReduceSum", ["x"], ["first_sum"], keepdims=0))
    model.graph.node.append(helper.make_node("Loop", ["", "yes", "first_sum"], ["looped"], body=body))
    model.graph.output.insert(0, info("looped", TensorProto.FLOAT))


def huge(model: onnx.ModelProto) -> None:
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [2**20, 2**20])
    model.graph.node.append(helper.make_node("Constant", [], ["shape"], value=shape))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["room"]))
    model.graph.node.append(helper.make_node("ReduceSum", ["room"], ["sum"], keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, []))


def outside(model: onnx.ModelProto) -> None:
    tensor = TensorProto(name="away", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../etc/passwd")
    model.graph.node.append(helper.make_node("Constant", [], ["away"], value=tensor))


def misshapen(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 5


HOSTILE = {
    custom: "expected operators that ONNX Runtime has, found 'Theirs' of the domain 'their.domain'",
    endless: "expected an ONNX model that runs within limits of memory and time",
    huge: "expected ",
    outside: "expected an ONNX model with its weights inside",
    misshapen: "expected a model that the checker of onnx passes",
}


@pytest.mark.parametrize("alter", HOSTILE, ids=lambda each: each.__name__)
def test_graphs_of_strangers_are_run_within_limits(
    alter: Callable[[onnx.ModelProto], None],
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(isolation, "_SECONDS", 4)
    model = onnx.load(source)
    alter(model)
    source.write_bytes(model.SerializeToString())
    assert command(f"prune {source} --granularity units --output {source.parent}/export") == 0
    told = capsys.readouterr()
    assert f"no ONNX files: {HOSTILE[alter]}" in told.out and "Traceback" not in told.err
    assert (source.parent / "export" / "pruned.pt").exists() and not (source.parent / "export" / FLOAT).exists()


EDITS = {
    "of no LSTM": ((), {}),
    "no texts": (("first", "input"), 3),
    "no text in Unicode": (("first", "output"), "\ud800"),
    "another value": (("first", "input"), "first_h"),
}


@pytest.mark.parametrize("case", EDITS)
def test_what_a_stranger_says_of_a_graph_is_checked(
    case: str, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, folder = open_checkpoint(source), source.parent / "export"
    run(checkpoint, recipe_for(checkpoint)).save(folder)
    path, value = EDITS[case]
    edit_manifest(folder, ("onnx", "values", *path), value)
    assert command(f"verify {folder}") == 2
    error = capsys.readouterr().err
    assert "is not the export it claims to be" in error and error.count("\n") == 1
