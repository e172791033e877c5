from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from t3d.clip import ClipSpec
from t3d.data.clips.check import open_all, readable, refuse_many
from t3d.data.clips.frames import FrameStore
from t3d.data.manifest.manifest import Manifest
from t3d.errors import Failed, ManifestError, VideoError
from t3d.video.encode import write_video
from t3d.video.video import Video

SPEC = ClipSpec(num_frames=4, stride=2, size=16, resize=16)


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Two good films of each of two classes, two bad ones of the first."""
    for seed, name in enumerate(("a/1", "a/2", "b/1", "b/2")):
        generator = torch.Generator().manual_seed(seed)
        frames = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8, generator=generator)
        (tmp_path / "set" / name[0]).mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / "set" / f"{name}.mp4", frames)
    (tmp_path / "set/a/empty.mp4").touch()
    whole = (tmp_path / "set/a/1.mp4").read_bytes()
    (tmp_path / "set/a/truncated.mp4").write_bytes(whole[: len(whole) // 3])
    return tmp_path / "set"


def table(*rows: tuple[Path, int, float | None, float | None]) -> Manifest:
    paths, labels, starts, ends = zip(*rows, strict=True)
    names = [str(path) for path in paths]
    columns = {"path": names, "label": labels, "start": starts, "end": ends, "source": names}
    return Manifest(("a", "b"), pa.table({key: list(values) for key, values in columns.items()}))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cached", [False, True])
def test_unreadable_videos_are_reported_and_left_out(
    tmp_path: Path, films: Path, workers: int, cached: bool
) -> None:
    cache = str(tmp_path / "cache") if cached else None
    manifest = Manifest.from_folder(films)
    kept, bad, _ = readable(manifest, FrameStore(SPEC, cache=cache), workers=workers, max_bad=0.5)
    assert [Path(video.path).name for video in bad] == ["empty.mp4", "truncated.mp4"]
    assert all(video.reason for video in bad)
    assert [str(manifest[video.row].path) for video in bad] == [video.path for video in bad]
    assert [entry.path.relative_to(films).as_posix() for entry in kept] == [
        "a/1.mp4",
        "a/2.mp4",
        "b/1.mp4",
        "b/2.mp4",
    ]
    assert kept.classes == ("a", "b")
    assert kept.labels.tolist() == [0, 0, 1, 1]
    if cached:
        assert len(list((tmp_path / "cache").iterdir())) == 4


def test_good_videos_are_returned_unchanged(films: Path) -> None:
    manifest = Manifest.from_folder(films)
    good = manifest.select([i for i in range(len(manifest)) if manifest[i].path.name in ("1.mp4", "2.mp4")])
    kept, bad, _ = readable(good, FrameStore(SPEC))
    assert kept is good
    assert bad == []


def test_more_than_the_stated_share_stops_the_run_and_names_them(films: Path) -> None:
    manifest = Manifest.from_folder(films)
    with pytest.raises(
        ManifestError, match=r"2 of 6 videos \(33\.3%\).*data\.max_bad = 0\.33 \(33 %\) allows"
    ) as caught:
        readable(manifest, FrameStore(SPEC), max_bad=0.33)
    assert str(films / "a/empty.mp4") in str(caught.value)
    assert str(films / "a/truncated.mp4") in str(caught.value)
    assert len(readable(manifest, FrameStore(SPEC), max_bad=1 / 3)[1]) == 2


def test_a_class_that_loses_all_its_videos_stops_the_run(films: Path) -> None:
    for name in ("b/1", "b/2"):
        (films / f"{name}.mp4").write_bytes(b"broken")
    with pytest.raises(ManifestError, match=r"(?s)class b has no readable video:\n.*b/1\.mp4: "):
        readable(Manifest.from_folder(films), FrameStore(SPEC), max_bad=1)


def test_a_class_that_had_no_video_loses_none(films: Path) -> None:
    manifest = Manifest.from_folder(films).with_classes(["a", "b", "never filmed"])
    kept, bad, _ = readable(manifest, FrameStore(SPEC), max_bad=1)
    assert len(kept) == 4
    assert len(bad) == 2


def test_without_labels_at_least_one_video_must_be_left(films: Path) -> None:
    broken = Manifest.from_files([films / "a/empty.mp4"])
    with pytest.raises(ManifestError, match="no video can be read:"):
        readable(broken, FrameStore(SPEC), max_bad=1)


def test_a_span_outside_its_video_is_found_before_the_run(films: Path) -> None:
    film = films / "a/1.mp4"  # 12 frames, 25 per second
    manifest = table((film, 0, None, None), (film, 0, 0.1, 0.3), (film, 1, 7.0, 9.0), (film, 1, None, 0.2))
    (bad,) = open_all(manifest, FrameStore(SPEC))
    assert bad.row == 2
    assert "from 7.0 to 9.0 s holds no frame" in bad.reason


def test_videos_too_short_for_a_clip_are_found_where_the_policy_refuses_them(films: Path) -> None:
    manifest = Manifest.from_files([films / "a/1.mp4"])
    long = {"num_frames": 7, "stride": 2, "size": 16, "resize": 16}  # reaches over 13 frames
    assert open_all(manifest, FrameStore(ClipSpec(**long))) == []  # type: ignore[arg-type]
    (bad,) = open_all(manifest, FrameStore(ClipSpec(**long, short="error")))  # type: ignore[arg-type]
    assert "needs 13" in bad.reason


def test_without_a_cache_both_ends_must_decode(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = Video.images_at

    def breaks(self: Video, indices: np.ndarray, **options: Any) -> np.ndarray:
        if 11 in indices:
            raise VideoError(self.path, "the end is damaged")
        return true(self, indices, **options)

    monkeypatch.setattr(Video, "images_at", breaks)
    (bad,) = open_all(Manifest.from_files([films / "a/1.mp4"]), FrameStore(SPEC))
    assert bad.reason == "the end is damaged"


def test_many_bad_videos_are_reported_as_twenty_names_and_a_count() -> None:
    bad = [Failed(f"film{i:02d}.mp4", "broken", i) for i in range(25)]
    with pytest.raises(ManifestError, match=r"raise max_bad:\n") as caught:
        refuse_many(bad, among=100, max_bad=0.24, option="max_bad")
    assert str(caught.value).count("broken") == 20
    assert "and 5 more" in str(caught.value)
    refuse_many(bad, among=100, max_bad=0.25, option="max_bad")
