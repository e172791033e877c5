from __future__ import annotations

import json
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from t3d.cli.main import main
from t3d.data.catalog import open_index, open_manifest
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, ManifestError
from t3d.io.locks import alone_in
from t3d.prepare.rewrite import TranscodeSpec
from t3d.prepare.transcode import new_names, transcode_videos
from t3d.video.encode import write_video
from t3d.video.video import Video
from t3d.video.writer import video_writer

pytestmark = pytest.mark.usefixtures("work_here")

SMALL = TranscodeSpec(short_side=48)


@pytest.fixture
def numbered(tmp_path: Path, numbered_frames):
    """Maker of videos of 12 numbered frames of 160 × 96."""

    def make(name: str, *, first: int = 0, frames: int = 12) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_video(path, numbered_frames(frames, height=96, width=160, first=first))

    return make


@pytest.fixture
def videos(tmp_path: Path, numbered) -> Path:
    for at, name in enumerate(("long jump/v_LongJump_g01_c01.avi", "long jump/2.mp4", "run/1.mkv")):
        numbered(f"set/{name}", first=20 * at)
    return tmp_path / "set"


def rows(folder: Path) -> list[dict[str, object]]:
    return pyarrow.parquet.read_table(folder / "index.parquet").to_pylist()


def files(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in paths)


def states(folder: Path) -> dict[str, int]:
    """When each video was written; temporary names left out."""
    names = [name for name in files(folder) if name.endswith(".mp4") and ".part." not in name]
    return {name: (folder / name).stat().st_mtime_ns for name in names}


def test_a_folder_is_mirrored_with_labels_and_sources(videos: Path, tmp_path: Path, read_numbers) -> None:
    manifest = Manifest.from_folder(videos)
    report = transcode_videos(manifest, tmp_path / "out", spec=SMALL, root=videos)
    assert (report.videos, report.files, report.transcoded, report.frames) == (3, 3, 3, 36)
    assert (report.frames_now, report.bad, report.damaged) == (36, (), ())
    assert report.seconds == pytest.approx(36 / 25)
    assert report.size_before == sum(path.stat().st_size for path in videos.rglob("*.*"))
    assert report.size_after == sum(path.stat().st_size for path in tmp_path.glob("out/*/*.mp4"))
    names = ["long jump/2.mp4", "long jump/v_LongJump_g01_c01.mp4", "run/1.mp4"]
    assert files(tmp_path / "out") == sorted(
        [*names, ".transcode.journal", "index.parquet", "transcode.json"]
    )
    assert [row["path"] for row in rows(tmp_path / "out")] == names
    new = open_manifest(str(tmp_path / "out" / "index.parquet"))
    assert new.classes == manifest.classes
    for before, after in zip(manifest, new, strict=True):
        assert after.path == tmp_path / "out" / before.path.relative_to(videos).with_suffix(".mp4")
        assert (after.label, after.source) == (before.label, before.source)
    index = open_index(None, str(tmp_path / "out" / "index.parquet"))
    assert index is not None
    for entry, first in zip(new, (20, 0, 40), strict=True):
        with Video(entry.path, facts=index.facts(entry.path)) as video:
            assert (video.height, video.width) == (48, 80)
            assert read_numbers(video.frames_at(range(12))) == list(range(first, first + 12))


@pytest.mark.usefixtures("videos")
def test_a_file_of_several_rows_is_written_once(tmp_path: Path) -> None:
    table = tmp_path / "spans.csv"
    table.write_text(
        "path,label,start,end,source\nset/run/1.mkv,x,0,0.2,s1\nset/run/1.mkv,y,0.2,0.4,s1\n"
        "set/long jump/2.mp4,,,,s2\n"
    )
    manifest = Manifest.from_csv(table)
    report = transcode_videos(manifest, tmp_path / "out", spec=SMALL)
    assert (report.videos, report.files, report.transcoded, report.frames) == (3, 2, 2, 24)
    new = Manifest.from_index(tmp_path / "out" / "index.parquet")
    assert new.table.drop(["path"]).equals(manifest.table.drop(["path"]))
    assert [str(entry.path.relative_to(tmp_path / "out")) for entry in new] == [
        "run/1.mp4",
        "run/1.mp4",
        "long jump/2.mp4",
    ]


