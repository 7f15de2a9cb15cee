"""What reading a file of strangers may take, by its size."""

_FREE_MEMORY = 300 * 2**20
_FREE_SECONDS = 10
_BYTES_A_SECOND = 2**25


def memory(size: int) -> int:
    """Bytes that reading a file of a size may take, beyond what the process takes before."""
    return 3 * size + _FREE_MEMORY


def cpu_seconds(size: int) -> int:
    return _FREE_SECONDS + size // _BYTES_A_SECOND
