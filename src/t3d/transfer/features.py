"""Teacher features of every n-th frame of a video on disk, computed once for all epochs and runs.

The name of an entry depends on the contents of the video file, on the teacher (weights, input size,
normalization) and on its frames. Stale entries are therefore never read. Entries are written atomically.
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
from t3d.models.tensor_files import write_tensors
from t3d.progress import progress
from t3d.transfer.pairs import Indices
from t3d.transfer.teachers.base import Teacher
from t3d.video.image_names import images_digest

_FORMAT = 1  # raise it when features change
_CHUNK = 32  # frames per forward pass of the teacher


class FeatureStore:
    """Store of the teacher features of videos.

    Legend: N frames of a video, G = ceil(N / step) frames with features, D features.

    Args:
        folder: Folder of the features. It is created if missing. `~` is the home folder.
        digest: Digest of the teacher, see `Teacher`.
        step: Every `step`-th frame, from the first, has features.
        index: Index of the files. With it, files need not be read to identify their contents.
        variant: How stored pixels are read, see `ClipSpec.variant`.

    Raises:
        ConfigError: The folder cannot be created or written to.
    """

    def __init__(
        self,
        folder: str,
        *,
        digest: str,
        step: int,
        index: VideoIndex | None = None,
        variant: tuple[str, ...] = (),
    ) -> None:
        self.folder = writable_folder(Path(folder).expanduser(), name="teacher.cache")
        self.digest = digest
        self.step = step
        self._index = VideoIndex.empty() if index is None else index
        what = " ".join((str(_FORMAT), digest, str(step), *variant, ""))
        self._digests = FileDigests(what.encode(), known=self._known_digest)

    def _known_digest(self, path: Path) -> str | None:
        digest = self._index.digest(path)
        return images_digest(path) if digest is None and path.is_dir() else digest

    def entry(self, path: Path) -> Path:
        """Return the path of the file with a video's features. It may not exist yet.

        Raises:
            VideoError: The video cannot be read.
        """
        try:
            return self.folder / f"{self._digests(path)}.safetensors"
        except OSError as error:
            raise VideoError(path, f"cannot be read: {error.strerror}") from error

    def get(self, path: Path, frames: Indices) -> torch.Tensor:
        """Return the features of frames. Each frame uses the nearest frame with stored features.

        Args:
            path: Path of the video.
            frames: Frame indices, int64 [X].

        Returns:
            Features, float32 [X, D].

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
                f"teacher.cache: the features {entry} of {path} are missing or damaged ({error}); "
                "delete a damaged file, and start again to compute the features"
            ) from error
        nearest = np.clip((frames + self.step // 2) // self.step, 0, len(features) - 1)
        return features[torch.from_numpy(nearest)].float()

    def make(self, manifest: Manifest, teacher: Teacher, *, store: FrameStore, workers: int) -> list[Failed]:
        """Compute missing features.

        Args:
            manifest: Videos. A path that occurs several times is computed once.
            teacher: Teacher with the same digest as this store.
            store: Source of frames, at the teacher's size.
            workers: Processes that decode. 0 decodes in this process.

        Returns:
            Every row of the videos with an unreadable frame.

        Raises:
            ConfigError: A feature is too large to store.
            WriteError: The features cannot be written, for example because the disk is full.
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
                if isinstance(frames, str):  # the reason of a failure
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
                f"{path}: features of the teacher are NaN, infinite or above 65504, the limit of half "
                "precision; remove teacher.cache"
            )
        write_tensors({"features": features}, self.entry(path), metadata={})


class _EveryNthFrame(IterableDataset[tuple[int, torch.Tensor | str, bool]]):
    """Every n-th frame of each video in chunks: (number of the video, frames or error, is last chunk)."""

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
