"""Features of videos in a file."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.device import Compute
from t3d.errors import ConfigError, ManifestError
from t3d.evaluation.config import Reading
from t3d.evaluation.predictor import Predictor
from t3d.models.registry import create_model
from t3d.models.weights import save_model
from t3d.transfer import embed
from t3d.transfer.embed import extract_features
from t3d.transfer.feature_table import FeatureTable, key_of, read_features, write_features
from t3d.transfer.features_config import FeaturesConfig
from t3d.video.encode import write_video

COMPUTE = Compute(precision="fp32", workers=0, batch_size=2)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and six videos of two classes, two or three clips each."""
    root = tmp_path_factory.mktemp("features")
    generator = torch.Generator().manual_seed(0)
    for number in range(6):
        path = root / "set" / "ab"[number % 2] / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = torch.randint(0, 256, (8 + 4 * (number % 2), 3, 32, 32), generator=generator)
        write_video(path, frames.to(torch.uint8))
    torch.manual_seed(0)
    spec = ClipSpec(num_frames=4, stride=1, size=32, resize=32)
    card = ModelCard("t3d_tiny", classes=("a", "b"), clip=spec)
    save_model(create_model("t3d_tiny", num_classes=2), root / "net.safetensors", card=card)
    return root


def config(site: Path, out: Path, **options: object) -> FeaturesConfig:
    made = FeaturesConfig(str(site / "net.safetensors"), (str(site / "set"),), out=str(out), compute=COMPUTE)
    return replace(made, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_they_are_the_features_of_the_predictor(site: Path, tmp_path: Path, ending: str) -> None:
    result = extract_features(config(site, tmp_path / f"f.{ending}"))
    table = read_features(result.out)
    assert (result.videos, result.rows, len(table)) == (6, 6, 6)
    assert table.labels.tolist() == ["a"] * 3 + ["b"] * 3
    assert np.isnan(table.start).all()
    predictor = Predictor(site / "net.safetensors", compute=COMPUTE)
    for path, vector in zip(table.paths, table.features, strict=True):
        np.testing.assert_allclose(vector, predictor.embed(str(path)).numpy(), atol=1e-6)
    assert list(tmp_path.iterdir()) == [result.out]


def test_numpy_reads_the_file(site: Path, tmp_path: Path) -> None:
    extract_features(config(site, tmp_path / "f.npz"))
    data = np.load(tmp_path / "f.npz")
    assert data["features"].dtype == np.float32
    assert data["path"][0].endswith("0.mp4")


def test_clips_have_their_times(site: Path, tmp_path: Path) -> None:
    videos = read_features(extract_features(config(site, tmp_path / "v.npz")).out)
    table = read_features(extract_features(config(site, tmp_path / "c.npz", per="clip")).out)
    assert len(table) == 3 * 2 + 3 * 3
    assert table.clip[:4].tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(table.start[:2], [0, 4 / 25], atol=0.01)
    assert (table.end > table.start).all()
    again = table.per_video()
    assert again.paths.tolist() == videos.paths.tolist()
    np.testing.assert_allclose(again.features, videos.features, atol=1e-6)


def test_time_spans_are_rows(site: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    video = site / "set" / "b" / "1.mp4"
    table.write_text(f"path,label,start,end\n{video},x,0,0.2\n{video},y,0.2,\n")
    made = read_features(extract_features(config(site, tmp_path / "f.npz", videos=(str(table),))).out)
    assert made.labels.tolist() == ["x", "y"]
    assert made.start.tolist() == [0, 0.2]
    assert np.isnan(made.end[1])
    assert len(made.per_video()) == 2


def test_flat_folders_and_files_need_no_labels(site: Path, tmp_path: Path) -> None:
    flat, lone = str(site / "set" / "a"), str(site / "set" / "b" / "1.mp4")
    one = read_features(extract_features(config(site, tmp_path / "a.npz", videos=(flat,))).out)
    two = read_features(extract_features(config(site, tmp_path / "b.npz", videos=(flat, lone))).out)
    assert set(one.labels) == {""}
    assert [Path(path).name for path in two.paths] == ["0.mp4", "2.mp4", "4.mp4", "1.mp4"]


def test_an_interrupted_run_computes_only_what_is_missing(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "_PART", 2)
    whole = read_features(extract_features(config(site, tmp_path / "whole.npz")).out)
    asked = config(site, tmp_path / "f.npz")
    calls: list[int] = []
    compute = embed.each_clip

    def stops(function, manifest, *rest, **options):  # type: ignore[no-untyped-def]
        calls.append(len(manifest))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compute(function, manifest, *rest, **options)

    monkeypatch.setattr(embed, "each_clip", stops)
    with pytest.raises(KeyboardInterrupt):
        extract_features(asked)
    assert len(list((tmp_path / "f.npz.parts").glob("*.npz"))) == 2
    assert not Path(asked.out).exists()
    result = extract_features(asked)
    assert len(calls) == 4
    resumed = read_features(result.out)
    np.testing.assert_array_equal(resumed.features, whole.features)
    assert resumed.row.tolist() == list(range(6))
    assert not (tmp_path / "f.npz.parts").exists()
    assert extract_features(asked).complete
    assert len(calls) == 4


def test_parts_of_other_features_are_not_used(site: Path, tmp_path: Path) -> None:
    parts = tmp_path / "f.npz.parts"
    parts.mkdir()
    texts = np.array(["x"])
    other = FeatureTable(
        np.ones((1, 3), np.float32), texts, texts, texts, *np.zeros((2, 1)), *np.zeros((2, 1), int)
    )
    write_features(parts / "000000000.npz", [other], key="z", rows=1, length=3)
    assert extract_features(config(site, tmp_path / "f.npz")).rows == 6


def test_a_file_of_other_features_is_not_replaced(site: Path, tmp_path: Path) -> None:
    out = extract_features(config(site, tmp_path / "f.npz")).out
    before = out.read_bytes()
    with pytest.raises(ConfigError, match=r"f\.npz already exists and holds other features"):
        extract_features(config(site, out, per="clip"))
    assert out.read_bytes() == before
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ConfigError, match="another kind of data"):
        extract_features(config(site, tmp_path / "text.npz"))
    with pytest.raises(ManifestError, match=r"text\.npz: not a file of `t3d features`"):
        read_features(tmp_path / "text.npz")


def test_unreadable_videos_have_no_row(site: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    asked = config(site, tmp_path / "f.npz", videos=(str(site / "set" / "a"), str(broken)))
    with pytest.raises(ManifestError, match="1 of 4"):
        extract_features(asked)
    result = extract_features(replace(asked, reading=Reading(max_bad=0.5)))
    assert (result.videos, result.rows) == (4, 3)
    assert [Path(each.path).name for each in result.bad] == ["broken.mp4"]


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_a_complete_file_names_its_unreadable_videos(site: Path, tmp_path: Path, ending: str) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    asked = config(site, tmp_path / f"f.{ending}", videos=(str(site / "set" / "a"), str(broken)))
    asked = replace(asked, reading=Reading(max_bad=0.5))
    first, again = extract_features(asked), extract_features(asked)
    assert (first.complete, again.complete) == (False, True)
    assert [str(each) for each in again.bad] == [str(each) for each in first.bad] != []
    with pytest.raises(ManifestError, match="1 of 4"):
        extract_features(replace(asked, reading=Reading()))


def test_videos_that_are_repaired_are_read_again(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "_PART", 2)
    files = [shutil.copy(path, tmp_path) for path in sorted((site / "set" / "a").iterdir())]
    third = Path(files[2])
    content, times = third.read_bytes(), (third.stat().st_atime_ns, third.stat().st_mtime_ns)
    third.write_bytes(b"x" * len(content))
    os.utime(third, ns=times)  # same size and time, as of a server that does not answer for a while
    asked = config(site, tmp_path / "f.npz", videos=(*files,))
    with pytest.raises(ManifestError, match="1 of 3"):
        extract_features(asked)
    third.write_bytes(content)
    os.utime(third, ns=times)
    calls: list[int] = []
    compute = embed.each_clip

    def counts(function, manifest, *rest, **options):  # type: ignore[no-untyped-def]
        calls.append(len(manifest))
        return compute(function, manifest, *rest, **options)

    monkeypatch.setattr(embed, "each_clip", counts)
    assert extract_features(asked).rows == 3
    assert calls == [1]  # the other part is kept


def test_changed_files_and_another_frame_rate_are_other_features(site: Path, tmp_path: Path) -> None:
    video = tmp_path / "v.mp4"
    shutil.copy(site / "set" / "a" / "0.mp4", video)
    asked = config(site, tmp_path / "f.npz", videos=(str(video),))
    extract_features(asked)
    assert extract_features(asked).complete
    with pytest.raises(ConfigError, match="holds other features"):
        extract_features(replace(asked, reading=Reading(image_fps=5)))
    shutil.copy(site / "set" / "a" / "2.mp4", video)
    with pytest.raises(ConfigError, match="or videos have changed since"):
        extract_features(asked)


def test_clips_of_several_spans_of_a_file_stay_apart(site: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    one, other = (site / "set" / "b" / f"{number}.mp4" for number in (1, 3))
    table.write_text(f"path,label,start,end\n{one},x,0,0.3\n{other},z,,\n{one},y,0.32,\n")
    asked = config(site, tmp_path / "f.npz", videos=(str(table),), per="clip")
    clips = read_features(extract_features(asked).out)
    videos = clips.per_video()
    assert clips.row.tolist() == sorted(clips.row.tolist())
    assert (videos.labels.tolist(), videos.row.tolist()) == (["x", "z", "y"], [0, 1, 2])
    assert np.isnan(videos.start).tolist() == [False, True, False]
    assert (videos.end[0], videos.start[2]) == pytest.approx((0.32, 0.32), abs=0.01)
    np.testing.assert_allclose(videos.features[0], clips.features[clips.row == 0].mean(0), atol=1e-6)


def test_an_exported_file_has_no_features(site: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"net\.onnx: an exported file computes scores only and has no"):
        extract_features(config(site, tmp_path / "f.npz", model="net.onnx"))


def test_a_teacher(site: Path, tmp_path: Path) -> None:
    asked = config(
        site, tmp_path / "f.npz", model=None, teacher="timm:resnet10t", teacher_weights="random", num_frames=2
    )
    asked = replace(asked, teacher_size=32, stride=1)
    result = extract_features(asked)
    assert (result.rows, result.length) == (6, 512)
    assert key_of(result.out) is not None


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match="there is no model"):
        FeaturesConfig(None, ("a",), out="f.npz")
    with pytest.raises(ConfigError, match=r"only runs/a is given; give the videos"):
        FeaturesConfig("runs/a", out="f.npz")
    with pytest.raises(ConfigError, match=r"written as \.npz"):
        FeaturesConfig("runs/a", ("b",), out="f.csv")
    with_teacher = FeaturesConfig("a", ("b",), out="f.npz", teacher="lite0")
    assert (with_teacher.model, with_teacher.videos) == (None, ("a", "b"))


def test_command(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "features",
        str(site / "net.safetensors"),
        str(site / "set"),
        "--out",
        str(tmp_path / "f.parquet"),
    ]
    words += ["--page", str(tmp_path / "sheet.html"), "--similar", "0.5", "--workers", "0"]
    assert main(words) == 0
    assert "6 rows of" in capsys.readouterr().out
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert "15 pairs of videos have a cosine of at least 0.5" in page
    assert "a/0.mp4" in page
    assert page.count("data:image/webp") == 12
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 6
