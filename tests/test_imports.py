"""Modules import nothing that only POSIX has, and options can be read without torch."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import subprocess
import sys
import tomllib
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

import t3d
from t3d.card import ModelCard
from t3d.clip import ClipSpec
from t3d.models.registry import create_model
from t3d.models.weights import save_model
from t3d.video.encode import write_video

Run = Callable[..., subprocess.CompletedProcess[str]]
_SRC = Path(t3d.__file__).parent
_MODULES = sorted(
    ".".join(path.relative_to(_SRC.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in _SRC.rglob("*.py")
    if path.name != "__main__.py"
)


def _import_all_without_posix(sender: Connection) -> None:
    # Other packages import what they need first: on Windows they have other ways.
    import torchvision  # noqa: F401

    for name in [name for name in sys.modules if name.split(".")[0] == "t3d"]:
        del sys.modules[name]
    for name in ("fcntl", "pwd", "grp", "resource", "termios"):
        sys.modules[name] = None  # type: ignore[assignment]
    for name in ("register_at_fork", "fork", "sync", "getuid", "geteuid", "uname", "sched_getaffinity"):
        if hasattr(os, name):
            delattr(os, name)
    try:
        for name in _MODULES:
            importlib.import_module(name)
    except BaseException:
        sender.send(traceback.format_exc())
    else:
        sender.send(None)


def test_every_module_can_be_imported_without_posix_modules() -> None:
    assert "t3d.io.locks" in _MODULES
    assert len(_MODULES) > 100
    context = multiprocessing.get_context("fork")  # this process has imported all other packages
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_import_all_without_posix, args=(sender,))
    process.start()
    sender.close()
    error = receiver.recv()
    process.join()
    assert error is None, error


def test_preparing_and_reading_videos_need_no_torch() -> None:
    """Options and help are read from these modules, or exported models run in them; torch takes seconds."""
    names = ("index", "transcode", "shards", "download", "rewrite")
    program = "import sys; " + "; ".join(f"import t3d.prepare.{name}" for name in names)
    program += "; import t3d.workers.cluster, t3d.evaluation.bulk, t3d.runtime.load, t3d.data.clips.arrays"
    program += ", t3d.models.weights_header, t3d.live.run, t3d.report.annotated"
    program += f"; import {', '.join(name for name in _MODULES if name.startswith('t3d.video.'))}"
    program += "; assert 'torch' not in sys.modules"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]


_HEAVY = "torchvision.models, torch._dynamo, scipy, sklearn, matplotlib, timm, onnxruntime, ray"


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        ("t3d.evaluation.predictor, t3d.evaluation.bulk", f"{_HEAVY}, accelerate, jsonargparse, tensorboard"),
        ("t3d.evaluation.run_test", f"{_HEAVY}, accelerate, tensorboard"),
        ("t3d.training.run", _HEAVY),
        ("t3d.transfer.run", _HEAVY),
        ("t3d.transfer.probe", f"{_HEAVY}, accelerate"),
        ("t3d.transfer.teachers.train", f"{_HEAVY}, torchvision, accelerate"),
        ("t3d.models.convert, t3d.doctor", f"{_HEAVY}, accelerate"),
        ("t3d.demo, t3d.reproduce.run", "torchvision.models, torch._dynamo, sklearn, timm, onnxruntime, ray"),
    ],
)
def test_a_command_starts_without_packages_that_take_seconds(
    run_with_torch: Run, modules: str, forbidden: str
) -> None:
    """They are imported where they are used, if they are."""
    run = run_with_torch(f"import {modules}; import sys; print(*sys.modules)")
    assert run.returncode == 0, run.stderr[-2000:]
    loaded = set(run.stdout.split())
    assert not loaded & set(forbidden.split(", "))
    assert loaded >= set(modules.split(", "))


def test_a_prediction_imports_no_package_that_takes_seconds(run_with_torch: Run, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", np.zeros((20, 3, 32, 48), np.uint8))
    spec = ClipSpec(num_frames=8, stride=1, size=32, resize=32)
    card = ModelCard("t3d_tiny", {}, ("no", "yes"), spec)
    save_model(create_model("t3d_tiny", num_classes=2), tmp_path / "w.safetensors", card=card)
    program = (
        "import sys; from t3d.cli.main import main; "
        "status = main(['predict', *sys.argv[1:]]); print(*sys.modules); sys.exit(status)"
    )
    run = run_with_torch(program, str(tmp_path / "w.safetensors"), str(video))
    assert run.returncode == 0, run.stderr[-2000:]
    prediction, modules = run.stdout.splitlines()
    assert prediction.startswith(str(video))
    assert not set(modules.split()) & set(f"{_HEAVY}, accelerate, tensorboard, sympy".split(", "))


_WITHOUT_OTHER_PACKAGES = """
import sys
import tomllib
for name in sys.argv[1:]:
    sys.modules[name] = None
import tempfile
from pathlib import Path
import torch
import t3d
model = t3d.create_model("t3d_tiny", num_classes=2, options={"growth_rate": 4, "stem_channels": 8})
loss = torch.nn.functional.cross_entropy(model(torch.randn(2, 3, 8, 32, 32)), torch.tensor([0, 1]))
loss.backward()
with torch.no_grad():  # torch's optimizers import torch._dynamo, which takes seconds
    for parameter in model.parameters():
        parameter -= 0.1 * parameter.grad
options = {"growth_rate": 4, "stem_channels": 8}
card = t3d.ModelCard("t3d_tiny", options, classes=("a", "b"), clip=t3d.ClipSpec())
path = Path(tempfile.mkdtemp()) / "weights.safetensors"
t3d.save_model(model, path, card=card)
loaded, _ = t3d.load_model(path)
for name, tensor in model.state_dict().items():
    assert torch.equal(tensor, loaded.state_dict()[name]), name
"""


def test_models_need_torch_numpy_and_safetensors_alone(run_with_torch: Run) -> None:
    """A training step, saving and loading work on a machine that has nothing else."""
    with (_SRC.parents[1] / "pyproject.toml").open("rb") as file:
        required = tomllib.load(file)["project"]["dependencies"]
    packages = {re.split(r"[\[><=]", line)[0] for line in required} - {"torch", "numpy", "safetensors"}
    modules = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn"}
    blocked = [modules.get(package, package.replace("-", "_")) for package in sorted(packages)]
    assert {"av", "pyarrow", "torchvision", "sklearn", "rich"} <= set(blocked)
    run = run_with_torch(_WITHOUT_OTHER_PACKAGES, *blocked)
    assert run.returncode == 0, run.stderr[-2000:]
