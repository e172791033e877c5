from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.data.catalog import open_index, open_manifest
from t3d.data.clips.frames import FrameStore
from t3d.data.index import VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, ManifestError, VideoError
from t3d.prepare.index import index_videos
from t3d.prepare.shards import write_shards
from t3d.video.encode import write_video
from t3d.video.video import Video

pytestmark = pytest.mark.usefixtures("work_here")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, numbered_frames) -> Path:
    """Seven videos of two classes, one file name in both, one of them with dots and a blank."""
    names = ("a/one.mp4", "a/two.b.c.mkv", "a/3.avi", "a/same.mp4", "b/same.mp4", "b/ö ä.mp4", "b/last.mp4")
    folder = tmp_path_factory.mktemp("videos") / "set"
    for at, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, numbered_frames(6 + at, first=20 * at))
    return folder


@pytest.fixture(scope="module")
def indexed(videos: Path) -> tuple[Manifest, VideoIndex]:
    manifest = Manifest.from_folder(videos)
    index_videos(manifest, videos / "index.parquet", workers=1)
    return manifest, VideoIndex.read(videos / "index.parquet")


def by_source(folder: Path) -> dict[str, dict[str, object]]:
    rows = pyarrow.parquet.read_table(folder / "index.parquet").to_pylist()
    return {row["source"]: row for row in rows}


def test_shards_hold_the_bytes_of_the_files_and_their_index_finds_them(tmp_path: Path, indexed) -> None:
    out = tmp_path / "shards"
    report = write_shards(*indexed, out, shard_mb=0.005, workers=1)
    assert report.files == report.videos == 7
    assert report.shards == report.written > 2
    manifest = open_manifest(str(out / "index.parquet"))
    index = open_index(None, str(out / "index.parquet"))
    assert index is not None
    assert manifest.classes == ("a", "b")
    sources = {entry.source: entry for entry in indexed[0]}
    assert sorted(entry.source for entry in manifest) == sorted(sources)
    seen = []
    for entry in manifest:
        origin = sources[entry.source]
        assert entry.label == origin.label
        facts = index.facts(entry.path)
        assert facts is not None
        assert facts.offset is not None
        with entry.path.parent.open("rb") as file:
            file.seek(facts.offset)
            assert file.read(facts.size) == origin.path.read_bytes()
        with Video(entry.path, facts=facts) as got, Video(origin.path) as wanted:
            assert torch.equal(got.frames_at(range(len(got))), wanted.frames_at(range(len(wanted))))
            assert got.times.tolist() == wanted.times.tolist()
        seen.append((entry.path.parent.name, facts.offset))
    assert seen == sorted(seen), "rows are in the order that the videos have in the shards"
    listed = json.loads((out / "shards.json").read_text())["shards"]
    assert listed == {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in out.glob("*.tar")
    }


def test_a_shard_is_what_webdataset_reads(tmp_path: Path, indexed) -> None:
    webdataset = pytest.importorskip("webdataset")
    report = write_shards(*indexed, tmp_path / "shards", shard_mb=0.005, workers=1)
    urls = f"{tmp_path}/shards/{{000000..{report.shards - 1:06}}}.tar"
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    wanted = {entry.path.read_bytes(): (entry.path, entry.source, entry.label) for entry in indexed[0]}
    paths = {}
    for sample in samples:
        note = json.loads(sample["json"])
        (ending,) = (name for name in sample if name != "json" and not name.startswith("__"))
        path, source, label = wanted.pop(sample[ending])
        assert path.name == note["name"]
        assert note["clips"] == [{"label": "ab"[label], "source": source}]
        paths[sample["__key__"]] = path
    assert len(paths) == len(samples) == 7
    assert not wanted


def test_rows_of_one_file_share_its_bytes(tmp_path: Path, videos, indexed) -> None:
    path, other = str(videos / "b" / "last.mp4"), str(videos / "a" / "one.mp4")
    table = {
        "path": [path, path, other],
        "label": [0, None, 1],
        "start": [0.0, 0.2, None],
        "end": [0.2, None, None],
        "source": ["x", "x", "y"],
    }
    manifest = Manifest(("p", "q"), pa.table(table))
    out = tmp_path / "shards"
    report = write_shards(manifest, indexed[1], out, workers=1)
    assert (report.videos, report.files) == (3, 2)
    got = open_manifest(str(out / "index.parquet"))
    spans = sorted(
        (entry.source, entry.start, entry.end, entry.label) for entry in got if entry.source == "x"
    )
    assert spans == [("x", 0.0, 0.2, 0), ("x", 0.2, None, None)]
    assert len({entry.path for entry in got}) == 2


