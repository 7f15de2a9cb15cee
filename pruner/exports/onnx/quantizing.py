"""An ONNX model in float32 -> the same with weights of 8 bits, whose inputs are quantized as they come."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
from onnx import helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from pruner.files.staging import temporary

OPERATORS = ["LSTM", "MatMul"]
# Keeps `quantize_dynamic` from recommending, through the root logger, a preparation that is for other graphs than these.
PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}


def int8_model_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with all LSTMs and matrix products in int8, with a scale for each row of a weight (`per_channel`).

    Weights use 7 of the 8 bits (`reduce_range`). A processor without VNNI or AMX adds products in pairs, in 16 bits, where
    those of 8-bit weights overflow: silently, to wrong numbers. The file may go to any processor, so the one at hand does
    not decide, and what was measured here holds there. With scales by row the last bit is hardly missed: see "When to use
    reduce-range and per-channel quantization?" in
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
    """
    metadata = {each.key: each.value for each in model.metadata_props}
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    helper.set_model_props(prepared, metadata | PREPARED)
    with temporary() as staging, _root_logger_as_it_is():
        written = staging.files / "int8.onnx"
        quantize_dynamic(
            prepared,
            written,
            op_types_to_quantize=OPERATORS,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
        small = onnx.load(written)
    helper.set_model_props(small, metadata)
    small.producer_name, small.producer_version = model.producer_name, model.producer_version
    onnx.checker.check_model(small)
    return small


@contextmanager
def _root_logger_as_it_is() -> Iterator[None]:
    """`quantize_dynamic` writes to the root logger, and `logging` sets one up that prints where there is none."""
    nothing = logging.NullHandler()
    logging.getLogger().addHandler(nothing)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(nothing)
