"""A tiny model, films, and servers that run in a process as users start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch

from t3d.card import ModelCard
from t3d.clip import ClipSpec
from t3d.models.registry import create_model
from t3d.models.weights import save_model
from t3d.video.encode import write_video

CLASSES = ("jump", "run, fast", "坐 <b>bold</b>")
"""Names that a page must escape."""


@dataclass
class Served:
    """A running server.

    Args:
        url: Its address, with a slash at the end.
        process: Its process.
        token: The token that visitors need; empty if nobody needs one.
        temporary: Folder for temporary files, which only this server uses.
        error_file: File with its error output.
    """

    url: str
    process: subprocess.Popen[str]
    token: str
    temporary: Path
    error_file: Path

    def client(self, **options: object) -> httpx.Client:
        """Return a client without cookies."""
        return httpx.Client(base_url=self.url, timeout=120, **options)

    def folders(self) -> list[Path]:
        return sorted(self.temporary.glob("t3d-serve-*"))

    def uploads(self) -> list[Path]:
        return [path for folder in self.folders() for path in folder.rglob("*") if path.name == "video"]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose scores differ from video to video, with clips of 8 frames."""
    torch.manual_seed(1)
    net = create_model("t3d_tiny", num_classes=3)
    torch.nn.init.normal_(net.get_classifier().weight, std=1.0)
    path = tmp_path_factory.mktemp("served") / "model.safetensors"
    spec = ClipSpec(num_frames=8, stride=1, size=32, resize=32, tail="pad")
    save_model(net, path, card=ModelCard("t3d_tiny", classes=CLASSES, clip=spec))
    return path


def make_film(path: Path, *, length: int = 30, seed: int = 0, height: int = 64, width: int = 80) -> Path:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (length, 3, 4, 5), generator=generator).float()
    frames = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").to(torch.uint8)
    return write_video(path, frames, fps=10)


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 3 s."""
    return make_film(tmp_path_factory.mktemp("films") / "film.mp4")


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an example whose name a page must escape, and a file that is not one."""
    folder = tmp_path_factory.mktemp("examples")
    make_film(folder / "<i>one & two.mp4", length=20, seed=5)
    (folder / "notes.txt").write_text("secret")
    return folder


def _default_signals() -> None:
    """Undo what a shell or `nohup` does to processes in the background: they ignore some signals."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def start_server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., object]:
    """Start a server in a `with` block: `start_server("--max-mb", "1", environment={})`."""

    @contextmanager
    def start(*options: str, environment: dict[str, str] | None = None) -> Iterator[Served]:
        temporary = tmp_path_factory.mktemp("temporary")
        error_file = temporary / "stderr.txt"
        command = [sys.executable, "-m", "t3d", "serve", str(model), "--port", "0", *options]
        values = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", **(environment or {})}
        with error_file.open("w") as errors:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=values,
                start_new_session=True,
                preexec_fn=_default_signals,
            )
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            assert line.startswith("http://"), error_file.read_text()
            url, _, token = line.partition("?token=")
            yield Served(url, process, token, temporary, error_file)
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                process.stdout.close()

    return start
