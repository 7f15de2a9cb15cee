"""What a model really computes with, where its file holds something else: parts, masks, copies.

Tools for pruning, normalising and regularising keep other tensors than the weight that a forward pass uses. Those that are
known are computed here, exactly; a weight of an unknown kind is left out and named.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import torch
from torch import Tensor

from pruner.files.contents import Computed
from pruner.lstm.gates import parse_standard_name
from pruner.lstm.lstm import DTYPES, LSTM, Place, Skipped

_PART_OF_AN_LSTM = re.compile(r"(weight|bias)_|ln_|(layer_?)?norm|kept_|reconstruction\.", re.IGNORECASE)
_KINDS = {
    "layer normalisation": re.compile(r"(^|[._])(ln|layer_?norm|norm)[._0-9]", re.IGNORECASE),
    "peephole weights": re.compile(r"weight_c[hifo]?(_l\d+(_reverse)?)?$|peep", re.IGNORECASE),
    "removed units that are reconstructed (a file of this project, but not as it writes them)": re.compile(
        r"kept_\d$|reconstruction\."
    ),
}
_PARAMETRIZED = re.compile(r"(?P<module>.*?)parametrizations\.(?P<tensor>[^.]+)\.(?P<part>.+)", re.DOTALL)


@dataclass
class Weights:
    """Named tensors as the model computes with them."""

    tensors: dict[str, Tensor]  # by their names in the file; those that are computed, by their plain names
    aliases: dict[str, str]  # plain name -> name in `tensors`
    computed: dict[str, Computed] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)  # name in the file -> the tensor that the model copies over it
    unresolved: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gone: dict[str, dict[Place, Tensor]] = field(default_factory=dict)  # as in `Checkpoint`


def compute_weights(stored: Mapping[str, Tensor]) -> Weights:
    """The tensors of a file as the model computes with them.

    Known are `weight_orig` and `weight_mask` of `torch.nn.utils.prune`
    (https://docs.pytorch.org/tutorials/intermediate/pruning_tutorial.html) and masks of a model's own; `weight_g` and
    `weight_v` of weight_norm, `weight_orig`, `weight_u` and `weight_v` of spectral_norm; what `torch.nn.utils.parametrize`
    keeps of these, and of this project's LSTMSaliencyPruner; `weight_hh_l0_raw`, which weight drop copies over the
    LSTM's own.
    """
    weights = Weights(dict(stored), {name: name for name in stored})
    parametrized: dict[tuple[str, str], dict[str, str]] = {}
    wrapped: dict[str, list[str]] = {}  # the name that a weight in a wrapped LSTM would have in the wrapper -> its own
    for name in stored:
        if match := _PARAMETRIZED.fullmatch(name):
            parametrized.setdefault((match["module"], match["tensor"]), {})[match["part"]] = name
        module, dot, last = name.rpartition(".")
        if dot and parse_standard_name(last):
            wrapper, dot, _ = module.rpartition(".")
            wrapped.setdefault(f"{wrapper}{dot}{last}", []).append(name)
    for (module, tensor), parts in parametrized.items():
        _resolve_parametrized(weights, module, tensor, parts)
    for name in stored:
        if name.endswith("_orig"):
            _resolve_original(weights, name)
        elif name.endswith("_g"):
            plain = name.removesuffix("_g")
            _resolve_norm(weights, plain, name, f"{plain}_v", _call("remove_weight_norm", plain))
        elif name.endswith("_raw"):
            _resolve_raw(weights, name, wrapped.get(name.removesuffix("_raw"), []))
        elif name.endswith("_mask"):
            _resolve_mask(weights, name.removesuffix("_mask"), name)
    return weights


def mask_beside(name: str, tensors: Mapping[str, Tensor]) -> str | None:
    """The mask in a file that is multiplied into a tensor of this name when it is read; None where there is none."""
    if name.endswith("_orig"):
        mask = f"{name.removesuffix('_orig')}_mask"
    elif name.endswith(".original"):
        mask = f"{name.removesuffix('original')}0.mask"
    else:
        mask = f"{name}_mask"
        if mask in tensors and (name not in tensors or tensors[mask].shape != tensors[name].shape):
            return None
    return mask if mask in tensors else None


def beside(name: str, tensor: str) -> list[str]:
    """The names under which a file may hold another tensor of the module that `name` belongs to: its plain one, and those
    that pruning and parametrization tools leave."""
    match = _PARAMETRIZED.fullmatch(name)
    module = match["module"] if match else name[: name.rfind(".") + 1]
    return [f"{module}{tensor}", f"{module}{tensor}_orig", f"{module}parametrizations.{tensor}.original"]


def _resolve_parametrized(weights: Weights, module: str, tensor: str, parts: dict[str, str]) -> None:
    plain = f"{module}{tensor}"
    remedy = f"torch.nn.utils.parametrize.remove_parametrizations({_module(module)}, {tensor!r})"
    if parts.keys() == {"original0", "original1"}:
        if _resolve_norm(weights, plain, parts["original0"], parts["original1"], remedy):
            return
    elif parts.keys() == {"original", "0._u", "0._v"}:
        if _resolve_spectral(weights, plain, parts["original"], parts["0._u"], parts["0._v"], remedy):
            return
    elif parts.keys() == {"original", "0.mask"}:
        _use(
            weights,
            plain,
            parts["original"],
            _masked(weights.tensors[parts["original"]], weights.tensors[parts["0.mask"]]),
        )
        return
    elif parts.keys() == {"original"}:
        _use(weights, plain, parts["original"], weights.tensors[parts["original"]])
        weights.notes.append(
            f"{plain} is stored before a parametrization that the file does not describe, and shown so; if that is not of "
            f"this project, call {remedy} before saving"
        )
        return
    if parse_standard_name(tensor):
        reason = (
            f"{tensor} is computed by a parametrization that the file does not describe; call {remedy} before saving"
        )
        weights.unresolved.append(Skipped(module.rstrip("."), reason))


def _resolve_original(weights: Weights, name: str) -> None:
    plain = name.removesuffix("_orig")
    mask, u, v = (weights.tensors.get(f"{plain}_{part}") for part in ("mask", "u", "v"))
    if mask is not None:
        _use(weights, plain, name, _masked(weights.tensors[name], mask))
    elif u is not None and v is not None:
        _resolve_spectral(weights, plain, name, f"{plain}_u", f"{plain}_v", _call("remove_spectral_norm", plain))


def _resolve_norm(weights: Weights, plain: str, length: str, direction: str, remedy: str) -> bool:
    """weight_norm: `g * v / |v|`, the norm over all dimensions in which g has one number."""
    g, v = weights.tensors.get(length), weights.tensors.get(direction)
    if g is None or v is None or v.dtype not in DTYPES or g.dtype != v.dtype or plain in weights.tensors:
        return False
    over = [axis for axis in range(v.dim()) if g.dim() and g.shape[axis : axis + 1] == (1,)]
    over = over if g.dim() else list(range(v.dim()))
    kept = [1 if axis in over else size for axis, size in enumerate(v.shape)]
    if v.dim() == 0 or (g.dim() and list(g.shape) != kept):
        return False
    wide = v.float() if v.dtype in (torch.float16, torch.bfloat16) else v
    norm = torch.linalg.vector_norm(wide, dim=over, keepdim=True) if over else wide.abs()
    compute(weights, plain, (wide * (g.to(wide.dtype) / norm)).to(v.dtype), (length, direction), f"call {remedy}")
    return True


def _resolve_spectral(weights: Weights, plain: str, original: str, left: str, right: str, remedy: str) -> bool:
    """spectral_norm as it computes when it does not train: `W / (u W v)`, W as a matrix of its first dimension."""
    weight, u, v = (weights.tensors[name] for name in (original, left, right))
    matrix = weight.flatten(1) if weight.dim() > 1 else weight
    if matrix.dim() != 2 or (u.shape, v.shape) != (matrix.shape[:1], matrix.shape[1:]):
        return False
    if {weight.dtype, u.dtype, v.dtype} - set(DTYPES) or len({weight.dtype, u.dtype, v.dtype}) > 1:
        return False
    compute(weights, plain, weight / torch.dot(u, matrix @ v), (original, left, right), f"call {remedy}")
    return True


def _resolve_mask(weights: Weights, plain: str, mask: str) -> None:
    """A mask of the model's own, of the weight's shape, beside a weight that it is multiplied into at every forward."""
    weight = weights.tensors.get(plain) if _last(plain).startswith(("weight", "bias")) else None
    if weight is not None and weights.tensors[mask].shape == weight.shape:
        _use(weights, plain, plain, _masked(weight, weights.tensors[mask]))


def _resolve_raw(weights: Weights, name: str, inside: list[str]) -> None:
    """Weight drop: the raw weight lies in the LSTM or in the wrapper around it, and every forward copies it over the
    LSTM's own, which may be in the file, too (`inside` of the wrapper)."""
    plain = name.removesuffix("_raw")
    if not parse_standard_name(_last(plain)):
        return
    inside = [other for other in inside if other != plain]
    copied = inside[0] if len(inside) == 1 and plain not in weights.tensors else plain
    if len(inside) > 1 and plain not in weights.tensors:
        reason = (
            f"{name} is copied over one of {', '.join(inside)}, the file does not say which; save without weight drop"
        )
        weights.unresolved.append(Skipped(plain.rpartition(".")[0], reason))
        return
    weights.aliases.pop(name, None)
    weights.aliases[copied] = name
    if copied in weights.tensors:
        del weights.tensors[copied]
        weights.copies[copied] = name
        weights.notes.append(
            f"{copied} is shown as {name}, which the model copies over it at every forward (weight drop)"
        )


def _use(weights: Weights, plain: str, name: str, value: Tensor | None) -> None:
    """Give a tensor of the file another value, and let its plain name mean it. Nothing changes without a value."""
    if value is not None:
        weights.tensors[name] = value
        weights.aliases.pop(name, None)
        weights.aliases.setdefault(plain, name)


def compute(weights: Weights, plain: str, value: Tensor, parts: tuple[str, ...], remedy: str) -> None:
    """Put a weight under its plain name in the place of the parts that it is computed of."""
    for part in parts:
        del weights.tensors[part]
        weights.aliases.pop(part, None)
    weights.tensors[plain] = value
    weights.aliases[plain] = plain
    weights.computed[plain] = Computed(parts, remedy)


def _masked(tensor: Tensor, mask: Tensor) -> Tensor | None:
    """The tensor times its mask, which is of the same shape or has one value a row; None if they do not fit."""
    if tensor.dtype not in DTYPES or mask.dtype not in (*DTYPES, torch.bool, torch.uint8):
        return None
    if mask.dim() == 1 and tensor.dim() > 1 and len(mask) == len(tensor):
        mask = mask.reshape(-1, *[1] * (tensor.dim() - 1))
    elif mask.shape != tensor.shape:
        return None
    return (tensor.detach() * mask).to(tensor.dtype)


def _call(function: str, plain: str) -> str:
    """How the owner of the model makes it hold a weight itself."""
    last = _last(plain)
    return f"torch.nn.utils.{function}({_module(plain.removesuffix(last))}, {last!r})"


def _module(prefix: str) -> str:
    return f"model.{prefix}".rstrip(".")


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def unexplained(lstm: LSTM, weights: Weights, in_order: list[str]) -> list[str]:
    """The tensors under an LSTM's own name that `nn.LSTM` does not have, and that nothing here explains.

    At the root of a file everything is under its name: there, only what looks like a part of an LSTM is. `in_order` are
    the names of all tensors, sorted.
    """
    own = set(lstm.tensors.values())
    prefix = f"{lstm.name}." if lstm.name else ""
    explained = own | {mask for name in own if (mask := mask_beside(name, weights.tensors))}
    return [
        name
        for name in beginning(in_order, prefix)
        if name not in explained
        and (prefix or _PART_OF_AN_LSTM.match(name))
        and parse_standard_name(name.removeprefix(prefix)) is None  # an LSTMCell of the same name is told of elsewhere
    ]


def beginning(in_order: Sequence[str], prefix: str) -> Iterator[str]:
    """Those of some sorted names that begin so."""
    first, last = bisect_left(in_order, prefix), len(in_order)
    return takewhile(lambda name: name.startswith(prefix), (in_order[place] for place in range(first, last)))


def why_declined(names: list[str]) -> str:
    """The reason to give for an LSTM with tensors that `nn.LSTM` does not have."""
    listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    kinds = {what for name in names for what, pattern in _KINDS.items() if pattern.search(name)}
    kind = " and ".join(sorted(kinds)) or "tensors whose part in the computation is unknown"
    return f"expected nothing but the weights of nn.LSTM under its name, found {kind}: {listed}"


def plain_name(name: str) -> str:
    """What a model calls a tensor whose name in the file a tool has lengthened."""
    if match := _PARAMETRIZED.fullmatch(name):
        return f"{match['module']}{match['tensor']}" if match["part"] == "original" else name
    return name.removesuffix("_orig").removesuffix("_raw")
