"""What a pickle may have built: the names that rebuild tensors, arrays and plain containers, done by our own code.

Each function takes an allowance and the arguments that the pickle gives, and returns NotImplemented where it does not
understand them; a stand-in is made of those. None of them calls anything that the file names.
"""

import math
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pruner.files.allowance import Allowance, Malformed
from pruner.files.contents import WIDTHS, Name, Quantizer, StandIn, Storage, Stored, check_sizes, check_view, contiguous

STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "int8",
    "QUInt8Storage": "uint8",
    "QInt32Storage": "int32",
    "UntypedStorage": "uint8",
    "_UntypedStorage": "uint8",
}
NUMPY_TYPES = {
    "b1": ("bool", "?"),
    "u1": ("uint8", "B"),
    "i1": ("int8", "b"),
    "i2": ("int16", "h"),
    "i4": ("int32", "i"),
    "i8": ("int64", "q"),
    "u2": ("uint16", "H"),
    "u4": ("uint32", "I"),
    "u8": ("uint64", "Q"),
    "f2": ("float16", "e"),
    "f4": ("float32", "f"),
    "f8": ("float64", "d"),
    "c8": ("complex64", "ff"),
    "c16": ("complex128", "dd"),
}
_FORMS = dict(NUMPY_TYPES.values())


@dataclass(frozen=True, eq=False, slots=True)
class TypedStorage:
    """A storage as a persistent id names it: `count` numbers of a type, from `offset` on (in numbers)."""

    storage: Storage
    dtype: str
    count: int
    offset: int = 0


