"""Facts about a model: its run, its lists of videos, and a test. They contain no paths."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, ManifestError, first_line
from t3d.io.files import content_digest, refuse_unreadable
from t3d.models.weights_file import CHECKPOINT, LAST, MODEL

_PARTS = {
    "train": "training",
    "val": "validation",
    "test": "test",
    "unlabeled": "without labels",
}
_SINGLE = ("video_top1", "clip_top1", "interval", "clip_interval", "majority", "videos")
_MULTI = ("video_map", "clip_map", "interval", "chance", "videos")
_KEPT = (
    "videos",
    "bad",
    "clips",
    "groups",
    "correct",
    "video_top1",
    "video_top5",
    "interval",
    "clip_top1",
    "clip_top5",
    "clip_interval",
    "balanced_accuracy",
    "chance",
    "majority",
    "loss",
    "per_class",
    "confusion",
    "video_map",
    "clip_map",
    "micro_f1",
    "macro_f1",
    "positives",
    "views",
    "frame_order",
    "shared",
    "frame_orders",
    "ms_per_video",
)
_LARGEST = 64 << 20  # bytes of a metrics.json


@dataclass(frozen=True)
class ListFacts:
    """Facts about a list of videos.

    Args:
        part: What it was used for, such as `training`.
        videos: Number of videos.
        groups: Number of groups (column `source`), such as recordings.
        counts: Labeled videos per class.
        unlabeled: Videos without a label.
        digest: Digest of the list.
    """

    part: str
    videos: int
    groups: int
    counts: dict[str, int]
    unlabeled: int
    digest: str


@dataclass(frozen=True)
class Facts:
    """Facts about a model that are not in its card.

    Args:
        command: Command that made it, such as `t3d train`; empty if it is unknown.
        lists: Its lists of videos.
        test: Figures of a test, as in `metrics.json`; None if there is none.
        winner: Candidate that a fit chose; empty for other runs.
        unfinished: Whether the run was not finished.
    """

    command: str = ""
    lists: tuple[ListFacts, ...] = ()
    test: dict[str, Any] | None = None
    winner: str = ""
    unfinished: bool = False


def facts_of(model: str, weights: Path, test: str | None) -> Facts:
    """Read what a run or a fit stores about its model.

    Args:
        model: Run folder, folder of a fit, or weights file.
        weights: The weights file that was found for it.
        test: Folder or file of a test; None takes the one in the folder.

    Raises:
        ConfigError: `test` is not the result of a test.
    """
    folder = Path(model)
    fitted = (folder / MODEL / LAST).is_file()
    run = weights.parent
    lists, result = folder if fitted else run, folder / "result.json"
    winner = ""
    figures: dict[str, Any] | None = None
    if test is not None:
        figures = read_test(Path(test))
    elif fitted and result.is_file():
        values = _read(result)
        figures = _kept(values | values.get("test", {}), result)
        winner = str(values.get("winner", ""))
    elif (run / "metrics.json").is_file() and Path(model).is_dir():
        figures = read_test(run / "metrics.json")
    files = [(part, lists / f"{name}.csv") for name, part in _PARTS.items()]
    known = [_list_facts(part, file) for part, file in files if _is_run(run) and file.is_file()]
    return Facts(_command(run), tuple(filter(None, known)), figures, winner, weights.name == CHECKPOINT)


def read_test(path: Path) -> dict[str, Any]:
    """Read the figures of a test.

    Args:
        path: The folder that `t3d test` wrote, or its metrics.json.

    Raises:
        ConfigError: It is not the result of a test.
    """
    file = path / "metrics.json" if path.is_dir() else path
    refuse_unreadable(file, name="result of a test", error=ConfigError)
    return _kept(_read(file), file)


def _kept(values: dict[str, Any], file: Path) -> dict[str, Any]:
    if not any(all(_fits(key, values.get(key)) for key in keys) for keys in (_SINGLE, _MULTI)):
        raise ConfigError(
            f"{file}: not the result of a test; give the folder that `t3d test` wrote with `out`, or its "
            "metrics.json"
        )
    return {key: values[key] for key in _KEPT if key in values}


def _fits(key: str, value: object) -> bool:
    """Return whether a value can be the figure of this name."""
    if key == "videos":
        return isinstance(value, int) and value >= 0
    if key == "majority":
        return isinstance(value, dict) and "name" in value and _is_share(value.get("share"))
    if key.endswith("interval"):
        return isinstance(value, list) and len(value) == 2 and all(map(_is_share, value))
    return _is_share(value)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _read(file: Path) -> dict[str, Any]:
    if file.stat().st_size > _LARGEST:
        raise ConfigError(f"{file}: has more than {_LARGEST >> 20} MB, so it is not the result of a test")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not JSON ({first_line(error)})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: not the result of a test")
    return values


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file()


def _command(folder: Path) -> str:
    """Return the command that started a run; empty if the folder is not a run."""
    if not _is_run(folder):
        return ""
    with (folder / "config.yaml").open(encoding="utf-8", errors="replace") as file:
        mark, _, command = file.readline(200).strip().partition(": ")
    return command if mark == "# A run of" else ""


def _list_facts(part: str, file: Path) -> ListFacts | None:
    """Return the facts about a list; None if it cannot be read any more."""
    try:
        videos = Manifest.from_csv(file)
    except ManifestError:
        return None
    counts = {name: count for name, count in videos.class_counts().items() if count}
    unlabeled = int((~videos.labeled).sum())
    return ListFacts(part, len(videos), len(videos.sources()), counts, unlabeled, content_digest(file))
