"""Lines of Python that load an export and run it, from its manifest alone."""

import json
from collections.abc import Mapping
from typing import Any

Facts = Mapping[str, Any]  # a manifest, or an LSTM's entry in it, as JSON has it

BATCH, STEPS = 2, 5  # of the inputs in the lines
QUALITY = "quality.py"  # what rates the model of an export by itself, where there is such a thing


def load_lines(manifest: Facts, folder: str) -> str:
    if all(batch_first(manifest, entry) is not None for entry in manifest["lstms"]):
        return f"lstms = load_lstms({folder})"
    return (
        f"lstms = load_lstms({folder}, batch_first=False)  # True, if yours read (N, T, I): the file does not say which"
    )


def module_of(entry: Facts) -> str:
    return f"lstms[{json.dumps(entry['name'])}]"


def run_lines(manifest: Facts, entry: Facts, module: str, show: bool = True) -> list[str]:
    """One call on random numbers; `show` prints what came of it."""
    if entry["kind"] == "LSTMCell":
        shape, axes, call = [BATCH], "N, I", "h, c"
    elif batch_first(manifest, entry):
        shape, axes, call = [BATCH, STEPS], "N, T, I", "output, (h_n, c_n)"
    else:
        shape, axes, call = [STEPS, BATCH], "T, N, I", "output, (h_n, c_n)"
    shape = [*shape, entry["input_size"]]
    dtype = "" if entry["dtype"] == "float32" else f", dtype=torch.{entry['dtype']}"
    lines = [f"inputs = torch.randn({', '.join(map(str, shape))}{dtype})  # ({axes})", f"{call} = {module}(inputs)"]
    if show:
        first = call.partition(",")[0]
        lines.append(f"print({json.dumps(entry['name'] or 'the LSTM')}, tuple({first}.shape))")
    return lines


def stand_in(manifest: Facts) -> list[str]:
    """Lines that build a dense model under the names of the file and make it the pruned one."""
    modules: dict[str, str] = {}
    for entry in manifest["lstms"]:
        modules[entry["name"]] = _dense(manifest, entry)
        for name in entry["consumers"]:
            if name in manifest["rest"]:
                modules[name.removesuffix(".weight")] = _reader(manifest, entry, name)
    if not all(modules.values()) or not all(part for name in modules for part in name.split(".")):
        return []
    return [
        "",
        "",
        "def put(model, name, module):",
        '    """Let a model have a module under a name."""',
        '    *path, last = name.split(".")',
        "    for part in path:",
        "        if part not in dict(model.named_children()):",
        "            setattr(model, part, nn.Module())",
        "        model = model.get_submodule(part)",
        "    setattr(model, last, module)",
        "",
        "",
        "# A model of your own: this one stands for it, with random weights, as it was built before pruning.",
        "model = nn.Module()",
        *(f"put(model, {json.dumps(name)}, {made})" for name, made in modules.items()),
        "replace(model, FOLDER)",
        "print(model)",
    ]


def _dense(manifest: Facts, entry: Facts) -> str:
    settings = {} if entry["bias"] else {"bias": "False"}
    if entry["dtype"] != "float32":
        settings["dtype"] = f"torch.{entry['dtype']}"
    sizes = [entry["input_size"], entry["dense_hidden_size"]]
    if entry["kind"] == "LSTM":
        sizes.append(entry["num_layers"])
        settings |= {key: "True" for key in ("bidirectional",) if entry[key]}
        settings |= {"proj_size": str(entry["proj_size"])} if entry["proj_size"] else {}
        settings |= {"batch_first": "True"} if batch_first(manifest, entry) else {}
    return (
        f"nn.{entry['kind']}({', '.join([*map(str, sizes), *(f'{key}={value}' for key, value in settings.items())])})"
    )


def _reader(manifest: Facts, entry: Facts, name: str) -> str:
    """A module of full size whose weight is a trimmed tensor; nothing where its name does not tell."""
    shape = manifest["rest"][name]["shape"]
    width = entry["dense_hidden_size"] * (2 if entry["bidirectional"] else 1)
    bias = "" if f"{name.removesuffix('weight')}bias" in manifest["rest"] else ", bias=False"
    if not name.endswith(".weight") or len(shape) not in (2, 3):
        return ""
    return (
        f"nn.Linear({width}, {shape[0]}{bias})"
        if len(shape) == 2
        else f"nn.Conv1d({width}, {shape[0]}, {shape[2]}{bias})"
    )


def batch_first(manifest: Facts, entry: Facts) -> bool | None:
    """What is known of it; a cell reads no sequences."""
    if entry["kind"] == "LSTMCell":
        return False
    return (manifest.get("learned") or {}).get(entry["name"], {}).get("batch_first")


def is_safetensors(manifest: Facts) -> bool:
    return manifest["source"]["format"] == "safetensors"


def quality_lines(manifest: Facts) -> list[str]:
    """Lines that rate the model on held-out data, of an export whose files do so, after the others."""
    if QUALITY not in manifest["files"]:
        return []
    names = [entry["name"] for entry in manifest["lstms"]]
    # Trimmed consumers go with LSTMs of their own size, as the model has them.
    trimmed = any(entry["consumers"] for entry in manifest["lstms"])
    each = (f"{json.dumps(name)}: model.get_submodule({json.dumps(name)})" for name in names)
    lstms = f"{{{', '.join(each)}}}" if trimmed else "lstms"
    return [
        "",
        "# How good it is on data that it never saw; README.md says how good it was before.",
        "from quality import quality",
        "from safetensors import safe_open",
        "",
        'with safe_open(FOLDER / "pruned.safetensors", "pt") as file:',
        "    tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()",
        f"print({json.dumps(manifest['verdict']['measure'])}, round(quality(tensors, {lstms}, metadata), 4))",
    ]
