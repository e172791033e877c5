from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from t3d.cli.main import main
from t3d.data.index import SCHEMA
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, Failed, ManifestError
from t3d.prepare.examine import examine
from t3d.prepare.index import index_videos
from t3d.video.encode import write_video

pytestmark = pytest.mark.usefixtures("work_here")


def film(path: Path, seed: int, *, frames: int = 20, size: int = 32) -> Path:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(frames, 3, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, (images * 255).to(torch.uint8))


@pytest.fixture
def films(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a/1", "a/2", "a/3", "b/1", "b/2")):
        film(tmp_path / "set" / f"{name}.mp4", seed)
    (tmp_path / "set" / "b" / "empty.mp4").touch()
    return tmp_path / "set"


def rows(path: Path) -> list[dict[str, object]]:
    return pyarrow.parquet.read_table(path).to_pylist()


def test_every_file_is_described_once(films: Path, tmp_path: Path) -> None:
    report = index_videos(Manifest.from_folder(films), tmp_path / "index.parquet")
    assert (report.videos, report.files, report.examined) == (6, 6, 6)
    assert report.frames == 100
    assert report.seconds == pytest.approx(4.0)
    assert report.size == sum(path.stat().st_size for path in films.rglob("*.mp4"))
    assert report.bad == (Failed(str(films / "b" / "empty.mp4"), "is empty (0 bytes)"),)
    assert report.damaged == ()
    schema = pyarrow.parquet.read_schema(tmp_path / "index.parquet")
    assert (schema.names, schema.metadata) == (SCHEMA.names, SCHEMA.metadata)
    written = rows(tmp_path / "index.parquet")
    assert [row["path"] for row in written] == [
        f"set/{n}.mp4" for n in ("a/1", "a/2", "a/3", "b/1", "b/2", "b/empty")
    ]
    assert [row["label"] for row in written] == list("aaabbb")
    assert [row["source"] for row in written] == ["a/1", "a/2", "a/3", "b/1", "b/2", "b/empty"]
    for row in written[:5]:
        assert (row["frames"], row["height"], row["width"], row["fps"]) == (20, 32, 32, 25)
        assert (row["codec"], row["rotation"], row["mirrored"], row["counted"]) == ("h264", 0, False, False)
        assert row["key_times"][0] == row["first"] == 0
        assert set(row["key_times"]) <= {512 * frame for frame in range(20)}
        assert len(row["looks"]) == 8
        assert row["steps"] == [512]
        assert row["repeats"] == [19]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.parquet", "set"]


def test_indexed_videos_are_not_decoded_again(films: Path, tmp_path: Path) -> None:
    out = tmp_path / "index.parquet"
    first = index_videos(Manifest.from_folder(films), out)
    before = rows(out)
    again = index_videos(Manifest.from_folder(films), out)
    assert again.examined == 1  # what could not be read is tried again
    assert rows(out) == before
    assert asdict(again) | {"examined": 6} == asdict(first)

    film(films / "a" / "2.mp4", 9, frames=30)
    film(films / "b" / "3.mp4", 10)
    (films / "a" / "1.mp4").unlink()
    film(films / "b" / "empty.mp4", 11)
    changed = index_videos(Manifest.from_folder(films), out)
    assert changed.examined == 3
    assert changed.bad == ()
    frames = {row["path"]: row["frames"] for row in rows(out)}
    assert frames == {
        f"set/{n}.mp4": 30 if n == "a/2" else 20 for n in ("a/2", "a/3", "b/1", "b/2", "b/3", "b/empty")
    }


@pytest.mark.usefixtures("films")
def test_labels_and_spans_come_from_the_manifest_and_facts_from_the_file(tmp_path: Path) -> None:
    table = tmp_path / "spans.csv"
    table.write_text("path,label,start,end\nset/a/1.mp4,x,0,0.4\nset/a/1.mp4,y,0.4,0.8\nset/b/1.mp4,,,\n")
    report = index_videos(Manifest.from_csv(table), tmp_path / "index.parquet")
    assert (report.videos, report.files, report.frames) == (3, 2, 40)
    assert report.duplicates.same == ()
    written = rows(tmp_path / "index.parquet")
    assert [(row["label"], row["start"], row["end"]) for row in written] == [
        ("x", 0, 0.4),
        ("y", 0.4, 0.8),
        (None, None, None),
    ]
    assert written[0]["digest"] == written[1]["digest"] != written[2]["digest"]
    assert Manifest.from_index(tmp_path / "index.parquet").table.equals(Manifest.from_csv(table).table)


def test_a_journal_whose_last_line_is_torn_serves(films: Path, tmp_path: Path) -> None:
    out, journal = tmp_path / "index.parquet", tmp_path / ".index.parquet.journal"
    lines = [json.dumps(examine(str(films / name))) for name in ("a/1.mp4", "a/2.mp4", "a/3.mp4")]
    journal.write_text("\n".join(lines)[:-40])
    assert index_videos(Manifest.from_folder(films), out).examined == 4
    whole = rows(out)
    out.unlink()
    index_videos(Manifest.from_folder(films), out)
    assert rows(out) == whole
    assert not journal.exists()


def test_a_broken_journal_is_an_error(films: Path, tmp_path: Path) -> None:
    (tmp_path / ".index.parquet.journal").write_text("nonsense\n")
    with pytest.raises(ManifestError, match=r"\.index\.parquet\.journal: cannot be read .*; delete it"):
        index_videos(Manifest.from_folder(films), tmp_path / "index.parquet")


def test_a_killed_run_is_resumed(tmp_path: Path, killed_at: Callable[..., None]) -> None:
    for seed in range(9):
        film(tmp_path / "set" / "a" / f"{seed}.mp4", seed, frames=6, size=32)
    out, journal = tmp_path / "index.parquet", tmp_path / ".index.parquet.journal"
    words = ["prepare", "index", str(tmp_path / "set"), "--out", str(out), "--workers", "1"]
    killed_at("t3d.io.journal:Journal.add", 4, lambda: main(words))
    assert not out.exists()
    assert journal.read_bytes().count(b"\n") == 3
    manifest = Manifest.from_folder(tmp_path / "set")
    assert index_videos(manifest, out).examined == 9 - 3
    whole = rows(out)
    out.unlink()
    assert index_videos(manifest, out).examined == 9
    assert rows(out) == whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": "index.csv"}, r"an index is a \.parquet file"),
        ({"workers": 0}, "workers is 0"),
        ({"timeout": 0}, "timeout is 0"),
    ],
)
def test_options_that_cannot_work(films: Path, tmp_path: Path, changes, message) -> None:
    options = {"out": "index.parquet"} | changes
    out = tmp_path / str(options.pop("out"))
    with pytest.raises(ConfigError, match=message):
        index_videos(Manifest.from_folder(films), out, **options)


