"""Videos in object stores (s3, gs): a stand-in for the service keeps its files in memory or on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow.fs as pafs
import pytest
import torch

from t3d.data.catalog import open_manifest
from t3d.errors import FetchError, VideoError
from t3d.io import video_cache
from t3d.io.fetch import Retry, fetch
from t3d.io.remote import TransferError, open_remote
from t3d.io.video_cache import original
from t3d.video.encode import write_video
from t3d.video.video import Video


class Store:
    """Stands in for `pyarrow.fs.FileSystem`, which would ask the service."""

    filesystem: ClassVar[Any] = None
    asked: ClassVar[list[str]] = []

    @classmethod
    def from_uri(cls, url: str) -> tuple[Any, str]:
        cls.asked.append(url)
        return cls.filesystem, url.partition("://")[2].partition("?")[0]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the store's buckets."""
    monkeypatch.setenv(video_cache.FOLDER, str(tmp_path / "copies"))
    monkeypatch.setattr("time.sleep", lambda _: None)
    (tmp_path / "store/bucket/v").mkdir(parents=True)
    Store.asked = []
    Store.filesystem = pafs.SubTreeFileSystem(str(tmp_path / "store"), pafs.LocalFileSystem())
    monkeypatch.setattr(pafs, "FileSystem", Store)
    return tmp_path / "store"


def clip(path: Path, level: int = 90) -> Path:
    return write_video(path, torch.full((4, 3, 32, 32), level, dtype=torch.uint8))


@pytest.mark.situation(
    "URLs",
    "Videos in object stores (`s3://`, `gs://`)",
    "Downloaded once into a bounded cache",
)
@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize("memory", [False, True])
def test_a_list_of_videos_in_a_store(store: Path, tmp_path: Path, scheme: str, memory: bool) -> None:
    clip(store / "bucket/v/a.mp4")
    if memory:
        files = fsspec.filesystem("memory")
        files.pipe("/bucket/v/a.mp4", (store / "bucket/v/a.mp4").read_bytes())
        Store.filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(files))
    url = f"{scheme}://bucket/v/a.mp4"
    (tmp_path / "list.csv").write_text(f"path,label\n{url},x\n")
    (entry,) = open_manifest(str(tmp_path / "list.csv"))
    assert not Store.asked
    for _ in range(2):
        with Video(entry.path) as video:
            assert (len(video), int(video[0].float().mean())) == (4, pytest.approx(90, abs=2))
    assert Store.asked == [url]  # once
    assert original(str(entry.path)) == url


@pytest.mark.usefixtures("store")
def test_what_is_missing_or_a_folder_fails_in_one_attempt() -> None:
    for name, reason in (("none.mp4", "missing"), ("v", "a folder")):
        with pytest.raises(VideoError, match=f"cannot be downloaded: it is {reason}"):
            Video(f"s3://bucket/{name}")
    assert len(Store.asked) == 2  # no further attempts


def test_an_interrupted_download_is_resumed(store: Path) -> None:
    content = os.urandom(1000)
    (store / "bucket/a").write_bytes(content)
    with open_remote("gs://bucket/a", timeout=1) as opened:
        assert (opened.start, opened.size, b"".join(opened.blocks)) == (0, 1000, content)
    with open_remote("gs://bucket/a", offset=600, version=opened.version, timeout=1) as rest:
        assert (rest.start, b"".join(rest.blocks)) == (600, content[600:])
    with open_remote("gs://bucket/a", offset=600, version="1000 1", timeout=1) as other:  # of another time
        assert (other.start, b"".join(other.blocks)) == (0, content)


def test_a_file_that_changes_while_it_is_read_is_not_accepted(store: Path) -> None:
    file = store / "bucket/a"
    file.write_bytes(b"one")
    with open_remote("s3://bucket/a", timeout=1) as opened:
        assert next(opened.blocks) == b"one"
        os.utime(file, ns=(1, 1))
        with pytest.raises(TransferError, match="it changed while it was read"):
            next(opened.blocks)


@pytest.mark.parametrize(
    ("error", "attempts", "reason"),
    [
        (OSError("When reading: AWS Error ACCESS_DENIED\nmore"), 1, "When reading: AWS Error ACCESS_DENIED"),
        (PermissionError("not allowed"), 1, "not allowed"),
        (OSError("curl: timeout"), 3, "curl: timeout"),
    ],
)
def test_errors_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, attempts: int, reason: str
) -> None:
    class Failing:
        def get_file_info(self, _: str) -> None:
            raise error

    monkeypatch.setattr(Store, "filesystem", Failing())
    with pytest.raises(FetchError, match=reason) as caught:
        fetch("s3://bucket/a", tmp_path / "a", retry=Retry(attempts=3))
    assert "more" not in str(caught.value)
    assert len(Store.asked) == attempts


def test_certificates_are_always_verified(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="remove tls_verify_certificates"):
        fetch("s3://bucket/a?tls_verify_certificates=false", tmp_path / "a")
    assert not Store.asked
