"""What to type next about a file that is declined, or in which no LSTM was found."""

import shlex

# What a message recommends, the line that does it, and the language of that line.
_LINES = (
    ("git lfs pull", "git lfs pull", "bash"),
    (
        "under PyTorch's names",
        'numpy.savez("model.npz", **{"lstm.weight_ih_l0": weight_ih, "lstm.weight_hh_l0": weight_hh})',
        "python",
    ),
    ("onnx.save_model", 'onnx.save_model(onnx.load("model.onnx"), "whole.onnx")', "python"),
    ("model.save(", 'model.save("model.keras")', "python"),
    ("unpack it", "tar -xf model.tar.gz", "bash"),
)
_ELSE = 'torch.save(model.state_dict(), "weights.pt")', "python"


def to_open_it(message: str) -> tuple[str, str]:
    """The line that makes a file to open of one that was declined with a message, and its language; where the message
    recommends none, the one that saves a model of PyTorch so that any of them opens here."""
    return next(((line, language) for said, line, language in _LINES if said in message), _ELSE)


def to_see_what_is_in_it(name: str) -> str:
    """The command that lists every tensor of a file, safe to paste whatever the file is called."""
    return f"python -m pruner inspect {shlex.quote(name)} --tensors"
