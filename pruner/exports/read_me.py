"""The words and lines that travel with an export: README.md, example.py, and how to load it, from its manifest alone."""

import json
from dataclasses import dataclass

from pruner.errors import label
from pruner.exports.keras.facts import KERAS_FILES, lines_for_keras
from pruner.exports.lines import (
    BATCH,
    STEPS,
    Facts,
    batch_first,
    is_safetensors,
    load_lines,
    module_of,
    quality_lines,
    run_lines,
    stand_in,
)
from pruner.exports.onnx.facts import FLOAT, INT8, is_whole
from pruner.exports.verdict import Verdict
from pruner.lstm.measure import SEQUENCE_LENGTH

_FIGURES = {
    "parameters": "parameters",
    "zeros": "zeros among those of the LSTMs",
    "bytes": "bytes of the file",
    "macs_per_step": "multiply-accumulates of the LSTMs per time step",
}


@dataclass(frozen=True)
class Way:
    """One way to load an export: what it is for, and its lines, run in the folder."""

    title: str
    code: str


def texts(manifest: Facts) -> dict[str, str]:
    """{file: what it says} of the files for people."""
    return {"README.md": readme(manifest), "example.py": example(manifest)}


def ways(manifest: Facts) -> list[Way]:
    """Every way to load an export that applies to it, the plainest first."""
    found = [_own_class(manifest)] if _loads_plainly(manifest) else []
    if all(entry["name"] for entry in manifest["lstms"]):
        found.append(_replaced())
    found.append(_alone(manifest))
    found += [Way(f"In Keras, as {name}", lines_for_keras(name)) for name in KERAS_FILES if name in manifest["files"]]
    return [*found, _in_onnx_runtime(manifest)] if (manifest.get("onnx") or {}).get("files") else found


def readme(manifest: Facts) -> str:
    """The README.md of an export."""
    source, totals = manifest["source"], manifest["totals"]
    rows = [f"| {_FIGURES[name]} | {totals[name]['before']:,} | {totals[name]['after']:,} |" for name in _FIGURES]
    loading = [f"### {way.title}\n\n```python\n{way.code}\n```" for way in ways(manifest)]
    parts = [
        f"# {_quoted(source['name'])}, pruned",
        f"{_what_it_is(manifest)} It was made of {_quoted(source['name'])} (sha256 `{source['sha256']}`) by LSTM Saliency "
        "Pruner; `manifest.json` says how.",
        "\n".join(["| | before | after |", "|---|---|---|", *rows]),
        *_sizes(manifest),
        *_first(manifest),
        *_quality(manifest),
        "## Load it",
        "In this folder, with torch"
        + (" and safetensors" if is_safetensors(manifest) else "")
        + ' alone; elsewhere, copy `load_pruned.py` beside your code and give the path of this folder in place of `"."`. '
        "`python example.py` runs it all.",
        *loading,
        "## Limits",
        "\n".join(f"- {sentence}" for sentence in _limits(manifest)),
    ]
    return "\n\n".join(parts) + "\n"


def example(manifest: Facts) -> str:
    """The example.py of an export: a program that needs nothing but the folder and torch."""
    model = stand_in(manifest)
    needed = "load_lstms, replace" if model else "load_lstms"
    lines = [
        '"""Loads what lies in this folder and runs it on random numbers: python example.py"""',
        "",
        "import sys",
        "from pathlib import Path",
        "",
        "import torch",
        *(["from torch import nn"] if model else []),
        "",
        "FOLDER = Path(__file__).resolve().parent",
        "sys.path.insert(0, str(FOLDER))  # where load_pruned.py lies",
        "",
        f"from load_pruned import {needed}",
        "",
        "# The LSTMs alone, each called like the one it came from.",
        load_lines(manifest, "FOLDER"),
        *(line for entry in manifest["lstms"] for line in ("", *run_lines(manifest, entry, module_of(entry)))),
        *model,
        *quality_lines(manifest),
    ]
    return "\n".join(lines) + "\n"


def _what_it_is(manifest: Facts) -> str:
    granularity = manifest["recipe"]["granularity"]
    model = "`pruned.safetensors`" if is_safetensors(manifest) else "`pruned.pt`"
    whole = "" if not is_whole(manifest.get("onnx") or {}) else " `pruned.onnx` is the whole model, pruned likewise."
    said = {
        ("masked", "rows"): f"{model} is a checkpoint of full size in which every gate lost rows: they are zeros.",
        (
            "masked",
            "units",
        ): f"{model} is a checkpoint of full size in which hidden units were removed: they are zeros.",
        ("compact", "rows"): f"{model} is a checkpoint whose LSTMs hold, and multiply, only the rows that were kept.",
        ("compact", "units"): f"{model} is a smaller checkpoint: its LSTMs hold only the hidden units that were kept.",
    }
    return said[manifest["form"], granularity] + whole