def _tensor(arguments: tuple[Any, ...], dtype: str | None = None) -> Stored:
    storage, offset, shape, stride = arguments[:4]
    if isinstance(shape, StandIn) and _is_size(shape):
        shape = shape.arguments[0]
    if not isinstance(storage, TypedStorage):
        raise Malformed("a tensor of another thing than a storage")
    dtype = dtype or storage.dtype
    offset += storage.offset * WIDTHS[storage.dtype] // WIDTHS[dtype]
    stored = Stored(storage.storage, dtype, shape, stride, offset)
    check_view(stored, (storage.offset + storage.count) * WIDTHS[storage.dtype] // WIDTHS[dtype])
    return stored


def _is_size(value: StandIn) -> bool:
    called = isinstance(value.of, Name) and (value.of.module, value.of.name) == ("torch", "Size")
    return called and len(value.arguments) == 1


def _rebuild_tensor(_: Allowance, arguments: tuple[Any, ...]) -> Any:
    return _tensor(arguments)


def _rebuild_tensor_v2(_: Allowance, arguments: tuple[Any, ...]) -> Any:
    if len(arguments) > 6 and arguments[6]:
        return NotImplemented  # conjugated or negated views
    return replace(_tensor(arguments), requires_grad=arguments[4] is True)


def _rebuild_tensor_v3(_: Allowance, arguments: tuple[Any, ...]) -> Any:
    dtype = arguments[6]
    if not isinstance(dtype, Name) or dtype.name not in WIDTHS or arguments[7:8] not in ((), (None,), ({},)):
        return NotImplemented
    return replace(_tensor(arguments, dtype.name), requires_grad=arguments[4] is True)


def _rebuild_parameter(_: Allowance, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(arguments[0], Stored):
        return NotImplemented
    return replace(arguments[0], parameter=True, requires_grad=arguments[1:2] != (False,))


def _rebuild_on_device(_: Allowance, arguments: tuple[Any, ...]) -> Any:
    """A tensor of a device that keeps no storages, from an array or a tensor of the same type of numbers."""
    data, dtype = arguments[:2]
    stored = data.value if isinstance(data, StandIn) else data
    if not isinstance(stored, Stored) or not isinstance(dtype, Name) or dtype.name != stored.dtype:
        return NotImplemented  # converted to another type, it could take far more
    return replace(stored, requires_grad=arguments[3:4] == (True,))


def _rebuild_quantized(allowance: Allowance, arguments: tuple[Any, ...]) -> Any:
    """A tensor of integers with what they stand for, one scale for all or one a channel."""
    scheme, *parameters = arguments[4]
    if not isinstance(scheme, Name):
        return NotImplemented
    stored = _tensor(arguments)
    count = math.prod(stored.shape)
    if count > arguments[0].count:
        raise Malformed("a quantized tensor that repeats its numbers")
    allowance.spend(4 * count)  # as many numbers of four bytes are made of it
    if scheme.name.startswith("per_tensor"):
        scale, zero_point = parameters
        quantizer = Quantizer((float(scale),), (float(zero_point),))
    else:
        scales, zero_points, axis = parameters
        channels = stored.shape[axis] if axis in range(len(stored.shape)) else -1
        quantizer = Quantizer(_numbers(allowance, scales), _numbers(allowance, zero_points), axis)
        if {len(quantizer.scales), len(quantizer.zero_points)} != {channels}:
            raise Malformed("not a scale for each channel")
    return replace(stored, quantizer=quantizer)


def _numbers(allowance: Allowance, values: Any) -> tuple[float, ...]:
    """The numbers of a list, or of a tensor of one dimension."""
    if isinstance(values, Stored):
        (count,), (step,), width = values.shape, values.stride or (1,), WIDTHS[values.dtype]
        data = bytes(values.storage.data[values.offset * width : (values.offset + count) * width])
        allowance.spend(40 * count + len(data))
        if step != 1 or len(data) != count * width or values.storage.big_endian:
            raise Malformed("scales that lie apart")
        return tuple(map(float, struct.unpack(f"<{count}{_FORMS[values.dtype]}", data)))
    allowance.spend(40 * len(values))
    return tuple(map(float, values))


def _rebuild_from_type(allowance: Allowance, arguments: tuple[Any, ...]) -> Any:
    """A tensor of a subclass, or with attributes, which are left out."""
    function, _, inner = arguments[:3]
    known = KNOWN.get((function.module, function.name)) if isinstance(function, Name) else None
    if known is None or known is _rebuild_from_type or type(inner) is not tuple:
        return NotImplemented
    return known(allowance, inner)


def _torch_value(name: str) -> Callable[[Allowance, tuple[Any, ...]], StandIn]:
    """A stand-in that `materialise` turns into the value that it is: a size, a device."""
    return lambda allowance, arguments: StandIn(Name("torch", name), arguments)


def _first(_: Allowance, arguments: tuple[Any, ...]) -> Any:
    return arguments[0]


# Containers


def _pairs(allowance: Allowance, arguments: tuple[Any, ...], empty: Any) -> Any:
    """A dictionary, or pairs of keys and values, copied into an empty one."""
    items = arguments[0] if arguments else {}
    if len(arguments) > 1 or not isinstance(items, (dict, list)):
        return NotImplemented
    allowance.spend(232 + 120 * len(items))
    for key, value in items.items() if isinstance(items, dict) else map(tuple, items):
        empty[allowance.key(key)] = value
    return empty


def _set(allowance: Allowance, arguments: tuple[Any, ...]) -> Any:
    if len(arguments) > 1 or not all(isinstance(items, (list, tuple, set, frozenset)) for items in arguments):
        return NotImplemented
    items = arguments[0] if arguments else ()
    allowance.spend(232 + 64 * len(items))
    return set(map(allowance.key, items))


def _frozenset(allowance: Allowance, arguments: tuple[Any, ...]) -> Any:
    found = _set(allowance, arguments)
    return found if found is NotImplemented else frozenset(found)


def _list(allowance: Allowance, arguments: tuple[Any, ...]) -> Any:
    if len(arguments) > 1 or not all(isinstance(items, (list, tuple)) for items in arguments):
        return NotImplemented
    allowance.spend(64 + 8 * sum(map(len, arguments)))
    return list(*arguments)


def _encode(allowance: Allowance, arguments: tuple[Any, ...]) -> Any:
    """Bytes as Python 3 writes them for Python 2; other encodings can make much of little, and take long."""
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] not in ("latin1", "latin-1"):
        return NotImplemented
    allowance.spend(len(arguments[0]) + 40)
    return arguments[0].encode("latin-1")


def _bytearray(allowance: Allowance, arguments: tuple[Any, ...]) -> Any:
    if len(arguments) == 2:
        arguments = (_encode(allowance, arguments),)
    if len(arguments) > 1 or not all(isinstance(data, (bytes, memoryview)) for data in arguments):
        return NotImplemented
    allowance.spend(64 + sum(map(len, arguments)))
    return bytes(*arguments)


def _complex(_: Allowance, arguments: tuple[Any, ...]) -> Any:
    return complex(*arguments) if all(type(part) is float for part in arguments) else NotImplemented


# NumPy


def _numpy_type(dtype: Any) -> tuple[str, str, bool] | None:
    """(torch's name, struct's form, whether big-endian) of a pickled dtype; None for structures, text and objects."""
    if not isinstance(dtype, StandIn) or not dtype.arguments or type(dtype.arguments[0]) is not str:
        return None
    code = dtype.arguments[0]
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else code[:1]
    known = NUMPY_TYPES.get(code.lstrip("<>=|"))
    return (*known, order == ">") if known else None


def _array(allowance: Allowance, data: Any, dtype: Any, shape: Any, fortran: bool) -> Stored | None:
    """An array of numbers; None for one of other things."""
    known = _numpy_type(dtype)
    if known is None:
        return None
    name, _, big_endian = known
    shape = check_sizes(shape)
    if type(data) is str:  # of Python 2: bytes, which were text only if they happen to be
        allowance.spend(2 * len(data))
        utf8 = data.encode("utf-8", "surrogatepass")
        data = utf8 if len(utf8) == math.prod(shape) * WIDTHS[name] else data.encode("latin-1")
    if not isinstance(data, (bytes, memoryview)):
        return None
    allowance.spend(len(data))  # which may have to be copied, for each array that is made of them
    stride = contiguous(shape[::-1])[::-1] if fortran else contiguous(shape)
    stored = Stored(Storage(memoryview(data), big_endian), name, shape, stride)
    check_view(stored, len(data) // WIDTHS[name])
    return stored


def _complete_array(allowance: Allowance, arguments: tuple[Any, ...]) -> Any:
    """The state that an array is given: version, shape, dtype, whether in Fortran's order, bytes."""
    _, state = arguments
    return _array(allowance, state[4], state[2], state[1], bool(state[3])) if type(state) is tuple else None


def _array_from_buffer(allowance: Allowance, arguments: tuple[Any, ...]) -> Any:
    data, dtype, shape, order = arguments
    stored = _array(allowance, data, dtype, shape, order == "F")
    return NotImplemented if stored is None else StandIn(Name("numpy", "ndarray"), (), value=stored)


def _scalar(_: Allowance, arguments: tuple[Any, ...]) -> Any:
    """A NumPy scalar, as Python's own number."""
    known = _numpy_type(arguments[0]) if len(arguments) == 2 else None
    data = arguments[1] if known else None
    if known is None or not isinstance(data, (bytes, str)):
        return NotImplemented
    raw = data.encode("latin-1") if isinstance(data, str) else data
    numbers = struct.unpack((">" if known[2] else "<") + known[1], raw)
    return complex(*numbers) if len(numbers) > 1 else numbers[0]


def _under(modules: tuple[str, ...], functions: dict[str, Any]) -> dict[tuple[str, str], Any]:
    return {(module, name): function for module in modules for name, function in functions.items()}


KNOWN: dict[tuple[str, str], Callable[[Allowance, tuple[Any, ...]], Any]] = {
    **_under(
        ("torch._utils",),
        {
            "_rebuild_tensor": _rebuild_tensor,
            "_rebuild_tensor_v2": _rebuild_tensor_v2,
            "_rebuild_tensor_v3": _rebuild_tensor_v3,
            "_rebuild_parameter": _rebuild_parameter,
            "_rebuild_parameter_with_state": _rebuild_parameter,
            "_rebuild_qtensor": _rebuild_quantized,
            "_rebuild_device_tensor_from_numpy": _rebuild_on_device,
            "_rebuild_device_tensor_from_cpu_tensor": _rebuild_on_device,
            "_rebuild_xla_tensor": _rebuild_on_device,
        },
    ),
    **_under(("torch.nn.parameter",), {"Parameter": _rebuild_parameter}),
    **_under(("torch._tensor",), {"_rebuild_from_type_v2": _rebuild_from_type}),
    **_under(("torch",), {"Size": _torch_value("Size"), "device": _torch_value("device")}),
    **_under(
        ("torch.jit._pickle",),
        dict.fromkeys(
            ("restore_type_tag", "build_tensorlist", "build_intlist", "build_doublelist", "build_boollist"), _first
        ),
    ),
    **_under(
        ("collections",),
        {
            "OrderedDict": lambda allowance, arguments: _pairs(allowance, arguments, OrderedDict()),
            "Counter": lambda allowance, arguments: _pairs(allowance, arguments, Counter()),
        },
    ),
    **_under(
        ("builtins", "__builtin__"),
        {
            "dict": lambda allowance, arguments: _pairs(allowance, arguments, {}),
            "list": _list,
            "set": _set,
            "frozenset": _frozenset,
            "bytearray": _bytearray,
            "bytes": lambda _, arguments: NotImplemented if arguments else b"",
            "complex": _complex,
        },
    ),
    **_under(("_codecs",), {"encode": _encode}),
    **_under(
        ("numpy.core.multiarray", "numpy._core.multiarray"),
        {"_reconstruct.build": _complete_array, "scalar": _scalar},
    ),
    **_under(("numpy.core.numeric", "numpy._core.numeric"), {"_frombuffer": _array_from_buffer}),
}
