"""What a process takes of memory. Imports no torch."""

import sys

#: What a process takes of an accelerator before it has any tensor there.
_CONTEXT = 700 * 2**20


def peak_resident() -> int:
    """Return the most bytes of memory that this process used so far."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    # Linux counts in kilobytes, macOS in bytes
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def taken() -> dict[str, list[int]]:
    """Return the bytes that this process took at most and those that there are, by kind."""
    import psutil

    there = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    found = {"host": [peak_resident(), there]}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        _, total = torch.cuda.mem_get_info()
        found["device"] = [torch.cuda.max_memory_reserved() + _CONTEXT, total]
    return found
