"""The process that runs one ONNX model of a stranger: the model comes in, then inputs, and outputs go out.

Run as a script, it imports of this project only what needs no torch, and sets its limits before it touches a byte.
"""

import sys
from pathlib import Path
from types import ModuleType


def main() -> None:
    """Read a model from the standard input and answer as `isolation.IsolatedSession` asks, until that ends."""
    package = ModuleType("pruner")  # in place of the real one, which imports torch
    package.__path__ = [str(Path(__file__).parents[2])]
    sys.modules["pruner"] = package
    from pruner.errors import PrunerError
    from pruner.exports.onnx.harmless import metadata_of
    from pruner.exports.onnx.isolation import packed, received, received_size
    from pruner.exports.onnx.session import does_not_run, session_of
    from pruner.files.isolated_reader import limit

    source, target = sys.stdin.buffer, sys.stdout.buffer
    size = received_size(source, sys.maxsize)
    limit(3 * size)  # a session has weights in several orders beside those of the file
    try:
        model = source.read(size)
        metadata = metadata_of(model)
        session = session_of(model)
        inputs = [(each.name, each.shape) for each in session.get_inputs()]
        answer = packed({"metadata": metadata, "inputs": inputs})
        while True:
            target.write(answer)
            target.flush()
            asked, arrays = received(source)
            try:
                found = session.run(asked["outputs"], dict(zip(asked["inputs"], arrays, strict=True)))
            except Exception as error:  # its errors have no common class
                raise does_not_run(error) from error
            answer = packed({}, found)
    except EOFError:
        return
    except PrunerError as error:
        target.write(packed({"error": str(error)}))
        target.flush()


if __name__ == "__main__":
    main()
