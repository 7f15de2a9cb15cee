"""How much faster compact LSTMs are than the dense and the masked one: paired runs in one process, CPU, one thread.

    python -m benchmarks.compact

Every ratio is the dense LSTM's time over another's, as `pruner.lstm.timing` finds it. `compact` of `rows` runs step by
step in Python; `scripted` is the same module after `torch.jit.script`, as one would deploy it. The last column is what a
count of multiply-accumulates would promise for the compact form. `upstream` is `prune()` of PyTorch's experimental class of
the same name; it knows no granularity, so both lines of a pair show one measurement. Its LSTM has the size of the
compact one of `units`, but computes something else: each gate of each tensor loses rows of its own, and what is left
is pushed together, so that rows of different units become one unit.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.rows import Row
from pruner import LSTMSaliencyPruner
from pruner.lstm.sizes import macs_per_step
from pruner.lstm.timing import in_turns, in_words, times_as_fast

INPUT_SIZE, NUM_LAYERS, LENGTH = 256, 2, 64
BATCH_SIZES, SECONDS = (1, 32), 12.0  # for each line of two
GRANULARITIES = ("units", "rows")
TAKES, LEAST_OF_ARITHMETIC = 70, 0.8  # seconds of `rows`; of what is saved, the share that shows


def pruned(dense: nn.LSTM, sparsity: float, granularity: str) -> dict[str, nn.Module]:
    """The masked and the compact form of an LSTM, which is left as it is."""
    forms: dict[str, nn.Module] = {}
    for form in ("masked", "compact"):
        model = Tagger(copy.deepcopy(dense)).eval()
        pruner = LSTMSaliencyPruner({"sparsity_level": sparsity}, granularity)
        pruner.prepare(model)
        pruner.enable_mask_update = True
        pruner.step()
        if form == "masked":
            pruner.squash_mask()
        else:
            model = pruner.prune()
        forms[f"{granularity} {form}"] = model.lstm
    if granularity == "rows":  # units leave an `nn.LSTM`, which is one operation already
        forms["rows scripted"] = torch.jit.script(forms["rows compact"])
    return forms


class Tagger(nn.Module):
    """An LSTM whose output a linear layer reads, so that removed units need no place in the output any more: `units` leave a
    plain `nn.LSTM`. Upstream prunes no LSTM that stands alone."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.lstm, self.linear = lstm, nn.Linear(lstm.hidden_size, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(self.lstm(inputs)[0])


def pruned_upstream(dense: nn.LSTM, sparsity: float) -> dict[str, nn.Module]:
    """What upstream makes of an LSTM; nothing, and a printed line, where it makes nothing that runs."""
    try:
        # Not at the top of the file: it is experimental and may be gone.
        from torch.ao.pruning._experimental.pruner.lstm_saliency_pruner import LSTMSaliencyPruner as Upstream

        model = Tagger(copy.deepcopy(dense)).eval()
        weights = [name for name, _ in dense.named_parameters() if name.startswith("weight")]
        pruner = Upstream({"sparsity_level": sparsity})
        pruner.prepare(model, [{"tensor_fqn": f"lstm.{name}"} for name in weights])
        pruner.enable_mask_update = True
        pruner.step()
        small = pruner.prune()
        small(torch.zeros(1, 1, INPUT_SIZE))
    except Exception as error:
        print(f"upstream's prune() at {sparsity:.0%}: {type(error).__name__}: {' '.join(str(error).split())}")
        return {}
    return {"upstream": small.lstm}


def arithmetic(dense: nn.LSTM, small: nn.Module) -> float:
    """The ratio of multiply-accumulates, dense to compact."""
    before, after = (
        macs_per_step(tuple(tensor.shape) for tensor in module.state_dict().values()) for module in (dense, small)
    )
    return before / after


@torch.inference_mode()
def ratios(forms: Mapping[str, Callable[[Tensor], Any]], inputs: Tensor) -> dict[str, float | None]:
    """How many times as fast as the dense form each is."""
    times = in_turns({name: partial(lstm, inputs) for name, lstm in forms.items()}, SECONDS)
    return {name: times_as_fast(times["dense"], own) for name, own in times.items()}


def line(found: Mapping[str, float | None], granularity: str) -> str:
    """The measured columns of one line."""
    columns = {"masked": 7, "compact": 7, "scripted": 8}
    own = [f"{told(found, f'{granularity} {form}'):>{width}}" for form, width in columns.items()]
    return "  ".join([*own, f"{told(found, 'upstream'):>8}"])


def told(found: Mapping[str, float | None], form: str) -> str:
    return in_words(found[form]) if form in found else "-"


def rows() -> Iterator[Row]:
    """How much of what fewer units save shows in the time, at H = 512."""
    torch.manual_seed(0)
    dense = nn.LSTM(INPUT_SIZE, 512, NUM_LAYERS).eval()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for sparsity in (0.5, 0.75):
        forms = {"dense": dense, **pruned(dense, sparsity, "units")}
        for batch_size in BATCH_SIZES:
            found = ratios(forms, torch.randn(LENGTH, batch_size, INPUT_SIZE))["units compact"]
            share = None if found is None else found / arithmetic(dense, forms["units compact"])
            name = f"{1 - sparsity:.0%} of the units, batch {batch_size}: speed over arithmetic"
            yield Row(name, share, LEAST_OF_ARITHMETIC, at_least=True)
    torch.set_num_threads(threads)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(
        f"threads: {torch.get_num_threads()}; torch {torch.__version__}, {torch.get_default_dtype()}\n"
        f"nn.LSTM({INPUT_SIZE}, H, {NUM_LAYERS}), {LENGTH} steps\n\n"
        "   H  dropped  batch  granularity   masked  compact  scripted  upstream  arithmetic"
    )
    for hidden_size in (512, 1024):
        dense = nn.LSTM(INPUT_SIZE, hidden_size, NUM_LAYERS).eval()
        for sparsity in (0.5, 0.75):
            forms = {"dense": dense, **pruned_upstream(dense, sparsity)}
            for granularity in GRANULARITIES:
                forms |= pruned(dense, sparsity, granularity)
            for batch_size in BATCH_SIZES:
                found = ratios(forms, torch.randn(LENGTH, batch_size, INPUT_SIZE))
                for granularity in GRANULARITIES:
                    print(
                        f"{hidden_size:4}  {sparsity:7.0%}  {batch_size:5}  {granularity:11}  "
                        f"{line(found, granularity)}  "
                        f"{arithmetic(dense, forms[f'{granularity} compact']):9.2f}x"
                    )


if __name__ == "__main__":
    main()