def test_names_that_would_be_the_same_keep_their_endings() -> None:
    assert new_names(["b/two.avi", "b/two.mp4", "c/two.avi"]) == [
        "b/two.avi.mp4",
        "b/two.mp4.mp4",
        "c/two.mp4",
    ]
    assert new_names(["a.avi", "a.mkv", "a.avi.mp4", "b.x.avi"]) == [
        "a.avi.mp4.mp4"
        if name == "a.avi.mp4"
        else f"{name.removesuffix('.avi')}.mp4"
        if name == "b.x.avi"
        else f"{name}.mp4"
        for name in ["a.avi", "a.mkv", "a.avi.mp4", "b.x.avi"]
    ]
    assert new_names(["d.mp4/none", "d.mp4/.hidden"]) == ["d.mp4/none.mp4", "d.mp4/.hidden.mp4"]


def test_files_of_one_name_do_not_overwrite_each_other(tmp_path: Path, numbered, read_numbers) -> None:
    numbered("set/a/1.avi", first=100)
    numbered("set/a/1.mp4", first=200)
    transcode_videos(Manifest.from_folder(tmp_path / "set"), tmp_path / "out", spec=SMALL)
    for name, first in (("1.avi.mp4", 100), ("1.mp4.mp4", 200)):
        with Video(tmp_path / "out" / name) as video:
            assert read_numbers(video.frames_at([0, 11])) == [first, first + 11]


def test_only_changed_files_are_transcoded_again(
    videos: Path, tmp_path: Path, numbered, read_numbers
) -> None:
    out = tmp_path / "out"
    transcode_videos(Manifest.from_folder(videos), out, spec=SMALL, root=videos)
    before, index = states(out), rows(out)
    again = transcode_videos(Manifest.from_folder(videos), out, spec=SMALL, root=videos)
    assert (again.transcoded, again.files, again.frames, again.frames_now) == (0, 3, 36, 0)
    assert states(out) == before
    assert rows(out) == index

    numbered("set/long jump/2.mp4", first=300, frames=20)  # changed
    numbered("set/run/2.mp4", first=400)  # new
    (out / "run" / "1.mp4").write_bytes(b"not what was written")
    changed = transcode_videos(Manifest.from_folder(videos), out, spec=SMALL, root=videos)
    assert (changed.transcoded, changed.files, changed.frames) == (3, 4, 56)
    after = states(out)
    assert [name for name in before if after[name] == before[name]] == ["long jump/v_LongJump_g01_c01.mp4"]
    with Video(out / "long jump" / "2.mp4") as video:
        assert read_numbers(video.frames_at([0, 19])) == [300, 319]
    with Video(out / "run" / "1.mp4") as video:
        assert read_numbers(video.frames_at([0])) == [40]


def test_bad_files_are_reported_and_left_out(videos: Path, tmp_path: Path, numbered) -> None:
    (videos / "run" / "empty.mp4").touch()
    (videos / "run" / "text.mp4").write_text("no video" * 99)
    manifest = Manifest.from_folder(videos)
    report = transcode_videos(manifest, tmp_path / "out", spec=SMALL, root=videos)
    assert [Path(failed.path).name for failed in report.bad] == ["empty.mp4", "text.mp4"]
    assert [failed.reason[:8] for failed in report.bad] == ["is empty", "cannot b"]
    assert (report.videos, report.files, report.transcoded) == (3, 3, 3)
    assert len(Manifest.from_index(tmp_path / "out" / "index.parquet")) == 3
    numbered("set/run/empty.mp4", first=9)
    mended = transcode_videos(manifest, tmp_path / "out", spec=SMALL, root=videos)
    assert (mended.videos, mended.transcoded, len(mended.bad)) == (4, 1, 1)


