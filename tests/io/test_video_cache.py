"""Videos with a URL: their local copies, on a web server of this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from t3d.errors import ConfigError, ManifestError, VideoError
from t3d.io import video_cache
from t3d.io.video_cache import ensure_local, is_copy, local_path, original
from t3d.video.encode import write_video
from t3d.video.video import Video


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(video_cache.FOLDER, str(tmp_path / "copies"))
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between attempts
    return tmp_path / "copies"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    frames = torch.full((4, 3, 32, 32), 90, dtype=torch.uint8)
    return write_video(tmp_path_factory.mktemp("clip") / "a.mp4", frames).read_bytes()


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a.mp4",
        "http://127.0.0.1:80/a b/ü.mp4",
        "s3://bucket/x/../y.mp4?endpoint_override=localhost%3A9000",
        f"https://example.org/{'long/' * 200}a.mp4?signature={'x' * 900}",
        f"https://example.org/{'x' * (180 - 14)}/.",
        "https://example.org/a//b.mp4#t=1",
    ],
)
def test_a_copy_has_a_name_that_gives_its_url(url: str, home: Path) -> None:
    path = local_path(url)
    assert original(path) == url
    assert is_copy(path)
    assert Path(path).is_relative_to(home)
    assert os.path.normpath(path) == path
    assert max(map(len, Path(path).relative_to(home).parts)) <= 182


def test_the_copies_of_a_file_and_of_a_file_below_it_are_apart(home: Path) -> None:
    one, two = (Path(local_path(f"https://example.org/{name}")) for name in ("a", "a/b"))
    assert one.parent == two.parent == home / "https"


def test_a_file_url_is_the_file(tmp_path: Path) -> None:
    assert local_path((tmp_path / "a b.mp4").as_uri()) == str(tmp_path / "a b.mp4")
    assert not is_copy(local_path("file:///a.mp4"))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("rtsp://example.org/a", "cannot be read from rtsp://; use http://, https://, s3://"),
        ("file://other/a.mp4", "names a file of this machine; write file:///"),
        ("https://example.org", "names no file; give the URL of one video"),
        ("https://[::1/a.mp4", "not a URL"),
    ],
)
def test_other_urls_are_refused(url: str, says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        local_path(url)
    with pytest.raises(VideoError, match=says):
        Video(url)


def test_a_video_is_downloaded_once(site: Any, clip: bytes) -> None:
    site.put("/a.mp4", clip)
    for _ in range(2):
        assert len(Video(site.url("/a.mp4"))) == 4
    assert len(site.asked) == 1


def test_the_same_content_has_the_same_time_of_change(site: Any, clip: bytes) -> None:
    site.put("/a.mp4", clip)
    path = Path(local_path(site.url("/a.mp4")))
    times = []
    for _ in range(2):
        ensure_local(path)
        ensure_local(path)
        times.append(path.stat().st_mtime_ns)
        path.unlink()
    assert times[0] == times[1]
    site.put("/a.mp4", clip + b"\0")
    ensure_local(path)
    assert path.stat().st_mtime_ns != times[0]


@pytest.mark.situation(
    "URLs",
    "An interrupted download",
    "Resumed",
)
def test_an_interrupted_download_is_resumed(site: Any, clip: bytes) -> None:
    site.put("/a.mp4", clip, cuts=[100, 200])
    assert len(Video(site.url("/a.mp4"))) == 4
    assert site.ranges() == [None, "bytes=100-", "bytes=300-"]


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ({"refusals": [404]}, "the server answers 404"),
        ({"refusals": [403]}, "the server answers 403"),
        ({"refusals": [503] * 3}, "the server answers 503 Service Unavailable, after 3 attempts"),
        ({"content": b"  <!DOCTYPE html><p>Log in"}, "sends a web page instead of a video; give the address"),
        ({"content": b'{"error": "quota"}'}, "sends JSON instead of a video"),
        ({"content": b"#EXTM3U\n"}, r"is a playlist of a stream \(HLS or DASH\)"),
        ({"content": b""}, "the server sends an empty file"),
        ({"content": b"x" * 2000, "length": 5000, "ranges": False}, "received 2,000 of the 5,000 bytes"),
        ({"content": b"garbage"}, "cannot be opened by FFmpeg"),
    ],
)
def test_answers_other_than_a_video_are_errors(page: dict[str, Any], says: str, site: Any) -> None:
    site.put("/a.mp4", **page)
    with pytest.raises(VideoError, match=says) as error:
        Video(site.url("/a.mp4?key=secret"))
    if "FFmpeg" not in says:
        assert "/a.mp4?…" in error.value.reason
        assert not Path(local_path(site.url("/a.mp4?key=secret"))).exists()


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    def set_room(size: float) -> None:
        monkeypatch.setenv(video_cache.SIZE, str(size / 1e9))
        monkeypatch.setattr(video_cache, "_free", {})

    monkeypatch.setattr(video_cache, "_IN_USE", -1.0)
    return set_room


def test_the_copy_that_was_not_used_for_longest_is_evicted(
    site: Any, clip: bytes, room: Callable[[float], None]
) -> None:
    room(2.5 * len(clip))
    paths = []
    for name in "abc":
        site.put(f"/{name}.mp4", clip)
        paths.append(Path(local_path(site.url(f"/{name}.mp4"))))
        ensure_local(paths[-1])
        if name == "b":
            os.utime(paths[0], (2, paths[0].stat().st_mtime))
            os.utime(paths[1], (1, paths[1].stat().st_mtime))
            ensure_local(paths[0])  # used again
            unfinished = paths[0].with_name(".x.resume.part")
            unfinished.touch()
            os.utime(unfinished, (0, 0))
    assert [path.exists() for path in paths] == [True, False, True]
    assert unfinished.exists()
    with Video(site.url("/b.mp4")) as video:
        assert len(video) == 4


def test_a_video_larger_than_the_cache_is_refused(
    site: Any, clip: bytes, room: Callable[[float], None]
) -> None:
    site.put("/a.mp4", clip)
    room(len(clip) - 1)
    with pytest.raises(VideoError, match=rf"the limit is {len(clip) - 1:,}, which T3D_VIDEOS_GB sets"):
        Video(site.url("/a.mp4"))
    room(-1)
    with pytest.raises(ConfigError, match=r"T3D_VIDEOS_GB is '-1e-09'; it must be a number of GB"):
        Video(site.url("/a.mp4"))
