"""Video inside a shard: a range of bytes in a tar file of many videos (`t3d prepare shards`)."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from t3d.errors import ManifestError, VideoError
from t3d.io.shard_cache import open_shard

_HEADER = tarfile.BLOCKSIZE  # the block before a member's bytes holds its name and size


@dataclass(frozen=True)
class TarMember:
    """Position of a video in a shard.

    Args:
        path: Path of the video: the shard, and the name in it.
        start: Bytes of the shard before the video.
        size: Bytes of the video.

    Example:
        >>> TarMember(Path("shards/000007.tar/000003120-jump.mp4"), 512, 9000).url
        'subfile,,start,512,end,9512,,:file:shards/000007.tar'
    """

    path: Path
    start: int
    size: int

    @property
    def shard(self) -> Path:
        """The tar file."""
        return self.path.parent

    @property
    def url(self) -> str:
        """URL with which FFmpeg reads these bytes only."""
        return f"subfile,,start,{self.start},end,{self.start + self.size},,:file:{os.fspath(self.shard)}"

    def open(self) -> BinaryIO:
        """Open the shard and check that it contains the video. An open shard is not evicted.

        Raises:
            VideoError: The shard is missing, or does not match the index.
            FetchError: The shard is remote and cannot be downloaded.
        """
        try:
            file = open_shard(self.shard)
        except OSError as error:
            raise VideoError(self.path, f"its shard cannot be opened: {error.strerror}") from error
        try:
            file.seek(self.start - _HEADER)
            header = tarfile.TarInfo.frombuf(file.read(_HEADER), "utf-8", "surrogateescape")
            sound = (header.name, header.size) == (self.path.name, self.size)
            sound = sound and os.fstat(file.fileno()).st_size >= self.start + self.size
        except (tarfile.HeaderError, OSError, ValueError):
            sound = False
        if not sound:
            file.close()
            reason = (
                f"is not at its indexed position in {self.shard.name}; the shard is truncated, or the index "
                "belongs to other shards. Copy the whole folder of shards again"
            )
            raise VideoError(self.path, reason)
        return file


def refuse_members(paths: Iterable[str]) -> None:
    """Refuse videos in shards where files are expected.

    Raises:
        ManifestError: One of them is in a shard.
    """
    for path in paths:
        folder = os.path.dirname(path)  # noqa: PTH120 (of a million paths)
        if folder.endswith(".tar") and not os.path.isdir(folder):  # noqa: PTH112
            raise ManifestError(f"{path} is in a shard; give the videos that the shards were made from")
