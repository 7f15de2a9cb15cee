"""What torch allocates while something runs."""

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Allocations(TorchDispatchMode):
    """The largest storage that operations created, in bytes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if (
            isinstance(result, Tensor)
            and result.device.type != "meta"
            and all(
                result.untyped_storage().data_ptr() != given.untyped_storage().data_ptr()
                for given in args
                if isinstance(given, Tensor)
            )
        ):
            self.largest = max(self.largest, result.untyped_storage().nbytes())
        return result