def test_a_folder_of_other_options_or_other_videos_is_refused(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    transcode_videos(Manifest.from_folder(videos), out, spec=SMALL, root=videos)
    before = states(out), rows(out)
    with pytest.raises(
        ConfigError, match=r"transcode\.json: crf was 20, is 23; use the same options, or choose another"
    ):
        transcode_videos(Manifest.from_folder(videos), out, spec=TranscodeSpec(48, crf=23), root=videos)
    os.rename(videos, tmp_path / "moved")  # noqa: PTH104
    moved = Manifest.from_folder(tmp_path / "moved")
    with pytest.raises(ConfigError, match=r"root was .*set, is .*moved; .* \(if the videos were moved"):
        transcode_videos(moved, out, spec=SMALL, root=tmp_path / "moved")
    assert (states(out), rows(out)) == before
    record = json.loads((out / "transcode.json").read_text())
    (out / "transcode.json").write_text(json.dumps(record | {"root": str(tmp_path / "moved")}))
    assert transcode_videos(moved, out, spec=SMALL, root=tmp_path / "moved").transcoded == 0


def test_folders_that_cannot_serve(videos: Path, tmp_path: Path) -> None:
    manifest = Manifest.from_folder(videos)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(
        ConfigError, match=r"full holds other files \(mine\.txt\); choose a new or empty folder"
    ):
        transcode_videos(manifest, tmp_path / "full")
    with pytest.raises(ConfigError, match=r"mine\.txt is a file; choose a folder"):
        transcode_videos(manifest, tmp_path / "full" / "mine.txt")
    for inside in (videos, videos / "small"):
        with pytest.raises(ConfigError, match="is among the videos"):
            transcode_videos(manifest, inside)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "transcode.json").write_text("[")
    with pytest.raises(ConfigError, match=r"transcode\.json: is not a record"):
        transcode_videos(manifest, tmp_path / "odd")
    with pytest.raises(ConfigError, match="workers is 0"):
        transcode_videos(manifest, tmp_path / "out", workers=0)
    with pytest.raises(ManifestError, match="no video"):
        transcode_videos(manifest.select([]), tmp_path / "out")
    assert files(tmp_path / "full") == ["mine.txt"]


def test_two_runs_do_not_write_to_one_folder(videos: Path, tmp_path: Path) -> None:
    manifest = Manifest.from_folder(videos)
    transcode_videos(manifest, tmp_path / "out", spec=SMALL)
    journal = tmp_path / "out" / ".transcode.journal"
    with alone_in(journal), pytest.raises(ConfigError, match="another run is writing"):
        transcode_videos(manifest, tmp_path / "out", spec=SMALL)


def test_a_torn_journal_line_is_redone_and_a_damaged_one_is_an_error(videos: Path, tmp_path: Path) -> None:
    out, journal = tmp_path / "out", tmp_path / "out" / ".transcode.journal"
    manifest = Manifest.from_folder(videos)
    transcode_videos(manifest, out, spec=SMALL, workers=1)
    index = rows(out)
    lines = [line for line in journal.read_bytes().split(b"\n") if line]
    journal.write_bytes(b"\n".join([lines[0][:50], lines[1], lines[2][:-1]]))
    before = states(out)
    with pytest.raises(
        ConfigError, match=r"\.transcode\.journal: cannot be read .*; remove the damaged line"
    ):
        transcode_videos(manifest, out, spec=SMALL)
    assert states(out) == before
    journal.write_bytes(b"\n".join([lines[1], lines[2][:-1]]))
    assert transcode_videos(manifest, out, spec=SMALL).transcoded == 2
    assert sum(before[name] == mtime for name, mtime in states(out).items()) == 1
    assert [row["frames"] for row in rows(out)] == [row["frames"] for row in index]
    assert transcode_videos(manifest, out, spec=SMALL).transcoded == 0