def test_the_same_videos_give_the_same_shards_and_another_seed_another_order(tmp_path: Path, indexed) -> None:
    digests = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        write_shards(*indexed, tmp_path / name, seed=seed, workers=1)
        digests.append((tmp_path / name / "000000.tar").read_bytes())
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_a_finished_folder_stays_as_it_is(tmp_path: Path, indexed) -> None:
    out = tmp_path / "shards"
    write_shards(*indexed, out, shard_mb=0.005, workers=1)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert write_shards(*indexed, out, shard_mb=0.005, workers=1).written == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")} == before
    (out / "000001.tar").write_bytes(b"")
    assert write_shards(*indexed, out, shard_mb=0.005, workers=1).written == 1


def test_killed_at_any_moment_nothing_is_lost_or_half_written(
    tmp_path: Path, videos, indexed, killed_at: Callable[..., None]
) -> None:
    out, whole = tmp_path / "shards", tmp_path / "whole"
    write_shards(*indexed, whole, shard_mb=0.004, workers=1)
    words = ["prepare", "shards", str(videos / "index.parquet")]
    words += ["--out", str(out), "--shard-mb", "0.004", "--workers", "1"]
    moments = (
        ("t3d.io.journal:Journal.add", 1, "before"),  # one shard is there, but not in the journal
        ("t3d.io.journal:Journal.add", 2, "after"),
        ("t3d.prepare.shards:_write", 1, "before"),  # all shards are there, but no index of them
        ("t3d.prepare.shards:_write", 1, "after"),
    )
    for function, call, when in moments:
        killed_at(function, call, lambda: main(words), when=when)
        for path in out.glob("[!.]*.tar"):
            assert path.read_bytes() == (whole / path.name).read_bytes()
    (out / ".01230123012301230123012301230123.part.tar").write_bytes(b"half")
    assert main(words) == 0
    names = {path.name for path in whole.iterdir()}
    assert {path.name for path in out.iterdir()} == names
    for name in names - {".shards.journal", "index.parquet"}:
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert by_source(out) == by_source(whole)


def test_files_that_cannot_go_into_a_shard_are_reported(tmp_path: Path, videos, indexed) -> None:  # noqa: ARG001 (makes the index)
    shutil.copytree(videos, tmp_path / "set")
    manifest = Manifest.from_folder(tmp_path / "set")
    index = VideoIndex.read(videos / "index.parquet", root=tmp_path / "set")
    (tmp_path / "set" / "a" / "one.mp4").write_bytes(b"changed since")
    (tmp_path / "set" / "a" / "3.avi").unlink()
    more = tmp_path / "more.mp4"
    write_video(more, torch.zeros(4, 3, 48, 64, dtype=torch.uint8))
    paths = [*(str(entry.path) for entry in manifest), str(more)]
    report = write_shards(Manifest.from_files(paths), index, tmp_path / "shards", workers=1)
    assert report.files == 5
    reasons = {Path(failed.path).name: failed.reason for failed in report.bad}
    assert "changed since it was indexed" in reasons["one.mp4"]
    assert "No such file" in reasons["3.avi"]
    assert "is not in the index" in reasons["more.mp4"]
    assert len(open_manifest(str(tmp_path / "shards" / "index.parquet"))) == 5


