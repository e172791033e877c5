"""Write one shard: a tar file in WebDataset format with the unchanged bytes of each video.

Processes start only to run this module, so it imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t3d.errors import VideoError
from t3d.io.files import atomic_path, content_digest
from t3d.io.video_cache import ensure_local


@dataclass(frozen=True)
class Packed:
    """A video to put into a shard.

    Args:
        source: The file.
        key: Name of its members, without the extension.
        digest: Digest of its bytes when it was indexed.
        note: Content of `key.json`.
    """

    source: str
    key: str
    digest: str
    note: str

    @property
    def name(self) -> str:
        """Name of the video in the shard."""
        return self.key + Path(self.source).suffix.lower()


@dataclass(frozen=True)
class ShardTask:
    """A shard to write.

    Args:
        target: The `.tar` file.
        videos: Its videos, in order.
    """

    target: str
    videos: tuple[Packed, ...]


def write_shard(task: ShardTask) -> dict[str, Any]:
    """Write a shard. It appears complete or not at all, and the same videos give the same bytes.

    Each video is a member `key.mp4` (or another extension), followed by `key.json`.

    Returns:
        A record for the journal: `shard`, `bytes` and `sha256` of it, `offsets` (source, name in the shard
        and bytes before it, of each video), `bad` (`path` and `reason` of each video that was left out).

    Raises:
        WriteError: The shard cannot be written.
        OSError: A video can no longer be read.
    """
    offsets: list[tuple[str, str, int]] = []
    bad: list[dict[str, str]] = []
    target = Path(task.target)
    with atomic_path(target) as part:
        with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
            for video in task.videos:
                reason = _unlike(video)
                if reason is not None:
                    bad.append({"path": video.source, "reason": reason})
                    continue
                size = Path(video.source).stat().st_size
                offsets.append((video.source, video.name, tar.offset + tarfile.BLOCKSIZE))
                with Path(video.source).open("rb") as file:
                    tar.addfile(_info(video.name, size), file)
                note = video.note.encode()
                tar.addfile(_info(f"{video.key}.json", len(note)), io.BytesIO(note))
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = part.stat().st_size
    return {"shard": target.name, "bytes": size, "sha256": digest, "offsets": offsets, "bad": bad}


def _unlike(video: Packed) -> str | None:
    """Return why a file is not the indexed one; None if it is."""
    try:
        ensure_local(Path(video.source))
        same = content_digest(Path(video.source)) == video.digest
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except VideoError as error:
        return error.reason
    return None if same else "was changed since it was indexed; run t3d prepare index again"


def _info(name: str, size: int) -> tarfile.TarInfo:
    """Return a member without time and owner, so that the same videos give the same bytes."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info