def test_a_killed_run_is_resumed(tmp_path: Path, numbered, killed_at: Callable[..., None]) -> None:
    for at in range(6):
        numbered(f"set/a/{at}.mp4", first=at, frames=20)
    out = tmp_path / "out"
    words = ["prepare", "transcode", str(tmp_path / "set"), "--out", str(out)]
    words += ["--short-side", "48", "--workers", "2"]
    # The third file has its record in the journal, but not yet its final name.
    killed_at("t3d.io.journal:Journal.add", 3, lambda: main(words), when="after")
    before = states(out)
    assert len(before) == 2
    for name in before:
        with Video(out / name) as video:
            assert len(video) == 20
    assert any(".part." in name for name in files(out))
    assert not (out / "index.parquet").exists()
    manifest = Manifest.from_folder(tmp_path / "set")
    report = transcode_videos(manifest, out, spec=SMALL, root=tmp_path / "set")
    assert (report.files, report.transcoded) == (6, 4)
    after = states(out)
    assert {name: after[name] for name in before} == before
    assert not any(".part." in name for name in files(out))
    assert [row["frames"] for row in rows(out)] == [20] * 6


def test_unfinished_files_of_a_killed_run_are_deleted(videos: Path, tmp_path: Path) -> None:
    half = tmp_path / "out" / "run" / ".01230123012301230123012301230123.part.mp4"
    transcode_videos(Manifest.from_folder(videos), tmp_path / "out", spec=SMALL, root=videos)
    half.write_bytes(b"half")
    transcode_videos(Manifest.from_folder(videos), tmp_path / "out", spec=SMALL, root=videos)
    assert not half.exists()


def test_the_command(videos: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    words = ["prepare", "transcode", str(videos), "--out", str(out), "--short-side", "48", "--workers", "1"]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert f"{out}: 3 files, 36 frames, 0.00 h; " in output
    assert "3 transcoded now in " in output
    assert f"{out}/index.parquet" in output
    (videos / "run" / "empty.mp4").touch()
    assert main(words) == 1
    output = capsys.readouterr().out
    assert "0 transcoded now" in output
    assert f"1 file could not be transcoded:\n  {videos}/run/empty.mp4: is empty (0 bytes)" in output
    assert main([*words, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["files"], report["transcoded"], len(report["bad"])) == (3, 0, 1)
    assert main([*words, "--crf", "30"]) == 2
    assert "crf was 20, is 30" in capsys.readouterr().err


def test_a_single_file(videos: Path, tmp_path: Path, read_numbers, capsys) -> None:
    source = next(path for path in sorted(videos.rglob("*")) if path.is_file())
    # The folder of the file is not searched for videos, so the new ones may be in it.
    for out in (tmp_path / "out", source.parent / "small"):
        assert main(["prepare", "transcode", str(source), "--out", str(out), "--short-side", "48"]) == 0
        assert f"{out}: 1 files, 12 frames" in capsys.readouterr().out
        with Video(source) as old, Video(out / f"{source.stem}.mp4") as new:
            assert read_numbers(new[:]) == read_numbers(old[:])
    assert main(["prepare", "transcode", str(source), "--out", str(source.parent)]) == 2
    assert "is among the videos" in capsys.readouterr().err


@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_the_shape_of_pixels_is_kept(tmp_path: Path, codec) -> None:
    form = {"height": 48, "width": 80, "time_base": Fraction(1, 25), "rate": Fraction(25)}
    with video_writer(tmp_path / "a.mkv", **form, pixel_aspect=Fraction(64, 45)) as writer:
        for tick in range(3):
            writer.add(np.full((48, 80, 3), 99, np.uint8), tick)
    spec = TranscodeSpec(short_side=24, codec=codec)
    transcode_videos(Manifest.from_files([tmp_path / "a.mkv"]), tmp_path / "out", spec=spec)
    assert [row["pixel_aspect"] for row in rows(tmp_path / "out")] == ["64/45"]


def test_a_table_that_grows_keeps_its_names(videos: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "list.csv", tmp_path / "out"
    words = ["prepare", "transcode", str(table), "--out", str(out), "--short-side", "48"]
    table.write_text("path\nset/run/1.mkv\nset/long jump/2.mp4\n")
    assert main(words) == 0
    table.write_text("path\nset/run/1.mkv\n")
    assert main(words) == 0
    assert [row["path"] for row in rows(out)] == ["run/1.mp4"]
    assert sorted(states(out)) == ["long jump/2.mp4", "run/1.mp4"]
    assert main(["prepare", "transcode", str(videos), "--unlabeled", "--out", str(out)]) == 2
