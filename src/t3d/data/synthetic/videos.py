"""A data set of real H.264 files with labeled motion, drawn by the project: what the demo and tests run on.

Every video has two labels. The motion label cannot be read from one frame (see `scene.py`); the
appearance label, a pattern in any two colors, can, and is independent of it. So a net that ignores time
stays at chance on the first and does well on the second. Videos that go left or right have a third, the
action: a pattern and a direction, so that one frame gives half of it away. Mirrored left is right and
mirrored clockwise is anticlockwise: training on motion or action needs `augment.flip` = 0.
"""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from t3d.data.synthetic.scene import (
    ACTIONS,
    APPEARANCES,
    MOTIONS,
    SPLITS,
    Split,
    SyntheticSpec,
    appearance_of,
    draw_video,
)
from t3d.errors import ConfigError
from t3d.io.files import atomic_path, sweep
from t3d.progress import track
from t3d.video.encode import write_video

RECORD = "synthetic.json"
# Raised whenever the same spec would be drawn or stored differently, so that old and new files never mix.
_DRAWING = 2
_WORTH_A_PROCESS = 32  # videos; to draw fewer takes less time than to start a process


@dataclass(frozen=True)
class SyntheticVideo:
    """One video of the set.

    Args:
        path: Where it is below the set's folder, with forward slashes.
        split: `train`, `val` or `test`.
        motion: Its motion class, one of `MOTIONS`.
        appearance: Its appearance class, one of `APPEARANCES`.
        index: Its number in its motion class, from 0.
    """

    path: str
    split: Split
    motion: str
    appearance: str
    index: int

    @property
    def source(self) -> str:
        """The scene it shows; no two videos share one."""
        return f"{self.split}_{self.motion}_{self.index:04d}"

    @property
    def action(self) -> str | None:
        """Its action class, one of `ACTIONS`; None where it goes neither left nor right all the time."""
        name = f"{self.appearance}_{self.motion}"
        return name if name in ACTIONS else None


def videos_of(spec: SyntheticSpec, split: Split) -> Iterator[SyntheticVideo]:
    """List the videos of a split, class by class.

    Args:
        spec: The set.
        split: `train`, `val` or `test`.

    Raises:
        ConfigError: An unknown split.

    Example:
        >>> next(videos_of(SyntheticSpec(), "train")).path
        'train/left/left_0000.mp4'
    """
    for motion in MOTIONS:
        for index in range(spec.per_class(split)):
            path = f"{split}/{motion}/{motion}_{index:04d}.mp4"
            yield SyntheticVideo(path, split, motion, appearance_of(spec, split, motion, index), index)


def write_synthetic(
    folder: str | os.PathLike[str],
    spec: SyntheticSpec | None = None,
    *,
    workers: int | None = None,
) -> Path:
    """Write the videos `SPLIT/CLASS/NAME.mp4` and their lists below a folder.

    `train.csv`, `val.csv` and `test.csv` have the motion label. `appearance_train.csv` and so on list the
    same files with the appearance label. `action_train.csv` lists those that move left or right, with the
    action. A split without videos has no list. `synthetic.json` records the spec. A finished set is not
    changed; an interrupted one is completed.

    Args:
        folder: Where to; made if it is absent, and empty unless it holds this very set.
        spec: What to draw. None: `SyntheticSpec()`.
        workers: Processes that draw. None: one per core, or this one alone for a small set. A script
            that calls this with more than one keeps its main code under `if __name__ == "__main__":`.

    Returns:
        The folder.

    Raises:
        ConfigError: The folder holds another set or other files, or `workers` is below 1.
        OSError: The folder cannot be written to.

    Example:
        >>> write_synthetic("motion", SyntheticSpec(train=8, val=0, test=8))  # doctest: +SKIP
        PosixPath('motion')
    """
    folder, spec = Path(folder), spec or SyntheticSpec()
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}; it must be at least 1")
    complete = _check_folder(folder, spec)
    videos = [video for split in SPLITS for video in videos_of(spec, split)]
    missing = [video for video in videos if not (folder / video.path).is_file()]
    lists = [folder / name for split in SPLITS for name, _ in _lists_of(spec, split)]
    if complete and not missing and all(path.is_file() for path in lists):
        return folder

    folder.mkdir(parents=True, exist_ok=True)
    _write_record(folder, spec, complete=False)
    for place in {(folder / video.path).parent for video in videos}:
        place.mkdir(parents=True, exist_ok=True)
        sweep(place)
    _write_videos(folder, spec, missing, workers=workers)
    _write_lists(folder, spec)
    _write_record(folder, spec, complete=True)
    return folder


