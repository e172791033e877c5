"""`t3d timeline`: from a video to segments, with the scores that a prediction has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.device import Compute
from t3d.errors import Failed
from t3d.evaluation.predictor import Predictor
from t3d.evaluation.timeline import Timeline, TimelineConfig
from t3d.models.registry import create_model
from t3d.models.weights import load_model, save_model
from t3d.video.encode import write_video
from t3d.video.video import Video

CLASSES = ("dark", "light")
CLIP = ClipSpec(num_frames=4, stride=1, size=32, resize=32)
SMALL = {"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1}
PLAIN = Compute(precision="fp32", workers=0, batch_size=3)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that tells dark from light frames, and a film: 2 s dark, 3 s light, 1 s dark, at 8 frames/s."""
    root = tmp_path_factory.mktemp("site")
    levels = [20] * 16 + [220] * 24 + [20] * 8
    frames = torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 40)
    write_video(root / "film.mp4", frames.contiguous(), fps=8)
    for name, level in (("dark", 20), ("light", 220)):
        write_video(root / f"{name}.mp4", torch.full((8, 3, 32, 40), level, dtype=torch.uint8), fps=8)
    torch.manual_seed(0)
    net = create_model("densenet3d_tiny", num_classes=2, options=SMALL)
    card = ModelCard("densenet3d_tiny", SMALL, classes=CLASSES, clip=CLIP)
    model = root / "net.safetensors"
    save_model(net, model, card=card)
    dark, light = (Predictor(model, compute=PLAIN).embed(root / f"{name}.mp4") for name in CLASSES)
    weight = torch.stack([dark - light, light - dark]) * 6 / (light - dark).square().sum()
    net, _ = load_model(model)
    net.get_classifier().load_state_dict({"weight": weight, "bias": -weight @ (dark + light) / 2})
    save_model(net, model, card=card)
    return root


def test_the_segments_of_a_film(site: Path) -> None:
    predictor = Predictor(site / "net.safetensors", compute=PLAIN)
    (timeline,) = predictor.timelines(site / "film.mp4", TimelineConfig(window=0))
    assert isinstance(timeline, Timeline)
    segments = [(each.label, each.start, each.end) for each in timeline.segments]
    assert segments == [("dark", 0.0, 2.0), ("light", 2.0, 5.0), ("dark", 5.0, 6.0)]
    predictor.per_clip = True
    clips = predictor(site / "film.mp4").per_clip
    assert clips is not None
    assert [clip.start for clip in clips] == timeline.edges[:-1].tolist()
    for clip, probs in zip(clips, timeline.probs, strict=True):
        np.testing.assert_array_equal(sorted(clip.probs), sorted(probs))


def test_the_command(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film, model = str(site / "film.mp4"), str(site / "net.safetensors")
    words = ["timeline", model, film, "--window", "0", "--workers", "0", "--precision", "fp32"]
    assert main([*words, "--background", "dark", "--save", str(tmp_path / "a.vtt")]) == 0
    assert "a.vtt: 1 segment\n" in capsys.readouterr().out
    assert "00:00:02.000 --> 00:00:05.000\nlight" in (tmp_path / "a.vtt").read_text()
    assert main(words) == 0
    assert "dark 0:03.000, light 0:03.000 of 0:06.000" in " ".join(capsys.readouterr().out.split())
    (site / "broken.mp4").write_text("no video")
    assert main([*words, str(site / "broken.mp4"), "--json"]) == 1
    shown = capsys.readouterr()
    (line,) = shown.out.splitlines()
    assert [each["label"] for each in json.loads(line)["segments"]] == ["dark", "light", "dark"]
    assert "broken.mp4: cannot be opened by FFmpeg" in shown.err


def test_a_broken_video_is_reported_where_it_was_given(site: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_text("no video")
    predictor = Predictor(site / "net.safetensors", compute=PLAIN)
    kinds = [type(each) for each in predictor.timelines([tmp_path / "broken.mp4", site / "film.mp4"])]
    assert kinds == [Failed, Timeline]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--save", "a.txt"], "a.txt: a timeline is written as .csv, .json, .srt, .vtt or .png"),
        (["--background", "Dark"], "background: the model has no class 'Dark'; did you mean 'dark'?"),
        (["--low", "0.9"], "--low is 0.9; it must be at least 0 and at most the threshold, 0.5"),
        (["other.mp4", "--save", "a.srt"], "--save is a.srt, and 2 videos are given; one file holds"),
    ],
)
def test_mistakes(site: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["timeline", str(site / "net.safetensors"), str(site / "film.mp4"), *words]) == 2
    assert message in capsys.readouterr().err


def test_an_annotated_video(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film, model, out = str(site / "film.mp4"), str(site / "net.safetensors"), tmp_path / "a.mp4"
    words = ["predict", model, film, "--workers", "0", "--precision", "fp32"]
    assert main(words) == 0
    plain = capsys.readouterr().out
    assert main([*words, "--save", str(out)]) == 0
    shown = capsys.readouterr()
    assert shown.out == plain
    assert "a.mp4: 48 frames, no sound" in shown.err
    with Video(film) as old, Video(out) as new:
        assert new.times.tolist() == old.times.tolist()
    assert main([*words, "--save", str(out)]) == 2
    assert "a.mp4 already exists; choose another --save, or set --overwrite" in capsys.readouterr().err
    assert main([*words, "--save", str(out), "--overwrite", "--json", "--per-clip"]) == 0
    assert len(json.loads(capsys.readouterr().out)["per_clip"]) == 12
    (site / "broken.mp4").write_text("no video")
    assert main([*words, str(site / "broken.mp4"), "--save", str(tmp_path / "out")]) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["film.mp4"]
    for wrong in (["--save", "a.gif"], ["--overwrite"], ["--save", "a.mp4", "--out", "a.jsonl"]):
        assert main([*words, *wrong]) == 2
