"""The one door from a video file to resized frames, through the decoded cache where there is one.

Training, validation, testing and prediction all ask a `FrameStore`; cached and decoded frames are
bit-identical, so that a cache changes the speed of a run and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from t3d.data.sampling import ClipSpec
from t3d.data.transforms import resize_frames
from t3d.data.video import Video
from t3d.errors import ConfigError
from t3d.files import atomic_path

_FORMAT = 1  # raise it when cached frames would come out differently: old entries are then never read
_CHUNK = 64  # frames decoded and resized at a time, so that a long video does not fill the memory


class Frames(Protocol):
    """The resized frames of one open video."""

    times: npt.NDArray[np.float64]
    """Seconds of each frame from the first one, [N]."""

    def get(self, indices: npt.NDArray[np.int64]) -> torch.Tensor:
        """Frames at these indices, uint8 [T, C, H, W]."""
        ...


class FrameStore:
    """Opens videos as resized frames.

    Args:
        spec: `resize` and `resize_mode` say how frames are resized.
        cache: Folder for decoded frames; None decodes every time.
        cache_gb: Largest size of that folder, in GB. A video that does not fit any more is decoded every
            time; entries that no run has used for longest make room first.

    Raises:
        ConfigError: The cache folder cannot be made.
    """

    def __init__(self, spec: ClipSpec, *, cache: str | None = None, cache_gb: float = 20.0) -> None:
        self.spec = spec
        self.folder = Path(cache) if cache else None
        self.max_bytes = int(cache_gb * 1e9)
        self._entries: dict[str, Path] = {}
        self._begun = time.time()
        self._used = self._trusted = 0
        if self.folder:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"data.cache: the folder {self.folder} cannot be made: {error}") from error

    def open(self, path: Path) -> Frames:
        """Open a video.

        Raises:
            VideoError: It cannot be read.
        """
        entry = self._entry(path)
        if entry is not None and entry.exists():
            return _CachedFrames(entry)
        return _DecodedFrames(path, self.spec)

    def prepare(self, path: Path) -> bool:
        """Decode a video into the cache, unless it is there or no room is left.

        Returns:
            Whether the cache now holds the video.

        Raises:
            VideoError: It cannot be read from its first frame to its last.
        """
        entry = self._entry(path)
        if entry is None:
            return False
        if entry.exists():
            os.utime(entry)
            return True
        with Video(path) as video:
            chunks = [
                resize_frames(video.frames_at(range(i, min(i + _CHUNK, len(video)))), self.spec)
                for i in range(0, len(video), _CHUNK)
            ]
            times = video.times
        frames = torch.cat(chunks).numpy()  # T C H W
        if not self._make_room(frames.nbytes):
            return False
        with atomic_path(entry) as temporary:
            save_file({"frames": frames, "times": times}, temporary)
        return True

    def _entry(self, path: Path) -> Path | None:
        """Where the cache holds this video: named by what the file contains and how frames are resized."""
        if self.folder is None:
            return None
        known = self._entries.get(str(path))
        if known is None:
            digest = hashlib.blake2b(digest_size=16)
            digest.update(json.dumps([_FORMAT, self.spec.resize, self.spec.resize_mode]).encode())
            try:
                with path.open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
            except OSError:
                return None  # opening it as a video will say what is wrong, with the path
            known = self.folder / f"{digest.hexdigest()}.safetensors"
            self._entries[str(path)] = known
        return known

    def _make_room(self, wanted: int) -> bool:
        """Delete the entries unused for longest until `wanted` bytes fit, but none that this run uses."""
        assert self.folder is not None
        # Other processes write too: what was measured is only trusted for a while, and not near the bound.
        self._trusted -= 1
        if self._trusted < 0 or self._used + wanted > 0.9 * self.max_bytes:
            self._used, self._trusted = self._measure_and_evict(wanted), 50
        self._used += wanted
        return self._used <= self.max_bytes

    def _measure_and_evict(self, wanted: int) -> int:
        """Bytes in the folder, once the old entries of other runs have made room."""
        assert self.folder is not None
        files = []
        for entry in os.scandir(self.folder):
            if entry.name.endswith(".safetensors") and not entry.name.startswith("."):
                stat = entry.stat()
                files.append((stat.st_mtime, stat.st_size, entry.path))
        used = sum(size for _, size, _ in files)
        for mtime, size, path in sorted(files):
            if used + wanted <= self.max_bytes or wanted > self.max_bytes or mtime >= self._begun:
                break
            Path(path).unlink(missing_ok=True)
            used -= size
        return used


class _DecodedFrames:
    """Frames that come straight from the file."""

    def __init__(self, path: Path, spec: ClipSpec) -> None:
        self._video = Video(path)
        self._spec = spec
        self.times = self._video.times

    def get(self, indices: npt.NDArray[np.int64]) -> torch.Tensor:
        # A clip that wraps round or holds a frame names frames twice: each is decoded and resized once.
        unique, where = np.unique(indices, return_inverse=True)
        frames = resize_frames(self._video.frames_at(unique.tolist()), self._spec)
        return frames if len(unique) == len(indices) and (where[:-1] < where[1:]).all() else frames[where]


class _CachedFrames:
    """Frames that were decoded before; the file is mapped into memory and only what is asked for is read."""

    def __init__(self, entry: Path) -> None:
        try:
            file: Any = safe_open(entry, framework="pt")
            self.times = file.get_tensor("times").numpy()
            self._frames = file.get_slice("frames")
        except (SafetensorError, OSError) as error:
            raise ConfigError(
                f"data.cache: {entry} is damaged ({error}); delete it and it is made again"
            ) from error

    def get(self, indices: npt.NDArray[np.int64]) -> torch.Tensor:
        first = int(indices.min())
        block: torch.Tensor = self._frames[first : int(indices.max()) + 1]
        return block[torch.from_numpy(indices - first)]
