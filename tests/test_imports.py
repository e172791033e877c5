"""What the modules import: nothing that only POSIX has, and no torch where options are only read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import t3d

_SRC = Path(t3d.__file__).parent
_MODULES = sorted(
    ".".join(path.relative_to(_SRC.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in _SRC.rglob("*.py")
    if path.name != "__main__.py"
)
_IMPORT_ALL = """
import importlib, os, sys
# Other packages import what they need first: on Windows they have other ways.
import accelerate, av, filelock, jsonargparse, matplotlib.pyplot, pebble, pyarrow.dataset, pyarrow.parquet
import rich.progress, sklearn, timm, torch, torch.distributed, torch.utils.data, torchmetrics, torchvision
import multiprocessing.pool, subprocess, tempfile, torch.utils.tensorboard
for name in ("fcntl", "pwd", "grp", "resource", "termios"):
    sys.modules[name] = None
for name in ("register_at_fork", "fork", "sync", "getuid", "geteuid", "uname", "sched_getaffinity"):
    if hasattr(os, name):
        delattr(os, name)
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_every_module_can_be_imported_without_what_windows_lacks() -> None:
    assert "t3d.io.locks" in _MODULES
    assert len(_MODULES) > 100
    run = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, *_MODULES], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]


def test_preparing_videos_is_described_without_torch() -> None:
    """Options and help are read from these modules, and importing torch takes seconds."""
    names = ("index", "transcode", "shards", "download", "rewrite")
    program = "import sys; " + "; ".join(f"import t3d.prepare.{name}" for name in names)
    program += "; import t3d.workers.cluster; assert 'torch' not in sys.modules"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
