from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from t3d.cli.main import main
from t3d.errors import ArchiveError, ConfigError, Failed, FetchError
from t3d.io.locks import alone_in
from t3d.prepare import download as module
from t3d.prepare.download import download
from t3d.prepare.published_files import ELSEWHERE, KNOWN, Part, PublishedSet, RemoteFile

Wait = Callable[[Callable[[], object]], None]
VIDEO = random.Random(0).randbytes(20_000)


def zipped(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name in names:
            file.writestr(name, VIDEO)
    return data.getvalue()


def tarred(*names: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as file:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(VIDEO)
            file.addfile(info, io.BytesIO(VIDEO))
    return data.getvalue()


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t3d.io.fetch.time.sleep", lambda _: None)


@pytest.fixture
def toy(site: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set like the published ones, on loopback: lists, one archive, and many archives in a list."""
    site.put("/toy/train.csv", b"label,youtube_id")
    site.put("/toy/val.csv", b"label,youtube_id")
    site.put("/toy/lists.zip", zipped("lists/train.txt"))
    for number in range(4):
        site.put(f"/toy/val/part_{number}.tar.gz", tarred(f"clip{number}.mp4"))
    links = "".join(f"{site.url(f'/toy/val/part_{number}.tar.gz')}\r\n" for number in range(4))
    site.put("/toy/val/list.txt", links.encode())
    lists = site.pages["/toy/lists.zip"].content
    table = {
        "annotations": Part((RemoteFile(site.url("/toy/train.csv")), RemoteFile(site.url("/toy/val.csv")))),
        "lists": Part(
            (RemoteFile(site.url("/toy/lists.zip"), len(lists), hashlib.sha256(lists).hexdigest()),)
        ),
        "val": Part(links=site.url("/toy/val/list.txt"), size=1000),
        "more": Part((RemoteFile(site.url("/toy/more.mp4")),), asked=True),
    }
    monkeypatch.setitem(KNOWN, "toy", PublishedSet(table, "For nothing but tests.", "lists", "val"))
    return "toy"


WHOLE = [
    "annotations/train.csv",
    "annotations/val.csv",
    "lists/lists/train.txt",
    "val/list.txt",
    *(f"val/part_{number}/clip{number}.mp4" for number in range(4)),
]


def test_a_whole_set(toy: str, tmp_path: Path) -> None:
    report = download(toy, tmp_path / "out")
    assert files(tmp_path / "out") == WHOLE
    assert (tmp_path / "out" / "val" / "part_2" / "clip2.mp4").read_bytes() == VIDEO
    assert (report.files, report.fetched, report.unpacked, report.bad) == (7, 7, 5, ())
    assert report.size > 20_000


def test_again_does_nothing(site: Any, toy: str, tmp_path: Path) -> None:
    download(toy, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    site.asked.clear()
    report = download(toy, tmp_path)
    assert (report.files, report.fetched, report.unpacked, report.size, report.bad) == (7, 0, 0, 0, ())
    assert site.asked == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"parts": ["annotations"]}, ["annotations/train.csv", "annotations/val.csv"]),
        ({"parts": ["lists"], "keep_archives": True}, ["lists.zip", "lists/lists/train.txt"]),
        ({"parts": ["lists"], "unpack": False}, ["lists.zip"]),
    ],
)
def test_parts_and_archives(toy: str, tmp_path: Path, options: dict[str, Any], left: list[str]) -> None:
    for _ in range(2):
        download(toy, tmp_path, **options)
        assert files(tmp_path) == left


def test_downloaded_archives_can_be_unpacked_later(site: Any, toy: str, tmp_path: Path) -> None:
    download(toy, tmp_path, parts=["lists"], unpack=False)
    site.asked.clear()
    report = download(toy, tmp_path, parts=["lists"])
    assert (report.fetched, report.unpacked) == (0, 1)
    assert files(tmp_path) == ["lists/lists/train.txt"]
    assert site.asked == []


def test_optional_parts_are_downloaded_only_on_request(site: Any, toy: str, tmp_path: Path) -> None:
    site.put("/toy/more.mp4", VIDEO)
    download(toy, tmp_path, parts=["more"])
    assert files(tmp_path) == ["more.mp4"]


def test_a_failed_file_is_reported_and_the_others_are_downloaded(site: Any, toy: str, tmp_path: Path) -> None:
    good = site.pages.pop("/toy/val/part_1.tar.gz")
    site.put("/toy/val/part_2.tar.gz", b"<html>gone</html>")
    report = download(toy, tmp_path, parts=["val"])
    assert [failed.path for failed in report.bad] == ["part_1.tar.gz", "part_2.tar.gz"]
    assert "answers 404" in report.bad[0].reason
    assert "is not an archive" in report.bad[1].reason
    assert files(tmp_path / "val") == [
        "list.txt",
        "part_0/clip0.mp4",
        "part_2.tar.gz",
        "part_3/clip3.mp4",
    ]
    site.pages["/toy/val/part_1.tar.gz"] = good
    site.put("/toy/val/part_2.tar.gz", tarred("clip2.mp4"))
    (tmp_path / "val" / "part_2.tar.gz").unlink()
    assert download(toy, tmp_path, parts=["val"]).fetched == 2
    assert files(tmp_path) == [name for name in WHOLE if name.startswith("val/")]


def test_an_unreachable_server_is_not_asked_for_every_file(site: Any, toy: str, tmp_path: Path) -> None:
    for number in range(4):
        site.pages[f"/toy/val/part_{number}.tar.gz"].refusals = [404] * 9
    with pytest.raises(FetchError, match=r"part_0.*answers 404"):
        download(toy, tmp_path, parts=["val"])
    assert len(site.asked) == 4  # the list, and three of its files
    report = download(toy, tmp_path, parts=["annotations", "val"])
    assert report.bad[3] == Failed("part_3.tar.gz", "was not tried, since the 3 files before it failed")


@pytest.mark.parametrize("line", ["http://elsewhere.invalid/a.tar", "/etc/passwd", "file:///etc/passwd", ""])
def test_a_list_may_only_name_what_its_own_server_has(site: Any, toy: str, tmp_path: Path, line: str) -> None:
    site.put("/toy/val/list.txt", line.encode())
    with pytest.raises(FetchError, match="may only name files on"):
        download(toy, tmp_path, parts=["val"])
    assert files(tmp_path) == []


def test_a_list_with_one_name_twice(site: Any, toy: str, tmp_path: Path) -> None:
    site.put("/toy/val/list.txt", f"{site.url('/a/x.tar')}\n{site.url('/b/x.tar')}\n".encode())
    with pytest.raises(FetchError, match=r"names x\.tar twice"):
        download(toy, tmp_path, parts=["val"])


def test_a_list_of_https_files_by_their_http_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def give(_: str, target: Path, **_bounds: object) -> None:
        target.parent.mkdir(parents=True)
        target.write_text("http://a.org/x/1.tar\nhttps://a.org/x/2 ü.tar\n", encoding="utf-8")

    monkeypatch.setattr(module, "fetch", give)
    jobs = module._jobs(tmp_path, "val", Part(links="https://a.org/list.txt"))
    assert [job.file.url for job in jobs] == ["https://a.org/x/1.tar", "https://a.org/x/2 ü.tar"]
    assert [job.folder.name for job in jobs] == ["1", "2 ü"]


def test_no_room(toy: str, site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = shutil.disk_usage(tmp_path)._replace(free=999)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: used)
    with pytest.raises(ConfigError, match=r"has 0\.0 GB free, but val are about"):
        download(toy, tmp_path)
    assert site.asked == []


def test_two_downloads_at_the_same_time(toy: str, tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(ConfigError, match="another run is writing to"):
        download(toy, tmp_path)
    download(toy, tmp_path)


@pytest.mark.parametrize(
    ("path", "body", "left"),
    [
        ("/a%20b.csv", b"x", ["a b.csv"]),
        ("/a.tar.gz?key=1", tarred("c/1.mp4"), ["a/c/1.mp4"]),
        ("/a.ZIP", zipped("c/1.mp4"), ["a/c/1.mp4"]),
        ("/video.mp4", zipped("1"), ["video.mp4"]),  # the name says what it is for
        ("/..%2F..%2Fx.csv", b"x", ["x.csv"]),
    ],
)
def test_a_file_by_its_address(site: Any, tmp_path: Path, path: str, body: bytes, left: list[str]) -> None:
    site.put(urlsplit(path).path, body)
    sha256 = hashlib.sha256(body).hexdigest()
    for _ in range(2):
        download(site.url(path), tmp_path / "out", size=len(body), sha256=sha256)
        assert files(tmp_path / "out") == left
    assert len(site.asked) == 1
    assert files(tmp_path) == [f"out/{name}" for name in left]


@pytest.mark.parametrize("names", [("../out.txt",), ("ok", "/tmp/x")])
def test_an_archive_that_would_write_elsewhere(site: Any, tmp_path: Path, names: tuple[str, ...]) -> None:
    site.put("/a.zip", zipped(*names))
    with pytest.raises(ArchiveError, match=r"below the folder.*It stays; delete it to download it again"):
        download(site.url("/a.zip"), tmp_path / "out")
    assert files(tmp_path) == ["out/a.zip"]


@pytest.mark.parametrize(
    ("what", "options", "match"),
    [
        ("kinetic400", {}, "did you mean 'kinetics400'"),
        ("videos/a.zip", {}, "neither a known data set nor a URL"),
        ("youtube8m", {}, "IDs of YouTube videos, which t3d does not download"),
        ("kinetics700", {}, "kinetics700-2020"),
        ("ucf101", {"parts": ["vidoes"]}, "no part 'vidoes'; did you mean 'videos'"),
        ("ucf101", {"sha256": "0" * 64}, "are for URLs"),
        ("https://a.org/x.tar", {"parts": ["val"]}, "has no parts"),
        ("https://a.org/x.tar", {"sha256": "0" * 32}, "64 hexadecimal digits"),
        ("https://a.org/x.tar", {"sha256": "g" * 64}, "hexadecimal digits"),
        ("https://a.org/", {}, "names no file"),
        ("https://a.org/.hidden", {}, "names no file"),
    ],
)
def test_wrong_words(tmp_path: Path, what: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        download(what, tmp_path, **options)
    assert files(tmp_path) == []


def test_the_table_holds_together() -> None:
    for name, published in KNOWN.items():
        assert published.terms
        for inside in (published.train_list, published.train_videos):
            assert inside.partition("/")[0] in published.parts, name
        for part in published.parts.values():
            assert part.about
            assert bool(part.files) != bool(part.links)
            for url in [part.links] if part.links else [file.url for file in part.files]:
                assert url.startswith("https://")
                assert module._name(url)
            for file in part.files:
                assert file.digest is None or len(file.digest) in (32, 64)
    assert not set(KNOWN) & set(ELSEWHERE)


# --- the command -----------------------------------------------------------------------------------------


def test_the_command(toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "download", toy, "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "Terms: For nothing but tests." in output
    assert "7 of 7 files downloaded" in output
    assert f"t3d train --videos {tmp_path}/lists --root {tmp_path}/val" in output
    assert main(["prepare", "download", toy, "--part", "lists", "val", "--out", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["files"], report["fetched"], report["bad"]) == (5, 0, [])


def test_the_command_says_what_failed(
    site: Any, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del site.pages["/toy/val.csv"]
    assert main(["prepare", "download", toy, "--part", "annotations", "--out", str(tmp_path)]) == 1
    assert "val.csv: http://" in capsys.readouterr().out
    assert main(["prepare", "download", site.url("/none.zip"), "--out", str(tmp_path)]) == 2
    assert "answers 404" in capsys.readouterr().err
    assert main(["prepare", "download", toy]) == 2
    assert "t3d prepare download needs --out" in capsys.readouterr().err
    assert main(["prepare", "download"]) == 2
    assert "needs a data set or a URL" in capsys.readouterr().err


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "download", "--list"]) == 0
    output = capsys.readouterr().out
    for name in (*KNOWN, *ELSEWHERE, *KNOWN["ucf101"].parts):
        assert name in output


def test_a_killed_download_is_resumed(site: Any, tmp_path: Path, wait_until: Wait) -> None:
    body = zipped(*(f"{number}.mp4" for number in range(10)))
    page = site.put("/a.zip", body, hold=60_000)
    command = [sys.executable, "-m", "t3d", "prepare", "download", site.url("/a.zip"), "--out", str(tmp_path)]
    part = tmp_path / ".a.zip.resume.part"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        # A buffer of the process may hold the last 8 KiB.
        wait_until(lambda: running.poll() is not None or (part.exists() and part.stat().st_size >= 50_000))
        running.kill()
    assert running.returncode == -signal.SIGKILL
    left = {".a.zip.resume.part", ".a.zip.resume.part.json", ".a.zip.lock", ".lock"}
    assert {path.name for path in tmp_path.iterdir()} == left
    page.release()
    assert download(site.url("/a.zip"), tmp_path).fetched == 1
    assert site.ranges()[0] is None
    assert str(site.ranges()[1]).startswith("bytes=")
    assert files(tmp_path) == sorted(f"a/{number}.mp4" for number in range(10))