def _sizes(manifest: Facts) -> list[str]:
    """Hidden units of each LSTM where some were removed."""
    lines = []
    for entry in manifest["lstms"]:
        sizes = [layer["hidden_size"] for layer in entry["layers"]]
        if any(size["before"] != size["after"] for size in sizes):
            told = ", ".join(str(size["after"]) for size in sizes)
            lines.append(f"- {_title(entry)}: {told} of {entry['dense_hidden_size']} hidden units stay")
        if entry["consumers"]:
            lines.append(f"- {', '.join(map(_quoted, entry['consumers']))}: columns of the removed units went along")
    return ["\n".join(lines)] if lines else []


def _first(manifest: Facts) -> list[str]:
    """Which model numbered the units first, if the source was pruned already."""
    if not (first := manifest.get("first")):
        return []
    source = first["source"]
    return [
        "What it was made of was pruned already: `first` in `manifest.json` tells the units that stay by their numbers in "
        f"the first model, {_quoted(source['name'])} (sha256 `{source['sha256']}`)."
    ]


def _quality(manifest: Facts) -> list[str]:
    known = manifest.get("verdict")
    if not known:
        return []
    verdict = Verdict(known["measure"], known["before"], known["after"], known["loss"])
    return [f"**{verdict.word.capitalize()}.** {verdict.sentence}"]


def _limits(manifest: Facts) -> list[str]:
    """What whoever loads the export must know."""
    entries = manifest["lstms"]
    compact, units = manifest["form"] == "compact", manifest["recipe"]["granularity"] == "units"
    told = []
    if not compact:
        told.append("Zeros are stored and multiplied like other numbers: size and speed are as before.")
    told += _widths(manifest) if compact and units else []
    if is_whole(manifest.get("onnx") or {}) and manifest["onnx"]["states"]:
        told.append("`pruned.onnx` leaves out what a state that you pass in has for removed units: begin with zeros.")
    certificate = manifest["certificate"]
    if certificate["sequence_length"] < SEQUENCE_LENGTH:
        told.append(
            f"LSTMs as large as these are certified on a short sample: {certificate['batch_size']} random sequences of "
            f"{certificate['sequence_length']} steps in place of {SEQUENCE_LENGTH}, which read every weight."
        )
    if any(entry["stored_as"] != "LSTM" for entry in entries):
        told.append("Scripted modules take tensors, not packed sequences.")
    if any(batch_first(manifest, entry) is None for entry in entries):
        told.append(
            "The file does not say whether its LSTMs read batches first: the lines above take what you tell them."
        )
    told += [label(note, most=400) + ("" if note.endswith(".") else ".") for note in manifest.get("notes") or ()]
    return [*told, "`python -m pruner verify .` checks the folder again, if the pruner is at hand."]


def _widths(manifest: Facts) -> list[str]:
    """What is as wide as before and what is not, of LSTMs that lost units: states that are passed in, and outputs."""
    entries, learned = manifest["lstms"], manifest.get("learned") or {}
    trimmed = [entry for entry in entries if entry["consumers"]]
    handed = [
        entry for entry in entries if not entry["consumers"] and learned.get(entry["name"], {}).get("handed_states")
    ]
    others = [entry for entry in entries if not entry["consumers"] and entry not in handed]
    backs = "what the others tell of them" if _reconstructs(manifest) else "zeros"
    told = [
        (
            others,
            "A state that you pass to {} (`hx`) must be zero where units were removed; any other is refused, or, with "
            '`on_lost_state="ignore"` set on the module, cut down.',
        ),
        (handed, "A state that is handed to {} is cut down to the units that are left."),
        (
            trimmed,
            "Nothing but the trimmed tensors may read the output of {}, which is narrower than before, as a state is.",
        ),
        (
            others + handed,
            f"Removed units of {{}} come back as {backs}, so that the output is as wide as before and whatever reads it "
            "stays as it is.",
        ),
    ]
    names = [", ".join(map(_title, which)) if len(entries) > 1 else "the LSTM" for which, _ in told]
    return [sentence.format(name) for (which, sentence), name in zip(told, names, strict=True) if which]


def _loads_plainly(manifest: Facts) -> bool:
    """Whether one state dict holds all as the model's own class has it, perhaps at another size."""
    places = {tuple(keys[:-1]) for keys in _all_keys(manifest)}
    return len(places) == 1 and all(
        entry["stored_as"] == "LSTM"
        and (
            entry["stored_hidden_size"] == entry["dense_hidden_size"]
            or entry["consumers"]
            or entry["proj_size"]
            or not manifest["rest"]
        )
        for entry in manifest["lstms"]
    )


