"""A video inside a shard: a run of bytes of a tar file that holds many videos (`t3d prepare shards`)."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from t3d.errors import ManifestError, VideoError
from t3d.io.shard_cache import open_shard

_HEADER = tarfile.BLOCKSIZE  # a member's name and size stand in the block before its bytes


@dataclass(frozen=True)
class TarMember:
    """Where the bytes of a video lie in a shard.

    Args:
        path: How the video is called: the shard, and its name in it.
        start: Bytes of the shard before it.
        size: Its bytes.

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
        """The URL with which FFmpeg reads these bytes only."""
        return f"subfile,,start,{self.start},end,{self.start + self.size},,:file:{os.fspath(self.shard)}"

    def open(self) -> BinaryIO:
        """Open the shard, which stays where it is as long as it is open, and see that it holds the video.

        Raises:
            VideoError: The shard is missing, or is another than the index tells of.
            FetchError: It lies behind a URL and cannot be brought here.
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
                f"is not in {self.shard.name} where the index of the shards says; the shard is cut off, or "
                "the index is of other shards: copy the whole folder once more from where it was made"
            )
            raise VideoError(self.path, reason)
        return file


def refuse_members(paths: Iterable[str]) -> None:
    """Refuse videos in shards where files are wanted.

    Raises:
        ManifestError: One of them lies in a shard.
    """
    for path in paths:
        folder = os.path.dirname(path)  # noqa: PTH120 (of a million paths)
        if folder.endswith(".tar") and not os.path.isdir(folder):  # noqa: PTH112
            raise ManifestError(f"{path} lies in a shard already; give the videos that shards were made of")
