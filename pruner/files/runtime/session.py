"""Sessions of ONNX Runtime."""

import onnxruntime
from onnxruntime import InferenceSession

from pruner.errors import PrunerError, shown

_ERRORS_ALONE = 3  # it warns of every input that can be left out


def session_of(model: bytes, threads: int = 1) -> InferenceSession:
    """A session on the CPU, by default with one thread, which computes the same wherever it is. More of them do not go on
    waiting busily after a run, as they would, at the cost of whatever else runs.

    Raises PrunerError for what ONNX Runtime refuses.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = _ERRORS_ALONE
    try:
        return InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        raise does_not_run(error) from error


def does_not_run(error: Exception) -> PrunerError:
    """What to raise for an error of ONNX Runtime."""
    return PrunerError(f"expected a model that ONNX Runtime runs, found one it refuses: {shown(str(error), 200)}")
