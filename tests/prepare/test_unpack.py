"""Archives of image folders: unpacked by a command, refused by all others."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t3d.cli.main import main
from t3d.data.catalog import open_manifest
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ArchiveError, ConfigError, ManifestError, VideoError
from t3d.prepare.unpack import unpack
from t3d.video.video import Video


def jpeg(value: int = 100) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 48, 3), value, dtype=np.uint8)).save(buffer, "jpeg")
    return buffer.getvalue()


NAMES = [f"set/{label}/v{video}/img_{number}.jpg" for label in "ab" for video in (1, 2) for number in (1, 2)]


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:  # stored: FFmpeg finds the pictures in it
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.situation(
    "Image sequences",
    "Archives of folders of frames (zip, tar, rar)",
    "`t3d prepare unpack`; other commands name it and do not read them",
)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_an_archive_of_image_folders_becomes_a_folder_of_videos(
    make: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(make)
    archive = make(
        tmp_path / ("set.zip" if make is make_zip else "set.tar.gz"),
        {name: jpeg() for name in NAMES} | {"__MACOSX/set/a/v1/._img_1.jpg": b"x"},
    )
    for words in (["data", "check"], ["prepare", "index", "--out", "i.parquet"], ["data", "split"]):
        assert main([*words[:2], str(archive), *words[2:]]) == 2
        error = capsys.readouterr().err
        assert (
            f"`t3d prepare unpack {archive} --out {tmp_path}/set`, and give the folder {tmp_path}/set"
            in error
        )
    assert main(["prepare", "unpack", str(archive), "--out", str(tmp_path / "set")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/set: 8 files from 1 of 1 archive",
        f"The folder for other commands: --videos {tmp_path}/set/set",
    ]
    manifest = open_manifest(str(tmp_path / "set/set"))
    assert sorted(str(entry.path.relative_to(tmp_path)) for entry in manifest) == [
        "set/set/a/v1",
        "set/set/a/v2",
        "set/set/b/v1",
        "set/set/b/v2",
    ]
    with Video(next(iter(manifest)).path) as video:
        assert len(video) == 2
    with pytest.raises(ConfigError, match="already exists"):
        unpack(archive, tmp_path / "set")
    with pytest.raises(ManifestError, match=f"--out {tmp_path}/set_unpacked`"):
        open_manifest(str(archive))


def test_a_folder_of_archives_becomes_a_folder_of_videos(tmp_path: Path) -> None:
    source, out = tmp_path / "zips", tmp_path / "new"
    for name in ("a/v1.zip", "a/v2.ZIP", "b/v3.zip"):
        make_zip(source / name, {"1.jpg": jpeg(), "2.jpg": jpeg(50)})
    inner = make_zip(tmp_path / "inner.zip", {"1.jpg": jpeg(), "2.jpg": jpeg(50)}).read_bytes()
    make_zip(source / "c.zip", {"v4.zip": inner, "v5.zip": inner})
    (source / "b/broken.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(ManifestError, match=r"no video.* 2 \.zip; unpack archives with `t3d prepare unpack"):
        Manifest.from_files([source / "a"])
    report = unpack(source, out)
    assert (report.archives, report.unpacked, report.videos) == (5, 4, str(out))
    assert [failed.path for failed in report.bad] == [str(source / "b/broken.zip")]
    names = [str(entry.path.relative_to(out)) for entry in open_manifest(str(out))]
    assert sorted(names) == ["a/v1", "a/v2", "b/v3", "c/v4", "c/v5"]
    make_zip(source / "b/broken.zip", {"1.jpg": jpeg(), "2.jpg": jpeg(50)})
    again = unpack(source, out)
    assert (again.unpacked, again.files, again.bad) == (1, 2, ())


@pytest.mark.parametrize("other", ["a.tar.gz", "a/b.zip"])
def test_two_archives_that_would_fill_one_folder_are_refused(tmp_path: Path, other: str) -> None:
    source, out = tmp_path / "zips", tmp_path / "new"
    make_zip(source / "a.zip", {"1.jpg": jpeg()})
    make_zip(source / other, {"2.jpg": jpeg()})
    with pytest.raises(ConfigError, match=rf"{source}/a\.\S+ and {source}/a\S+ would both fill .*{out}/a;"):
        unpack(source, out)
    assert not out.exists()


def test_an_archive_in_an_archive_next_to_a_folder_of_its_name_is_kept(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "inner.zip", {"1.jpg": jpeg()}).read_bytes()
    archive = make_zip(tmp_path / "set.zip", {"v1.zip": inner, "v1/2.jpg": jpeg(), "v2.zip": inner})
    report = unpack(archive, tmp_path / "new")
    assert [failed.path for failed in report.bad] == [str(tmp_path / "new/v1.zip")]
    assert f"not unpacked, because {tmp_path}/new/v1 exists" in report.bad[0].reason
    files = {path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*.*")}
    assert files == {"v1.zip", "v1/2.jpg", "v2/1.jpg"}


def test_archives_several_levels_deep(tmp_path: Path) -> None:
    files = {"1.jpg": jpeg()}
    for level in range(8):  # level 7 is the archive itself, and 0 and 1 are too deep
        files = {
            f"{level}.zip": make_zip(tmp_path / f"part/{level}.zip", files).read_bytes(),
            "a.jpg": jpeg(),
        }
    report = unpack(make_zip(tmp_path / "set.zip", files), tmp_path / "new")
    assert (tmp_path / "new/7/6/5/4/3/a.jpg").exists()
    (deepest,) = report.bad
    assert deepest.path == str(tmp_path / "new/7/6/5/4/3/2.zip")
    assert "more than 5 archives deep; unpack it yourself" in deepest.reason
    assert report.files == 7  # six images, and the archive that is left


def test_an_archive_is_never_taken_for_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = make_zip(tmp_path / "set/a.zip", {"1.jpg": jpeg(), "2.jpg": jpeg(50)})
    archive.with_name("b.cbz").write_bytes(archive.read_bytes())
    with pytest.raises(VideoError, match=r"is an archive, not a video; unpack it with `t3d prepare unpack"):
        Video(archive)
    with pytest.raises(ManifestError, match="no video in this folder"):
        Manifest.from_files([tmp_path / "set"])
    table = tmp_path / "list.csv"
    table.write_text("path,label\nset/a.zip,x\n")
    assert main(["prepare", "index", str(table), "--out", str(tmp_path / "i.parquet"), "--json"]) == 1
    (bad,) = json.loads(capsys.readouterr().out)["bad"]
    assert "is an archive, not a video" in bad["reason"]


def test_what_cannot_be_unpacked_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "set/a.zip", {"1.jpg": jpeg()})
    with pytest.raises(ArchiveError, match=r"holds more than 1,000 bytes.*allow more with `max_gb`") as error:
        unpack(make_zip(tmp_path / "b.zip", {"1": bytes(2000)}), tmp_path / "new", max_gb=1e-6)
    assert not (tmp_path / "new").exists(), error
    with pytest.raises(ManifestError, match="no such file or folder"):
        unpack(tmp_path / "none.zip", tmp_path / "new")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArchiveError, match=r"no archive in this folder .*zip"):
        unpack(tmp_path / "empty", tmp_path / "new")
    with pytest.raises(ConfigError, match="which holds the archives"):
        unpack(archive.parent, archive.parent)
