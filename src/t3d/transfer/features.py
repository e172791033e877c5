"""The teacher's features of every n-th frame of a video, on disk: computed once for all epochs and runs.

An entry is named by what the video file contains, by the teacher (weights, input size, normalization) and
by which frames it holds, so that nothing stale is ever read. It is written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch.utils.data import IterableDataset, get_worker_info

from t3d.data.clips.frames import FrameStore
from t3d.data.clips.loader import Loader
from t3d.data.clips.transforms import center_view
from t3d.data.index import VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, Failed, VideoError
from t3d.io.files import ABANDONED, FileDigests, sweep, writable_folder
from t3d.models.weights import write_tensors
from t3d.progress import progress
from t3d.transfer.pairs import Indices
from t3d.transfer.teachers.base import Teacher

_FORMAT = 1  # raise it when features change
_CHUNK = 32  # frames that the teacher sees at a time


class FeatureStore:
    """Reads and makes the features of videos.

    Legend: N frames of a video, G = ceil(N / step) frames with features, D features.

    Args:
        folder: Where the features lie; made where it is missing. `~` is the home folder.
        digest: The teacher's, see `Teacher`.
        step: Every `step`-th frame, from the first, has features.
        index: Index of the files. With it, files are identified without reading them.

    Raises:
        ConfigError: The folder cannot be made or written to.
    """

    def __init__(self, folder: str, *, digest: str, step: int, index: VideoIndex | None = None) -> None:
        self.folder = writable_folder(Path(folder).expanduser(), name="teacher.cache")
        self.digest = digest
        self.step = step
        known = (VideoIndex.empty() if index is None else index).digest
        self._digests = FileDigests(f"{_FORMAT} {digest} {step} ".encode(), known=known)

    def entry(self, path: Path) -> Path:
        """The file that holds a video's features, whether it exists or not.

        Raises:
            VideoError: The video cannot be read.
        """
        try:
            return self.folder / f"{self._digests(path)}.safetensors"
        except OSError as error:
            raise VideoError(path, f"cannot be read: {error.strerror}") from error

    def get(self, path: Path, frames: Indices) -> torch.Tensor:
        """The features of some frames; for each, the nearest frame that has features stands in.

        Args:
            path: The video.
            frames: Frame indices, int64 [X].

        Returns:
            float32 [X, D].

        Raises:
            VideoError: The video cannot be read.
            ConfigError: Its features are missing or damaged.
        """
        entry = self.entry(path)
        try:
            with safe_open(entry, framework="pt") as file:
                features = file.get_tensor("features")  # G D
        except (SafetensorError, OSError) as error:
            raise ConfigError(
                f"teacher.cache: the features {entry} of {path} are missing or damaged ({error}); delete "
                "the file if it exists, and start again: missing features are computed again"
            ) from error
        nearest = np.clip((frames + self.step // 2) // self.step, 0, len(features) - 1)
        return features[torch.from_numpy(nearest)].float()

    def make(self, manifest: Manifest, teacher: Teacher, *, store: FrameStore, workers: int) -> list[Failed]:
        """Compute what is missing.

        Args:
            manifest: The videos; a path that occurs several times is computed once.
            teacher: Its digest must be this store's.
            store: Where frames come from, at the teacher's size.
            workers: Processes that decode. 0: this one.

        Returns:
            The videos of which a wanted frame cannot be read: every row of each.

        Raises:
            ConfigError: The folder cannot be written to, or a feature is too large to be kept.
        """
        rows: dict[Path, list[int]] = {}
        for row, entry in enumerate(manifest):
            rows.setdefault(entry.path, []).append(row)
        missing, bad = [], []
        for path in rows:
            try:
                if not self.entry(path).exists():
                    missing.append(path)
            except VideoError as error:
                bad += [Failed(str(path), error.reason, row) for row in rows[path]]
        if not missing:
            return bad
        sweep(self.folder, older_than=ABANDONED)
        loader = Loader(
            _EveryNthFrame(missing, store, self.step),
            batch_size=None,
            num_workers=workers,
        )
        device = next((p.device for p in teacher.parameters()), torch.device("cpu"))
        parts: dict[int, list[torch.Tensor]] = {}
        with progress(f"Computing features of {teacher.name}", len(missing), unit="videos") as bar:
            for number, frames, last in loader:
                path = missing[number]
                if isinstance(frames, str):  # the reason why there are none
                    bad += [Failed(str(path), frames, row) for row in rows[path]]
                    parts.pop(number, None)
                else:
                    parts.setdefault(number, []).append(teacher(frames.to(device)).half().cpu())
                if last and number in parts:
                    features = torch.cat(parts.pop(number))  # G D
                    self._write(features, path)
                if last:
                    bar.advance()
        return bad

    def _write(self, features: torch.Tensor, path: Path) -> None:
        if not features.isfinite().all():
            raise ConfigError(
                f"{path}: the teacher's features are not finite or exceed 65504, the maximum of half "
                "precision, so they cannot be cached; remove teacher.cache"
            )
        try:
            write_tensors({"features": features}, self.entry(path), metadata={})
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"teacher.cache: {self.entry(path)} cannot be written: {error}") from error


class _EveryNthFrame(IterableDataset[tuple[int, torch.Tensor | str, bool]]):
    """Every n-th frame of each video, in chunks: (video's number, frames or what is wrong, the last?)."""

    def __init__(self, paths: list[Path], store: FrameStore, step: int) -> None:
        self.paths = paths
        self.store = store
        self.step = step

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor | str, bool]]:
        worker = get_worker_info()
        workers, first = (worker.num_workers, worker.id) if worker else (1, 0)
        for number in range(first, len(self.paths), workers):
            try:
                frames = self.store.open(self.paths[number])
                wanted = np.arange(0, len(frames.times), self.step)
                for at in range(0, len(wanted), _CHUNK):
                    view = center_view(frames.get(wanted[at : at + _CHUNK]), self.store.spec)
                    yield number, view, at + _CHUNK >= len(wanted)
            except VideoError as error:
                yield number, error.reason, True