def _all_keys(manifest: Facts) -> list[list[str]]:
    own = [keys for entry in manifest["lstms"] for keys in entry["tensors"].values()]
    return own + [place["keys"] for place in manifest["rest"].values()]


def _own_class(manifest: Facts) -> Way:
    nesting = "".join(f"[{json.dumps(key)}]" for key in _all_keys(manifest)[0][:-1])
    if is_safetensors(manifest):
        needed, state = "from safetensors.torch import load_file", 'load_file("pruned.safetensors")'
    else:
        needed, state = "import torch", f'torch.load("pruned.pt", weights_only=True){nesting}'
    load = f"model.load_state_dict({state})  # your own class,"
    if manifest["form"] == "masked":
        return Way("Into your own class, built as before", f"{needed}\n\n{load} as before")
    sizes = sorted({entry["stored_hidden_size"] for entry in manifest["lstms"]})
    lines = [
        *sorted(["from load_pruned import resize", needed], key=lambda line: not line.startswith("import")),
        "",
        'print(resize("."))  # what your class is to be built with',
        f"{load} with hidden size {', '.join(map(str, sizes))}",
    ]
    return Way("Into your own class, built smaller", "\n".join(lines))


def _replaced() -> Way:
    lines = ["from load_pruned import replace", "", 'model = replace(model, ".")  # your own, built as before pruning']
    return Way("Into your own model, whatever was removed", "\n".join(lines))


def _alone(manifest: Facts) -> Way:
    entry = manifest["lstms"][0]
    lines = ["import torch", "from load_pruned import load_lstms", "", load_lines(manifest, '"."')]
    return Way("The LSTMs alone", "\n".join([*lines, *run_lines(manifest, entry, module_of(entry), show=False)]))


def _in_onnx_runtime(manifest: Facts) -> Way:
    """The whole graph, called like that of the source; else one call of all LSTMs in the file of int8 weights."""
    if is_whole(manifest["onnx"]):
        session = f"session = onnxruntime.InferenceSession({json.dumps(FLOAT)})  # takes and gives what the model did"
        shapes = "print([(given.name, given.shape) for given in session.get_inputs()])"
        return Way("The whole model, in ONNX Runtime", f"import onnxruntime\n\n{session}\n{shapes}")
    entry = manifest["lstms"][0]
    lines = ["import numpy", "import onnxruntime", "", f"session = onnxruntime.InferenceSession({json.dumps(INT8)})"]
    if len(manifest["lstms"]) == 1:
        numbers, axes = _numbers(manifest, entry)
        lines += [f"inputs = {numbers}  # ({axes})", 'outputs = session.run(None, {"input": inputs})']
    else:
        lines.append("inputs = {")
        for each in manifest["lstms"]:
            numbers, axes = _numbers(manifest, each)
            name = f"{each['name']}.input".removeprefix(".")
            lines.append(f"    {json.dumps(name)}: {numbers},  # ({axes})")
        lines += ["}", "outputs = session.run(None, inputs)"]
    consumers = manifest["onnx"]["consumers"].get(entry["name"])
    if consumers and len(manifest["lstms"]) == 1:
        lines += [
            "",
            f"# What {label(consumers[-1])} makes of it alone is quicker, by the part of the graph that gives it:",
            "# pip install onnx",
            "import onnx.utils",
            "",
            f"graph, answer = onnx.load({json.dumps(INT8)}), session.get_outputs()[-1].name",
            'part = onnx.utils.Extractor(graph).extract_model(["input"], [answer])',
            '(answers,) = onnxruntime.InferenceSession(part.SerializeToString()).run(None, {"input": inputs})',
        ]
    return Way("In ONNX Runtime, with int8 weights", "\n".join(lines))


def _numbers(manifest: Facts, entry: Facts) -> tuple[str, str]:
    """Random inputs of an LSTM in an ONNX file, and what their dimensions are."""
    if entry["kind"] == "LSTMCell":
        shape, axes = [BATCH], "N, I"
    else:
        shape, axes = ([BATCH, STEPS], "N, T, I") if manifest["onnx"]["batch_first"] else ([STEPS, BATCH], "T, N, I")
    return f'numpy.random.randn({", ".join(map(str, [*shape, entry["input_size"]]))}).astype("float32")', axes


def _reconstructs(manifest: Facts) -> bool:
    return any("reconstruction." in name for entry in manifest["lstms"] for name in entry["tensors"])


def _title(entry: Facts) -> str:
    return _quoted(entry["name"]) if entry["name"] else "the LSTM"


def _quoted(name: str) -> str:
    """A name as code in Markdown."""
    return f"`{label(name).replace('`', chr(39))}`"
