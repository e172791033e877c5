"""Memory: how much is free, and the peak of this process."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CONTROL_GROUP = Path("/sys/fs/cgroup")
_EVERY = 0.003  # seconds between two samples


def free_bytes() -> int:
    """Return the memory that this process can still use without swapping, in bytes.

    The limit of a container counts, too.
    """
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        most = int((_CONTROL_GROUP / "memory.max").read_text())
        used = int((_CONTROL_GROUP / "memory.current").read_text())
        cached = re.search(r"^inactive_file (\d+)", (_CONTROL_GROUP / "memory.stat").read_text(), re.M)
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free
    return min(free, max(most - used + (int(cached[1]) if cached else 0), 0))


def used_bytes() -> int:
    """Return the resident memory of this process, in bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """Return the largest resident memory that this process has had, in bytes."""
    if _STATUS.exists():  # Linux: `ru_maxrss` would contain the memory of the process that started this one
        kilobytes = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.M)
        if kilobytes:
            return int(kilobytes[1]) * 1024
    import psutil

    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):  # Windows
        return int(info.peak_wset)
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # macOS: in bytes


def peak_of(call: Callable[[], object], device: torch.device) -> int:
    """Return the memory that a call needs at its peak, in addition to the memory before it, in bytes.

    On a CPU a thread samples the process, so a peak of less than some milliseconds can be missed. Memory that
    the process kept from earlier calls is not counted.

    Args:
        call: The call.
        device: The device whose memory is measured.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    before = peak = used_bytes()
    finished = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not finished.wait(_EVERY):
            peak = max(peak, used_bytes())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        call()
    finally:
        peak = max(peak, used_bytes())
        finished.set()
        thread.join()
    return peak - before