def test_folders_and_lists_that_cannot_serve(tmp_path: Path, videos, indexed) -> None:
    manifest, index = indexed
    out = tmp_path / "shards"
    write_shards(manifest, index, out, workers=1)
    with pytest.raises(
        ConfigError, match=r"shards.json: seed was 0, is 1; use the same options, or choose another"
    ):
        write_shards(manifest, index, out, seed=1, workers=1)
    with pytest.raises(ConfigError, match=r"videos was .*shards are never changed"):
        write_shards(manifest.select(range(3)), index, out, workers=1)
    with pytest.raises(ConfigError, match="holds other files"):
        write_shards(manifest, index, videos, workers=1)
    with pytest.raises(ConfigError, match="shard_mb is 0"):
        write_shards(manifest, index, tmp_path / "new", shard_mb=0, workers=1)
    with pytest.raises(ManifestError, match=r"no video can go into a shard, such as .*is not in the index"):
        write_shards(manifest, VideoIndex.empty(), tmp_path / "new", workers=1)
    again = open_manifest(str(out / "index.parquet"))
    with pytest.raises(ManifestError, match=r"000000.tar/.* is in a shard"):
        write_shards(again, VideoIndex.read(out / "index.parquet"), tmp_path / "new", workers=1)
    assert not (tmp_path / "new").exists()
    assert main(["prepare", "shards", str(videos), "--out", str(tmp_path / "new")]) == 2
    with pytest.raises(ManifestError, match="is in a shard"):
        index_videos(again, tmp_path / "again.parquet", workers=1)


def test_a_shard_that_is_not_the_indexs_is_refused(tmp_path: Path, indexed) -> None:
    out = tmp_path / "shards"
    write_shards(*indexed, out, workers=1)
    store = FrameStore(ClipSpec(4, 1, 32, 32), index=VideoIndex.read(out / "index.parquet"))
    entry = open_manifest(str(out / "index.parquet"))[3]
    whole = (out / "000000.tar").read_bytes()
    assert store.open(entry.path).get(np.arange(2)).shape == (2, 3, 32, 53)

    (out / "000000.tar").write_bytes(whole[512:])
    with pytest.raises(VideoError, match=r"is not at its indexed position in 000000.tar"):
        store.open(entry.path).get(np.arange(2))
    (out / "000000.tar").write_bytes(whole[:5000])
    with pytest.raises(VideoError, match=r"is not at its indexed position in 000000.tar"):
        store.open(entry.path).get(np.arange(2))
    (out / "000000.tar").unlink()
    with pytest.raises(VideoError, match="its shard cannot be opened: No such file"):
        store.open(entry.path).get(np.arange(2))
    with pytest.raises(VideoError, match="no such file"):
        Video(entry.path)
    (out / "000000.tar").write_bytes(whole)
    with pytest.raises(VideoError, match=r"read by the shards' index.parquet"):
        Video(entry.path)


def test_the_cache_of_decoded_frames_takes_videos_of_shards(tmp_path: Path, indexed) -> None:
    out = tmp_path / "shards"
    write_shards(*indexed, out, shard_mb=0.005, workers=1)
    spec = ClipSpec(4, 1, 32, 32)
    index = VideoIndex.read(out / "index.parquet")
    plain, cached = (
        FrameStore(spec, index=index),
        FrameStore(spec, index=index, cache=str(tmp_path / "cache")),
    )
    for entry in open_manifest(str(out / "index.parquet")):
        assert cached.prepare(entry.path)
        wanted = plain.open(entry.path).get(np.arange(5))
        assert torch.equal(cached.open(entry.path).get(np.arange(5)), wanted)
    assert len(list((tmp_path / "cache").iterdir())) == 7


def test_several_folders_of_shards_are_read_as_one_list(tmp_path: Path, indexed) -> None:
    manifest, index = indexed
    write_shards(manifest.select(range(3)), index, tmp_path / "p 1", workers=1)
    write_shards(manifest.select(range(3, 7)), index, tmp_path / "p 2", workers=1)
    name = str(tmp_path / "p*" / "index.parquet")
    both, known = open_manifest(name), open_index(None, name)
    assert known is not None
    assert sorted(entry.source for entry in both) == sorted(entry.source for entry in manifest)
    assert both.classes == ("a", "b")
    labels = {entry.source: entry.label for entry in manifest}
    assert all(entry.label == labels[entry.source] for entry in both)
    for entry in both:
        with Video(entry.path, facts=known.facts(entry.path)) as video:
            assert len(video.frames_at([0])) == 1
    shards = known.shards(both.table["path"].to_pylist())
    assert shards is not None
    assert [path.name for path in shards.paths] == ["000000.tar"] * 2
    with pytest.raises(ManifestError, match=r"q\*/index.parquet: no such file or folder"):
        open_manifest(str(tmp_path / "q*" / "index.parquet"))
    with pytest.raises(ManifestError, match=r"q\*/index.parquet: no such file; `t3d prepare index` writes"):
        open_index(str(tmp_path / "q*" / "index.parquet"))
