"""`t3d explain`: the page, the videos with heat, and mistakes on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.explanation.clips import Box
from t3d.explanation.depths import DepthShare
from t3d.explanation.explainer import explain
from t3d.explanation.pictures import contact_sheet, pictures_of, with_heat
from t3d.explanation.result import ClipExplanation
from t3d.models.registry import create_model
from t3d.models.weights import save_model
from t3d.report.explain_page import depth_bars, video_section
from t3d.report.heat_video import draw_heat, write_heat_video
from t3d.video.encode import write_video
from t3d.video.video import Video

SMALL = {
    "block_config": [1, 1, 1, 1],
    "growth_rate": 4,
    "stem_channels": 8,
    "bottleneck": 1,
    "ttl_channels": 4,
}
SPEC = ClipSpec(num_frames=4, stride=2, size=32, resize=32)
Out = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, two videos of the same name, one that cannot be read, and an exported file."""
    root = tmp_path_factory.mktemp("explain")
    torch.manual_seed(0)
    net = create_model("t3d_tiny", num_classes=2, options=SMALL)
    torch.nn.init.normal_(net.get_classifier().weight)
    save_model(net, root / "net.safetensors", card=ModelCard("t3d_tiny", SMALL, ("run & <jump>", "坐"), SPEC))
    for number, name in enumerate(("a", "b")):
        (root / name).mkdir()
        generator = torch.Generator().manual_seed(number)
        frames = torch.randint(0, 256, (17, 3, 33, 47), dtype=torch.uint8, generator=generator)
        write_video(root / name / "clip.mp4", frames, pixel_format="yuv444p")
    (root / "bad.mp4").write_text("no video")
    (root / "net.onnx").write_text("graph")
    return root


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_a_page_with_all_files(folder: Path, tmp_path: Path, capsys: Out) -> None:
    out = tmp_path / "why"
    words = ["explain", folder / "net.safetensors", folder / "a", folder / "b", "--out", out, "--workers", 0]
    assert run(*words, "--precision", "fp32") == 0
    printed = capsys.readouterr().out
    assert f"page: {out / 'explanation.html'}" in printed
    assert printed.count("transition1, depth 6: ") == 2
    assert sorted(each.name for each in out.iterdir()) == [
        "clip-2-gradcam.mp4",
        "clip-2.png",
        "clip-gradcam.mp4",
        "clip.png",
        "explanation.html",
        "explanation.json",
    ]
    page = (out / "explanation.html").read_text(encoding="utf-8")
    assert len(page) < 3_000_000
    assert "Temporal depths per class" in page
    assert page.count("How long: share of each temporal depth") == 2
    assert "run &amp; &lt;jump&gt;" in page or "坐" in page
    assert "<jump>" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert 'src="data:image/webp' in page
    values = json.loads((out / "explanation.json").read_text(encoding="utf-8"))
    assert [each["files"] for each in values["videos"]] == [
        ["clip.png", "clip-gradcam.mp4"],
        ["clip-2.png", "clip-2-gradcam.mp4"],
    ]
    assert sum(each["videos"] for each in values["classes"]) == 2
    capsys.readouterr()
    assert run("predict", *words[1:4], "--json", "--workers", 0, "--precision", "fp32") == 0
    predicted = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line, each in zip(predicted, values["videos"], strict=True):
        assert each["probability"] == pytest.approx(line["classes"][each["label"]], abs=1e-4)
    assert run(*words) == 2
    assert (
        "explanation.json already exists; choose another --out, or set --overwrite" in capsys.readouterr().err
    )
    assert run(*words, "--overwrite", "--json", "--detailed", 1) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(each["explained_clips"][0]) & {"importance"} for each in lines] == [{"importance"}, set()]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (
            "net.safetensors a --out {tmp} --label jmp",
            2,
            "--label is 'jmp', which is not a class of the model",
        ),
        ("net.safetensors a --out {tmp} --stage block9", 2, "--stage is 'block9'; "),
        ("net.safetensors a --out {tmp} --detailed 0", 2, "--detailed is 0; it must be at least 1"),
        ("net.safetensors a --out {tmp} --most-clips 0", 2, "--most-clips is 0; it must be at least 1"),
        ("net.safetensors a --out bad.mp4", 2, "--out is bad.mp4, which is a file; choose a folder"),
        ("net.safetensors a", 2, "missing: --out"),
        ("net.safetensors absent.mp4 --out {tmp}", 1, "absent.mp4"),
        ("net.onnx a --out {tmp}", 2, "net.onnx: an exported file has no gradients"),
        ("net.safetensors bad.mp4 --out {tmp}", 1, "t3d: no video could be explained"),
        ("net.safetensors a bad.mp4 --out {tmp}", 1, "bad.mp4: "),
    ],
)
def test_mistakes(
    words: str,
    status: int,
    message: str,
    folder: Path,
    tmp_path: Path,
    capsys: Out,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    out = tmp_path / "out"
    assert run("explain", *words.format(tmp=out).split(), "--workers", 0) == status
    assert message in capsys.readouterr().err
    assert (out / "explanation.html").exists() == ("a bad.mp4" in words)


def clip_of(heat: np.ndarray | None, **changes: object) -> ClipExplanation:
    values: dict[str, object] = {
        "number": 0,
        "start": 0.0,
        "end": 0.4,
        "probability": 0.5,
        "score": 1.0,
        "times": np.array([0.0, 0.1, 0.2, 0.3]),
        "frames": np.full((4, 8, 8, 3), 100, np.uint8),
        "box": Box(0.25, 0.0, 0.5, 1.0),
        "heat": heat,
    }
    return ClipExplanation(**{**values, **changes})  # type: ignore[arg-type]


def test_heat_is_drawn_where_the_network_looks() -> None:
    heat = np.zeros((4, 8, 8), np.float32)
    heat[2, :4, :4] = 1
    image = np.full((40, 60, 3), 100, np.uint8)
    draw_heat(image, clip_of(heat), 0.25)
    assert (image[:10] == 45).all()  # above the box: darkened
    assert (image[30:] == 45).all()
    assert (image[11:18, 1:25] != 100).any(axis=2).all()
    assert (image[22:29, 35:] == 100).all()
    calm = np.full((40, 60, 3), 100, np.uint8)
    draw_heat(calm, clip_of(heat), 0.15)  # heat 0 in this frame
    assert (calm[10:30] == 100).all()
    plain = np.full((40, 60, 3), 100, np.uint8)
    draw_heat(plain, clip_of(None), 0.25)
    assert (plain[10:30] == 100).all()


def test_no_heat_leaves_the_picture_unchanged() -> None:
    images = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    assert np.array_equal(with_heat(images, np.zeros((1, 4, 4), np.float32)), images)
    hot = with_heat(images, np.ones((1, 4, 4), np.float32))
    assert (hot[..., 0] > 150).all()


def test_the_video_with_heat_shows_the_explained_clips(folder: Path, tmp_path: Path) -> None:
    result = explain(folder / "net.safetensors", folder / "a" / "clip.mp4")
    file = write_heat_video(result, tmp_path / "out.mp4")
    with Video(file) as video, Video(result.path) as source:
        assert len(video) == 16  # two clips of 4 frames, every second frame of 17
        assert (video.height, video.width) == (34, 48)
        assert np.diff(video.times) == pytest.approx(np.diff(source.times)[:15])


def test_a_video_of_one_frame(folder: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "one.mp4", torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    result = explain(folder / "net.safetensors", tmp_path / "one.mp4")
    clips = tuple(replace(clip, end=clip.start) for clip in result.clips)  # as of a file without durations
    with Video(write_heat_video(replace(result, clips=clips), tmp_path / "out.mp4")) as video:
        assert len(video) == 1


def test_pictures_of_a_clip() -> None:
    clip = clip_of(None)
    assert [time for time, _ in pictures_of(clip, 2)] == [0.0, 0.3]
    assert len(pictures_of(clip, 50)) == 4


def test_bars_of_depths() -> None:
    bars = depth_bars([DepthShare("transition1", 1, 2.0, 0.8), DepthShare("transition1", 6, -0.5, -0.2)])
    assert [(bar.name, bar.value, bar.negative) for bar in bars] == [
        ("transition1, depth 1", 1.0, False),
        ("transition1, depth 6", 0.25, True),
    ]
    assert bars[1].text == "-0.50 (-20% of transition1), against the class"


def test_bars_say_how_long_a_depth_is(folder: Path) -> None:
    result = explain(folder / "net.safetensors", folder / "a" / "clip.mp4")
    frame = float(np.diff(result.clips[0].times)[0])
    assert result.step_seconds["transition1"] == pytest.approx(2 * frame)  # 4 frames become 2 steps
    bars = depth_bars([DepthShare("transition1", depth, 2.0, 0.5) for depth in (1, 6)], {"transition1": 0.16})
    assert [bar.text for bar in bars] == [
        "+2.00 (50% of transition1); 1 step of 0.16 s",
        "+2.00 (50% of transition1); 6 steps of 0.16 s, about 1 s",
    ]


def test_the_section_of_another_class(folder: Path) -> None:
    first = explain(folder / "net.safetensors", folder / "a" / "clip.mp4")
    other = next(name for name in first.prediction.classes if name != first.label)
    section = video_section(explain(folder / "net.safetensors", folder / "a" / "clip.mp4", label=other))
    assert ("class", other) in section.figures
    assert ("predicted", f"{first.label} {first.probability:.1%}") in section.figures
    assert section.name == "a/clip.mp4"
    assert contact_sheet(first.clips).size == (4 * 36 - 4, 2 * 36 - 4)