def _check_folder(folder: Path, spec: SyntheticSpec) -> bool:
    """Return whether the folder has the finished set; anything but this set is a ConfigError."""
    record = folder / RECORD
    if not record.is_file():
        if folder.exists() and (not folder.is_dir() or any(f.name[0] != "." for f in folder.iterdir())):
            raise ConfigError(
                f"{folder} exists and is not an empty folder, nor a synthetic set (it has no {RECORD}); "
                "choose another folder"
            )
        return False
    try:
        held = json.loads(record.read_text(encoding="utf-8"))
        drawing, complete, held_spec = held["drawing"], held["complete"], dict(held["spec"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{record} is damaged ({error}); delete {folder} and write the set again"
        ) from error
    asked = {"drawing": _DRAWING} | asdict(spec)
    there = {"drawing": drawing} | held_spec
    differing = [key for key in asked | there if asked.get(key) != there.get(key)]
    if differing:
        pairs = (f"{key}: {there.get(key)} there, {asked.get(key)} asked for" for key in differing)
        raise ConfigError(
            f"{folder} holds a synthetic set of another spec ({'; '.join(pairs)}); choose another folder or "
            "delete it"
        )
    return bool(complete)


def _write_videos(
    folder: Path,
    spec: SyntheticSpec,
    videos: list[SyntheticVideo],
    *,
    workers: int | None,
) -> None:
    if workers is None:
        workers = max(1, min(os.cpu_count() or 1, len(videos) // _WORTH_A_PROCESS))
    write, title = partial(_write_one, folder, spec), "Generating videos"
    if workers == 1:
        for video in track(videos, title):
            write(video)
        return
    # Not fork: a copy of a process that has threads (torch's) may hang.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(min(workers, len(videos)), mp_context=context) as pool:
            for _ in track(pool.map(write, videos, chunksize=8), title, len(videos)):
                pass
    except BrokenProcessPool as error:
        raise ConfigError(
            f"{folder}: a drawing process ended early ({error}). If a script of yours called this, put its "
            'main code under `if __name__ == "__main__":`; else pass workers=1'
        ) from error


def _write_one(folder: Path, spec: SyntheticSpec, video: SyntheticVideo) -> None:
    write_video(folder / video.path, draw_video(spec, video.split, video.motion, video.index), fps=spec.fps)


def _lists_of(spec: SyntheticSpec, split: Split) -> list[tuple[str, str]]:
    """File name and kind of label of each list of a split."""
    if spec.per_class(split) == 0:
        return []
    return [
        (f"{split}.csv", "motion"),
        (f"appearance_{split}.csv", "appearance"),
        (f"action_{split}.csv", "action"),
    ]


def _write_lists(folder: Path, spec: SyntheticSpec) -> None:
    for split in SPLITS:
        videos = list(videos_of(spec, split))
        for name, label in _lists_of(spec, split):
            text = io.StringIO()
            rows = csv.writer(text, lineterminator="\n")
            rows.writerow(("path", "label", "source"))
            labeled = [(video, getattr(video, label)) for video in videos]
            rows.writerows((video.path, name, video.source) for video, name in labeled if name)
            with atomic_path(folder / name) as temporary:
                temporary.write_text(text.getvalue(), encoding="utf-8")


def _write_record(folder: Path, spec: SyntheticSpec, *, complete: bool) -> None:
    record = {
        "drawing": _DRAWING,
        "complete": complete,
        "spec": asdict(spec),
        "motions": dict(MOTIONS),
        "appearances": APPEARANCES,
        "note": "motion labels change under a horizontal flip: train with augment.flip 0",
    }
    with atomic_path(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
