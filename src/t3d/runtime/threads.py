"""Number of threads that an exported model computes with."""

from __future__ import annotations

import os
import re
import sys


def compute_threads() -> int:
    """Return the number of threads to compute with, or 0 if the runtime decides: one per physical core.

    This is torch's number, also where torch is not imported: what `torch.set_num_threads` set, else
    `OMP_NUM_THREADS`, else the number of physical cores.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    first = re.match(r"\d+", os.environ.get("OMP_NUM_THREADS", "").strip())
    return int(first[0]) if first else 0
