"""Peak memory of one model, measured in a process that does nothing else.

`peak_in_child` starts `python -m t3d.bench.child`, which reads a job as JSON and prints the bytes.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from t3d.bench.memory import peak_bytes, used_bytes
from t3d.models.net import VideoNet

# Freed memory is returned immediately, so that the peak contains only memory in use at the same time.
_EXACT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0"}
_TIMEOUT = 600


def peak_in_child(job: dict[str, Any]) -> int | None:
    """Return the bytes that a model and one call need at their peak, without the libraries.

    Args:
        job: `kind` (`torch` or `exported`), `path` of the model, `precision`, `shape` of the clips B C T H W,
            `threads`, `channels_last`, and `train` for a training step, with
            `checkpointing`, the activations that it recomputes: `none`, `layers` or `blocks`.

    Returns:
        Bytes; None if the process failed, for example because memory ran out.
    """
    environment = os.environ | _EXACT
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            [sys.executable, "-m", "t3d.bench.child"],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            env=environment,
            timeout=_TIMEOUT,
            check=False,
        )
        if done.returncode == 0:
            return int(json.loads(done.stdout.splitlines()[-1])["bytes"])
    return None


def measure(job: dict[str, Any]) -> int:
    """Return the bytes that a model and one call need, measured in this process.

    Args:
        job: See `peak_in_child`.
    """
    torch.set_num_threads(job["threads"])
    if job.get("train"):
        importlib.import_module("torch._dynamo")  # optimizers import it
    for name in job.get("modules", ()):
        importlib.import_module(name)
    if job["kind"] == "exported":
        from t3d.runtime.load import load
        from t3d.runtime.openvino_file import openvino_core

        if job["path"].endswith(".xml"):
            openvino_core(Path(job["path"])).get_property("CPU", "FULL_DEVICE_NAME")  # loads its libraries
        else:
            importlib.import_module("onnxruntime")
    _forget_peak()
    before = used_bytes()
    layout = torch.channels_last_3d if job.get("channels_last") else torch.contiguous_format
    clips = torch.zeros(job["shape"]).contiguous(memory_format=layout)
    if job["kind"] == "exported":
        from t3d.device import Compute

        model, _ = load(job["path"], compute=Compute(device="cpu", precision=job["precision"]))
        model(clips)
    else:
        _run_torch(job, clips, layout)
    return peak_bytes() - before


def _run_torch(job: dict[str, Any], clips: torch.Tensor, layout: torch.memory_format) -> None:
    net = torch.load(job["path"], weights_only=False).to(memory_format=layout)  # a file of this benchmark
    bf16 = job["precision"] == "bf16"
    if job.get("train"):
        from t3d.bench.train_step import train_step

        for module in net.modules():
            if isinstance(module, VideoNet):
                module.set_grad_checkpointing(job.get("checkpointing", "none"))
        train_step(net.train(), clips, bf16=bf16)()
        return
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        net.eval()(clips)


def _forget_peak() -> None:
    """Start the peak of this process again, so that it does not contain the import of libraries (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _main() -> None:
    with suppress(OSError):  # if memory runs out, the system ends this process and no other
        Path("/proc/self/oom_score_adj").write_text("1000")
    print(json.dumps({"bytes": measure(json.load(sys.stdin))}))


if __name__ == "__main__":
    _main()
