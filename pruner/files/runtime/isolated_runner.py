"""The process that runs ONNX models of strangers, one after another: a model comes in, then inputs, and outputs go out.

Run as a script, it imports of this project only what needs no torch, and sets its limits before it touches a byte.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_MOST = 2**31  # bytes of a model, as protobuf has them
_MOST_METADATA = 2**16  # of one value


def main(seconds: int, parent: int) -> None:
    """Answer at the standard output what `isolation.Runner` asks at the standard input, until that ends, or the process of
    the number `parent`."""
    package = ModuleType("pruner")  # in place of the real one, which imports torch
    package.__path__ = [str(Path(__file__).parents[2])]
    sys.modules["pruner"] = package
    from pruner.errors import PrunerError
    from pruner.files.isolated_reader import limit
    from pruner.files.orphans import end_with
    from pruner.files.runtime import harmless, session, strangers  # noqa: F401 - before there are limits on memory
    from pruner.files.runtime.isolation import packed, received

    end_with(parent)
    source, target = sys.stdin.buffer, sys.stdout.buffer
    opened, limited = None, False
    try:
        while True:
            asked, arrays = received(source)
            if not limited:
                limit(
                    3 * int(asked["model"]), seconds
                )  # a session has weights in several orders beside those of the file
                limited = True
            try:
                if "model" in asked:
                    opened, answer = _opened(source, asked)
                else:
                    assert opened is not None  # noqa: S101 - whoever asks has opened a model
                    answer = _run(opened, asked, arrays)
            except PrunerError as error:
                answer = packed({"error": str(error)})
            target.write(answer)
            target.flush()
    except EOFError:
        return


def _opened(source: IO[bytes], asked: dict[str, Any]) -> tuple["InferenceSession", bytes]:
    """A session of the model that comes next, and what is told of it: as `harmless` wants it, or as `strangers` does, with
    inner values that are wanted among its outputs."""
    from pruner.files.runtime import harmless, strangers
    from pruner.files.runtime.isolation import packed
    from pruner.files.runtime.session import session_of

    data = source.read(min(int(asked["model"]), _MOST))
    metadata = {}
    if asked["whole"]:
        model = strangers.checked(data)
        metadata = {each.key: each.value for each in model.metadata_props if len(each.value) < _MOST_METADATA}
        known = {output.name for output in model.graph.output}
        for name in asked["values"]:
            if name not in known:
                model.graph.output.add().name = name
        data = model.SerializeToString() if asked["values"] else data
        del model
    else:
        metadata = harmless.metadata_of(data)
    session = session_of(data)
    inputs, outputs = (
        [(each.name, each.type, each.shape) for each in values]
        for values in (session.get_inputs(), session.get_outputs())
    )
    return session, packed({"metadata": metadata, "inputs": inputs, "outputs": outputs})


def _run(session: "InferenceSession", asked: dict[str, Any], arrays: list[Any]) -> bytes:
    from pruner.files.runtime.isolation import packed
    from pruner.files.runtime.session import does_not_run

    fed = dict(zip(asked["inputs"], arrays, strict=True))
    try:
        found = session.run(asked["outputs"], fed)
        return packed({}, found)
    except Exception as error:  # its errors have no common class; and a model may tell what is no array of numbers
        raise does_not_run(error) from error


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
