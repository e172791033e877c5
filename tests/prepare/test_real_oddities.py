"""Real oddities through index, shards and rewriting: what is found in the files themselves stays."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

from t3d.data.catalog import open_manifest
from t3d.data.index import VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.errors import VideoError
from t3d.prepare.index import index_videos
from t3d.prepare.rewrite import TranscodeSpec, rewrite
from t3d.prepare.shards import write_shards
from t3d.video.facts import VideoFacts
from t3d.video.video import Video

SIZES = [pytest.param(900_000, id="small"), pytest.param(10**9, id="all", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=SIZES)
def manifest(real_data: Path, request: pytest.FixtureRequest) -> Manifest:
    """The odd videos; by default without the 8 largest, which take as long as all others."""
    odd = Manifest.from_files([real_data / "odd_videos"])
    return odd.select([row for row, entry in enumerate(odd) if entry.path.stat().st_size < request.param])


@pytest.fixture(scope="module")
def index(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("odd") / "index.parquet"
    index_videos(manifest, path)
    return path


@pytest.mark.long
@pytest.mark.real
def test_frames_are_the_same_as_without_an_index(manifest: Manifest, index: Path) -> None:
    known = VideoIndex.read(index)
    read = 0
    for entry in manifest:
        slow, fast = outcome(entry.path, None), outcome(entry.path, known)
        if isinstance(slow, str) or isinstance(fast, str):
            assert isinstance(fast, str), entry.path
            assert slow in fast, entry.path
            continue
        read += 1
        assert fast[0] or not slow[0], entry.path  # a few frames may not show all damage
        assert slow[1].tolist() == fast[1].tolist(), entry.path
        assert torch.equal(slow[2], fast[2]), entry.path
    assert read > 50


def outcome(path: Path, index: VideoIndex | None) -> str | tuple[str | None, np.ndarray, torch.Tensor]:
    """Damage, times and some frames of a video, or why it cannot be read."""
    try:
        video = Video(path, facts=index and index.facts(path))
        frames = video.frames_at([len(video) - 1, 0, len(video) // 2])
    except VideoError as error:
        return error.reason
    return video.damage, video.times, frames


@pytest.mark.long
@pytest.mark.real
def test_they_give_the_same_frames_in_a_shard(tmp_path: Path, manifest: Manifest, index: Path) -> None:
    known = VideoIndex.read(index)
    report = write_shards(manifest, known, tmp_path / "shards", shard_mb=8)
    assert report.files + len(report.bad) == len(manifest)
    assert report.files > 40
    packed = VideoIndex.read(tmp_path / "shards" / "index.parquet")
    sources = {entry.source: entry.path for entry in manifest}
    for entry in open_manifest(str(tmp_path / "shards" / "index.parquet")):
        origin = sources[entry.source]
        with Video(origin, facts=known.facts(origin)) as one:
            numbers = np.unique(np.linspace(0, len(one) - 1, 3).astype(int))
            with Video(entry.path, facts=packed.facts(entry.path)) as two:
                assert np.array_equal(two.times, one.times)
                assert frames_or_reason(two, numbers) == frames_or_reason(one, numbers), origin


def frames_or_reason(video: Video, numbers: np.ndarray) -> object:
    try:
        return hashlib.sha256(video.frames_at(numbers).contiguous().numpy().tobytes()).hexdigest()
    except VideoError as error:
        return error.reason


@pytest.mark.long
@pytest.mark.real
@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_rewritten_they_keep_their_frames_and_times(
    tmp_path: Path, manifest: Manifest, index: Path, codec: str
) -> None:
    done = 0
    rows = {row["path"]: row for row in pyarrow.parquet.read_table(index).to_pylist()}
    for entry in manifest:
        row = rows[str(entry.path)]
        reason = None
        try:
            spec = TranscodeSpec(short_side=32, codec=codec)  # type: ignore[arg-type]
            new = rewrite(entry.path, tmp_path / "new.mp4", spec)
        except VideoError as error:
            reason = error.reason
        assert sorted(tmp_path.glob(".*")) == []
        if reason is not None:
            assert reason == row.get("error") or "two pixels each way" in reason, entry.path
            continue
        if row["places"] is not None:  # frames that cannot be decoded have a number, but no picture to write
            assert new.row["frames"] == sum(place >= 0 for place in row["places"]), entry.path
            continue
        before, after = VideoFacts.of_row(row).table, VideoFacts.of_row(new.row).table
        times = [(table.pts - table.pts[0]) * float(table.time_base) for table in (before, after)]
        assert len(times[0]) == len(times[1]), entry.path
        np.testing.assert_allclose(times[1], times[0], rtol=0, atol=1e-6, err_msg=str(entry.path))
        assert new.row["duration"] == pytest.approx(row["duration"], abs=1e-6), entry.path
        done += 1
    assert done > 50
