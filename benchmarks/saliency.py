"""Row saliency beside `tensor.sum()` over the same weights, which reads them once: the least that can be.

    python -m benchmarks.saliency

Both in turns in one process, with one thread and with two; each ratio is the lowest quarter of those of pairs.
"""

import time
from collections.abc import Callable, Iterator

import torch

from benchmarks.rows import Row
from pruner.importance.weights import row_saliency

TAKES = 40
SHAPE, PAIRS = (4 * 4096, 4096), 12
TARGETS = {torch.float32: 1.6, torch.bfloat16: 3.0}


def seconds_of(do: Callable[[], object]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def rows() -> Iterator[Row]:
    weights, threads = torch.randn(SHAPE), torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        for dtype, target in TARGETS.items():
            own = weights.to(dtype)
            ratios = sorted(seconds_of(lambda own=own: row_saliency(own)) / seconds_of(own.sum) for _ in range(PAIRS))
            name = f"row saliency over sum, {str(dtype).removeprefix('torch.')}, {count} thread{'s' * (count > 1)}"
            yield Row(name, ratios[len(ratios) // 4], target)
    torch.set_num_threads(threads)


def main() -> None:
    for row in rows():
        print(row.told(), flush=True)


if __name__ == "__main__":
    main()