def test_another_parquet_file_is_not_overwritten(films: Path, tmp_path: Path) -> None:
    out = tmp_path / "index.parquet"
    pyarrow.parquet.write_table(pa.table({"a": [1]}), out)
    with pytest.raises(ManifestError, match="not an index"):
        index_videos(Manifest.from_folder(films), out)
    assert pyarrow.parquet.read_table(out).column_names == ["a"]


def test_the_command(films: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "index.parquet"
    film(films / "b" / "again.mp4", 77)
    (films / "a" / "copy.mp4").write_bytes((films / "b" / "again.mp4").read_bytes())
    assert main(["prepare", "index", str(films), "--out", str(out)]) == 1
    output = capsys.readouterr().out
    assert f"{out}: 8 files, 140 frames, 0.00 h" in output
    assert f"1 file cannot be read:\n  {films}/b/empty.mp4: is empty (0 bytes)" in output
    assert f"1 group of identical files:\n  {films}/a/copy.mp4 = {films}/b/again.mp4" in output
    assert main(["prepare", "index", str(out), "--out", str(out), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["files"], report["examined"], len(report["bad"])) == (8, 1, 1)
    words = ["prepare", "index", str(films), "--out", str(tmp_path / "x.parquet"), "--unlabeled"]
    assert main([*words, "--near-duplicates", "false"]) == 1
    assert "Near-duplicates were not searched for" in capsys.readouterr().out
    assert {row["label"] for row in rows(tmp_path / "x.parquet")} == {None}
