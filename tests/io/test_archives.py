from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import random
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from t3d.errors import ArchiveError, ConfigError
from t3d.io import archives as extract
from t3d.io.archives import archive_kind, extract_archive

FILES = {"a/one.txt": b"one", "a/b/two.bin": random.Random(0).randbytes(5000), "ü ñ.txt": b"", "a/..b": b"x"}

Files = dict[str, bytes]


def zipped(files: Files, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def tarred(mode: str) -> Callable[[Files, Path], Path]:
    def write(files: Files, path: Path) -> Path:
        with tarfile.open(path, f"w:{mode}") as file:  # type: ignore[call-overload]
            for name, content in files.items():
                file.addfile(entry(name, size=len(content)), io.BytesIO(content))
        return path

    return write


def entry(name: str, *, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def rarred(files: Files, path: Path) -> Path:
    """A rar of version 3 whose files are stored, as the format is described."""

    def block(kind: int, flags: int, body: bytes) -> bytes:
        rest = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
        return struct.pack("<H", zlib.crc32(rest) & 0xFFFF) + rest

    data = b"Rar!\x1a\x07\x00" + block(0x73, 0, bytes(6))
    for name, content in files.items():
        plain = name.encode("ascii")
        mode = stat.S_IFDIR | 0o755 if name.endswith("/") else stat.S_IFREG | 0o644
        mode = stat.S_IFLNK | 0o777 if name.startswith("link") else mode
        numbers = (len(content), len(content), 3, zlib.crc32(content), 0x58210000, 20, 0x30, len(plain), mode)
        head = struct.pack("<IIBIIBBHI", *numbers)
        data += block(0x74, 0x80E0 if name.endswith("/") else 0x8000, head + plain) + content
    path.write_bytes(data + block(0x7B, 0x4000, b""))
    return path


WRITERS: dict[str, Callable[[Files, Path], Path]] = {
    "zip": zipped,
    "tar": tarred(""),
    "gz": tarred("gz"),
    "bz2": tarred("bz2"),
    "xz": tarred("xz"),
}


def content(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def refused(archive: Path, match: str, **bounds: int) -> None:
    """Check that the archive is refused and leaves no files in or next to its folder."""
    before = sorted(archive.parent.parent.rglob("*"))
    with pytest.raises(ArchiveError, match=match) as caught:
        extract_archive(archive, archive.parent / "refused", **bounds)
    assert str(archive) in str(caught.value)
    assert sorted(archive.parent.parent.rglob("*")) == before


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "inner").mkdir()
    return tmp_path / "inner"


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_archive_is_unpacked_exactly(place: Path, kind: str) -> None:
    archive = WRITERS[kind](FILES, place / "archive")  # the name does not tell the kind
    assert archive_kind(archive) == kind
    assert extract_archive(archive, place / "deep" / "new") == len(FILES)
    assert content(place / "deep" / "new") == FILES
    assert [path.name for path in (place / "deep").iterdir()] == ["new"]


def test_rar(place: Path) -> None:
    pytest.importorskip("rarfile")
    files = {"a/one.txt": b"one", "a/two.bin": FILES["a/b/two.bin"]}
    archive = rarred(files | {"empty/": b""}, place / "a.rar")
    assert extract_archive(archive, place / "new") == 2
    assert content(place / "new") == files
    assert (place / "new" / "empty").is_dir()
    for name, match in (("../x", "below"), ("link", "link or device"), ("-x", "odd name"), ("/x", "below")):
        refused(rarred(files | {name: b"target"}, place / "bad.rar"), match)
    whole = archive.read_bytes()
    for damaged in (whole.replace(b"txtone", b"txttwo"), whole.replace(b"one.", b"two."), whole[:-3000]):
        assert damaged != whole
        (place / "bad.rar").write_bytes(damaged)
        refused(place / "bad.rar", "cannot be unpacked")


def test_rar_in_rar(place: Path) -> None:
    pytest.importorskip("rarfile")
    inner = rarred({"clap/a.avi": b"a"}, place / "clap.rar").read_bytes()
    archive = rarred({"clap.rar": inner, "walk.rar": rarred({"walk/b.avi": b"b"}, place / "x").read_bytes()},
                     place / "a.rar")  # fmt: skip
    assert extract_archive(archive, place / "new", nested=True) == 2
    assert content(place / "new") == {"clap/a.avi": b"a", "walk/b.avi": b"b"}
    outside = rarred({"../../x": b"a"}, place / "x").read_bytes()
    with pytest.raises(ArchiveError, match="below"):
        extract_archive(rarred({"a.rar": outside}, place / "b.rar"), place / "other", nested=True)
    assert not (place / "other").exists()


def test_rar_without_its_package(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rarfile", None)
    refused(rarred({"a": b"a"}, place / "a.rar"), r"pip install 't3d\[rar\]'.*unrar x a.rar")


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("name", ["../x", "a/../../x", "/tmp/x", "a/../x", "//x"])
def test_names_outside(place: Path, kind: str, name: str) -> None:
    refused(WRITERS[kind]({"before": b"1", name: b"2"}, place / "a"), "below the folder|outside|absolute")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_tar_with_links_and_devices(place: Path, kind: bytes) -> None:
    with tarfile.open(place / "a.tar", "w") as file:
        file.addfile(entry("before"))
        file.addfile(entry("odd", kind=kind, link="before"))
    refused(place / "a.tar", "'odd', a link or device")


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_zip_with_links_and_devices(place: Path, mode: int) -> None:
    info = zipfile.ZipInfo("odd")
    info.external_attr = (mode | 0o777) << 16
    with zipfile.ZipFile(place / "a.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    refused(place / "a.zip", "'odd', a link or device")


def test_zip_with_a_password(place: Path) -> None:
    data = bytearray(zipped({"a": b"secret"}, place / "a.zip").read_bytes())
    data[data.index(b"PK\x03\x04") + 6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (place / "a.zip").write_bytes(data)
    refused(place / "a.zip", "encrypted")


@pytest.mark.parametrize("kind", WRITERS)
def test_too_much(place: Path, kind: str) -> None:
    archive = WRITERS[kind]({"a": bytes(60_000), "b": bytes(60_000)}, place / "bomb")
    refused(archive, "more than 100,000 bytes", max_bytes=100_000)
    refused(archive, "more than 1 files", max_files=1)
    assert extract_archive(archive, place / "new", max_bytes=120_000, max_files=2) == 2


def test_a_bomb_by_its_growth(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "SMALL", 10_000)
    bomb = zipped({"a": bytes(1_000_000)}, place / "bomb.zip")
    assert bomb.stat().st_size < 10_000
    refused(bomb, f"more than {max(10_000, 20 * bomb.stat().st_size):,} bytes")


def test_a_header_that_asks_for_memory(place: Path) -> None:
    """A header's own length is read in one piece: a few kilobytes of gzip could ask for gigabytes."""
    header = entry("x", size=1 << 33, kind=tarfile.XHDTYPE).tobuf(tarfile.GNU_FORMAT)
    (place / "a.tar.gz").write_bytes(gzip.compress(header + bytes(100_000)))
    refused(place / "a.tar.gz", "a header of 8,5")


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_cut_short(place: Path, kind: str, share: float) -> None:
    files = {str(number): random.Random(number).randbytes(3000) for number in range(20)}
    whole = WRITERS[kind](files, place / "a").read_bytes()
    length = 20 * (512 + 3072) if kind == "tar" else len(whole)  # after the files, a tar has only padding
    (place / "a").write_bytes(whole[: int(length * share)])
    refused(place / "a", "corrupt|cannot be read")


@pytest.mark.parametrize("at", [1024, 1025, 1300, 1535])
def test_a_tar_cut_between_two_files(place: Path, at: int) -> None:
    whole = tarred("")({"a": b"1", "b": b"2"}, place / "a").read_bytes()
    (place / "a").write_bytes(whole[:at])
    refused(place / "a", "ends before its end marker")


@pytest.mark.parametrize("kind", ["zip", "gz", "bz2", "xz"])
def test_damaged_inside(place: Path, kind: str) -> None:
    data = bytearray(WRITERS[kind]({"a": random.Random(1).randbytes(100_000)}, place / "a").read_bytes())
    for at in range(50_000, 50_100):
        data[at] ^= 0x55
    (place / "a").write_bytes(data)
    refused(place / "a", "corrupt|cannot be read")


@pytest.mark.parametrize("kind", [*WRITERS, "rar"])
def test_any_damage_is_one_kind_of_error(place: Path, kind: str) -> None:
    if kind == "rar":
        pytest.importorskip("rarfile")
    files = {f"folder/{number}.txt": b"content" * number for number in range(5)}
    whole = (WRITERS | {"rar": rarred})[kind](files, place / "a").read_bytes()
    draw = random.Random(kind)
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(draw.choice([1, 2, 10])):
            data[draw.randrange(min(len(data), 4000))] = draw.choice([0, 255, draw.randrange(256)])
        (place / "a").write_bytes(data)
        with contextlib.suppress(ArchiveError):
            extract_archive(place / "a", place / "new")
            shutil.rmtree(place / "new")
        assert [path.name for path in place.iterdir()] == ["a"]


def test_files_that_are_not_archives(place: Path) -> None:
    (place / "page.zip").write_text("<html>not found</html>")
    refused(place / "page.zip", "is not an archive")
    (place / "empty").touch()
    assert archive_kind(place / "empty") is None
    refused(zipped({}, place / "a.zip"), "is not an archive")
    refused(zipped({"folder/": b""}, place / "a.zip"), "the archive is empty")
    for pack in (gzip.compress, bz2.compress, lzma.compress):
        (place / "a.gz").write_bytes(pack(b"a,b\n" * 1000))
        refused(place / "a.gz", "corrupt")


@pytest.mark.parametrize("kind", WRITERS)
def test_one_name_twice(place: Path, kind: str) -> None:
    refused(WRITERS[kind]({"a": b"1", "a/b": b"2"}, place / "x"), "twice")
    refused(WRITERS[kind]({"a": b"1", "./a": b"2"}, place / "x"), "twice")


def test_a_folder_that_is_there_stays(place: Path) -> None:
    (place / "new").mkdir()
    with pytest.raises(ConfigError, match="already exists"):
        extract_archive(zipped(FILES, place / "a.zip"), place / "new")
    assert list((place / "new").iterdir()) == []


def test_leftovers_of_a_killed_run_are_deleted(place: Path) -> None:
    left = place / f".{'0a' * 16}.part"
    (left / "in").mkdir(parents=True)
    (left / "in" / "left").touch()
    for number, path in enumerate((left / "in" / "left", left / "in", left)):
        extract_archive(zipped(FILES, place / "a.zip"), place / f"new{number}")
        assert content(place / f"new{number}") == FILES
        assert left.exists(), "something in it changed just now: another run may be writing it"
        os.utime(path, (0, 0))
    extract_archive(zipped(FILES, place / "a.zip"), place / "new")
    assert not left.exists()


def test_rights_are_those_of_new_files(place: Path) -> None:
    info = entry("a", size=1)
    info.mode = 0o6777
    with tarfile.open(place / "a.tar", "w") as file:
        file.addfile(info, io.BytesIO(b"1"))
    extract_archive(place / "a.tar", place / "new")
    (place / "plain").touch()
    assert (place / "new" / "a").stat().st_mode == (place / "plain").stat().st_mode
