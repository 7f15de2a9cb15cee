"""Load the pruned LSTMs of this folder with torch and safetensors alone.

    from load_pruned import load_lstms

    lstms = load_lstms("path/to/this/folder")   # {name: module}
    output, (h_n, c_n) = lstms["encoder"](sequence)

Each module is called like the nn.LSTM (or nn.LSTMCell) it came from and returns its full output width.
The whole model loads as before: pruned.pt or pruned.safetensors has the source's own container and names.
"""

import json
from pathlib import Path

import torch
from torch import nn


def load_lstms(folder, device="cpu", batch_first=False):
    """{name: module} for every pruned LSTM; `batch_first` as in nn.LSTM, since no checkpoint records it."""
    folder = Path(folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if (folder / "pruned.safetensors").exists():
        from safetensors.torch import load_file

        container = load_file(folder / "pruned.safetensors", device=str(device))
    else:
        container = torch.load(folder / "pruned.pt", map_location=device, weights_only=True)
    return {lstm["name"]: _build(lstm, container, batch_first).to(device).eval() for lstm in manifest["lstms"]}


def _build(lstm, container, batch_first):
    dtype = getattr(torch, lstm["dtype"])
    if lstm["kind"] == "LSTMCell":
        module = nn.LSTMCell(lstm["input_size"], lstm["hidden_size"], bias=lstm["bias"], dtype=dtype)
    else:
        module = nn.LSTM(
            lstm["input_size"],
            lstm["hidden_size"],
            lstm["num_layers"],
            bias=lstm["bias"],
            batch_first=batch_first,
            bidirectional=lstm["bidirectional"],
            proj_size=lstm["proj_size"],
            dtype=dtype,
        )
    state = {}
    for name, keys in lstm["tensors"].items():
        state[name] = container
        for key in keys:
            state[name] = state[name][key]
    module.load_state_dict(state)
    return module
