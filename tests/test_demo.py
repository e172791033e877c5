from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from t3d import demo
from t3d.cli.main import main
from t3d.data.manifest.manifest import Manifest
from t3d.data.synthetic.scene import ACTIONS
from t3d.training.logging import read_log
from t3d.training.run_folder import RunFolder
from t3d.video.video import Video

_HEADLINE = r"\d+ of 16 videos correct: \d+\.\d% \(95% interval .*\)\. Always answering '.*' would give"


def test_mirroring_is_off_since_left_and_right_are_classes() -> None:
    for quick in (True, False):
        config = demo.demo_config(Path("demo"), init=None, seed=3, quick=quick)
        assert config.augment.flip == 0
        assert demo.transfer_config(Path("demo"), seed=3, quick=quick).augment == config.augment
        assert config.seed == 3
        assert config.overwrite
        assert config.data.val == str(Path("demo/videos/action_val.csv"))


def first_frame(path: Path) -> torch.Tensor:
    with Video(path) as video:
        return video.frames_at([0])


@pytest.mark.slow
def test_the_demo_runs_and_is_repeatable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--quick", "--out", str(out), "--seed", "1"]) == 0
    output = capsys.readouterr().out
    report = out / "report.html"
    assert output.splitlines()[-1] == f"report: {report}"
    for order in demo.ORDERS:
        assert re.search(rf"^after transfer, {order} frames: {_HEADLINE}", output, re.MULTILINE)
    assert re.search(rf"^from scratch, normal frames: {_HEADLINE}", output, re.MULTILINE)
    page = report.read_text(encoding="utf-8")
    assert all(name in page for name in ACTIONS)
    assert "data:image/webp;base64," in page
    assert 'src="http' not in page
    assert len(Manifest.from_csv(out / "videos" / "test.csv")) == 64
    still, clip = (first_frame(out / part / "train/left/left_0000.mp4") for part in ("stills", "videos"))
    assert not torch.equal(still, clip)  # the teacher learns from other scenes
    run, scratch = RunFolder(out / "tuned"), RunFolder(out / "scratch")
    assert [line["kind"] for line in read_log(run.log)].count("val") == 1
    assert run.train_csv.read_text() == scratch.train_csv.read_text()  # the same few labels
    assert len(run.read_videos()[0]) == 16
    assert "from scratch" in page
    assert (out / "test" / "metrics.json").exists()

    videos = {path: path.stat().st_mtime_ns for path in (out / "videos").rglob("*.mp4")}
    weights, first = load_file(run.last), report.stat().st_mtime_ns
    assert main(["demo", "--quick", "--out", str(out), "--seed", "1"]) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "videos").rglob("*.mp4")} == videos
    assert report.stat().st_mtime_ns > first
    again = load_file(run.last)
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())  # the same seed

    assert main(["demo", "--out", str(out)]) == 2
    assert "another spec" in capsys.readouterr().err
