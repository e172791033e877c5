"""Find the tested videos that a model has seen in training, and measure the model without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from t3d.data.index import VideoIndex
from t3d.data.inspect.nearby import Listed, index_command, nearby_index
from t3d.data.inspect.shared import Compared, Reason, SharedRows, shared_rows
from t3d.data.manifest.manifest import Manifest
from t3d.data.manifest.table import VideoTable
from t3d.errors import ManifestError
from t3d.evaluation.figures import RESAMPLES
from t3d.evaluation.metrics import Metrics
from t3d.evaluation.multilabel import MultiMetrics
from t3d.evaluation.scores import Scores
from t3d.evaluation.task import measure
from t3d.models.weights_file import LAST, MODEL

_WORDS: dict[Reason, str] = {
    "file": "same file",
    "bytes": "same bytes",
    "group": "same group",
    "near": "near-duplicate",
}


@dataclass(frozen=True)
class Overlap:
    """Tested videos that are also in another list of the model, and the metrics without them.

    Args:
        tested: Name of the tested list, such as `test`.
        other: Name of the other list, such as `training`.
        shared: The tested videos that are the same as, or look like, a video of the other list.
        without: Metrics of the other tested videos; None if none of them can be measured.
    """

    tested: str
    other: str
    shared: SharedRows
    without: Metrics | MultiMetrics | None

    def sentences(self) -> list[str]:
        """Return how many videos are shared, and the figures without them, in plain sentences."""
        sentences = [sharing_sentence(self.shared, tested=self.tested, other=self.other)]
        if self.shared and self.without is not None:
            sentences.append(f"Without them: {self.without.summary()}.")
        elif self.shared:
            sentences.append("No video is left to measure without them.")
        return sentences

    def to_json(self) -> dict[str, Any]:
        """Return the counts and the metrics without the shared videos."""
        without = self.without
        counts = {str(reason): count for reason, count in self.shared.counts().items()}
        return {
            "videos": len(self.shared),
            "of": self.shared.tested.videos,
            **counts,
            "compared": {"tested": asdict(self.shared.tested), "other": asdict(self.shared.trained)},
            "without": None if without is None else without.log_line(),
        }


def sharing_sentence(shared: SharedRows, *, tested: str, other: str) -> str:
    """Return how many tested videos are also in another list, as a sentence.

    Args:
        shared: The tested videos that are shared.
        tested: Name of the tested list.
        other: Name of the other list.

    Example:
        >>> from t3d.data.inspect.shared import Compared
        >>> shared = SharedRows((), tested=Compared(50, hashed=50), trained=Compared(900, hashed=900))
        >>> sharing_sentence(shared, tested="test", other="training")
        'None of the 50 test videos occurs in the training list or looks like one of its videos.'
    """
    total = shared.tested.videos
    if not shared:
        count = f"{total:,} {tested} videos"
        if shared.tested.missing or shared.trained.missing:
            return f"None of the {count} was found in the {other} list, but the comparison is incomplete."
        if _unhashed(shared.tested) or _unhashed(shared.trained):
            return f"None of the {count} occurs in the {other} list (same file, bytes or group)."
        return f"None of the {count} occurs in the {other} list or looks like one of its videos."
    counts = shared.counts()
    one = len(shared) == 1
    article = "an" if other[:1] in "aeiou" else "a"
    findings = []
    if counts["file"] or counts["bytes"]:
        findings.append(f"{'is' if one else 'are'} also in the {other} list")
    if counts["group"]:
        findings.append(f"{'shares' if one else 'share'} a group with {article} {other} video")
    if counts["near"]:
        findings.append(f"{'looks' if one else 'look'} like {article} {other} video")
    number = f"All {total:,}" if len(shared) == total > 1 else f"{len(shared):,} of {total:,}"
    reasons = ", ".join(f"{count} {_WORDS[reason]}" for reason, count in counts.items() if count)
    return f"{number} {tested} videos {' or '.join(findings)} ({reasons})."


def uncompared_sentence(shared: SharedRows, *, tested: str, other: str) -> str:
    """Return how many videos of two lists were not compared, in sentences.

    Args:
        shared: The tested videos that are shared.
        tested: Name of the tested list.
        other: Name of the other list.

    Returns:
        The sentences. Empty if all videos were compared.

    Example:
        >>> from t3d.data.inspect.shared import Compared
        >>> shared = SharedRows((), tested=Compared(50, hashed=50), trained=Compared(900, hashed=900))
        >>> uncompared_sentence(shared, tested="test", other="training")
        ''
    """
    lists = {tested: shared.tested, other: shared.trained}
    sentences = [
        f"{each.missing:,} of {each.videos:,} {name} videos are not on this machine and were not compared."
        for name, each in lists.items()
        if each.missing
    ]
    counts = {name: _unhashed(each) for name, each in lists.items() if _unhashed(each)}
    unhashed = [f"{count:,} {name} {'video' if count == 1 else 'videos'}" for name, count in counts.items()]
    if unhashed and not shared.tested.hashed and shared.indexed:
        sentences.append(
            f"Near-duplicates were not looked for: all {tested} or all {other} videos are unreadable, or "
            "show hardly any detail."
        )
    elif unhashed and not shared.tested.hashed:
        sentences.append(
            "Near-duplicates were not looked for: that needs an index with the perceptual hashes of both "
            "lists." + (f" Create it with `{shared.index_command}`." if shared.index_command else "")
        )
    elif unhashed:
        sentences.append(
            f"Near-duplicates of {' and '.join(unhashed)} were not looked for: they are unreadable, not in "
            "the index, or show hardly any detail."
        )
    return " ".join(sentences)


def overlap_sentences(overlaps: Sequence[Overlap]) -> list[str]:
    """Return the overlaps of a tested list with other lists, in plain sentences.

    Args:
        overlaps: The overlaps.
    """
    sentences = [sentence for overlap in overlaps for sentence in overlap.sentences()]
    # Usually the same for all lists, and then given once.
    notes = dict.fromkeys(
        uncompared_sentence(each.shared, tested=each.tested, other=each.other) for each in overlaps
    )
    return [*sentences, *filter(None, notes)]


def _unhashed(compared: Compared) -> int:
    """Count the videos on this machine whose perceptual hash was not compared."""
    return compared.videos - compared.missing - compared.hashed


def measure_without(
    scores: Scores, shared: SharedRows, *, resamples: int = RESAMPLES
) -> Metrics | MultiMetrics | None:
    """Measure the videos that are not shared; None if none of them can be measured.

    Args:
        scores: Scores of the tested list.
        shared: The shared videos of this list.
        resamples: See `measure`.
    """
    labels = scores.labels.copy()
    labels[np.array([row.row for row in shared.rows], dtype=np.int64)] = -1
    try:
        return measure(replace(scores, labels=labels), resamples=resamples)
    except ManifestError:  # none is left, or, of several labels per video, none applies to those left
        return None


def overlaps(
    scores: Scores, shared: Mapping[str, SharedRows], *, tested: str = "test"
) -> tuple[Overlap, ...]:
    """Measure a tested list without what it shares with each of some other lists.

    Args:
        scores: Scores of the tested list.
        shared: What it shares with each list, by the list's name, as `shared_rows` finds it.
        tested: Name of the tested list.
    """
    return tuple(
        Overlap(tested, other, rows, measure_without(scores, rows) if rows else None)
        for other, rows in shared.items()
    )


def shared_with_run(
    model: str, tested: Manifest, index: VideoIndex | None, *, name: str = ""
) -> dict[str, SharedRows]:
    """Compare a tested list with the videos of the run that the weights are from.

    Args:
        model: A run folder or a fit's folder, or a file in it. For any other weights there is nothing to
            compare with.
        tested: The tested list.
        index: Index of the files; None uses an `index.parquet` next to the lists or videos.
        name: File or folder of the tested list.

    Returns:
        What is shared with the run's training and validation list, by `training` and `validation`.

    Raises:
        ManifestError: A list of the run cannot be read.
    """
    path = Path(model)
    folder = path if path.is_dir() else path.parent
    if (folder / MODEL / LAST).is_file():
        folder = folder / MODEL
    if not (folder / "config.yaml").exists():
        return {}
    files = {"training": folder / "train.csv", "validation": folder / "val.csv"}
    lists = {kind: Listed(Manifest.from_csv(file)) for kind, file in files.items() if file.exists()}
    return compared_lists(Listed(tested, name), lists, index, files=_indexes_of_fit(folder))


def _indexes_of_fit(run: Path) -> list[Path]:
    """Return the indexes of the fit that a run is part of: of `FIT/model`, or of `FIT/candidates/NAME`."""
    fits = [folder for folder in run.resolve().parents[:2] if (folder / "fit.json").is_file()]
    return [file for folder in fits for file in sorted((folder / "index").glob("*.parquet"))]


def _all_in(index: VideoIndex, videos: VideoTable) -> bool:
    return all(Path(path) in index for path in videos.table["path"].unique().to_pylist())


def compared_lists(
    tested: Listed,
    others: Mapping[str, Listed],
    index: VideoIndex | None,
    *,
    files: Sequence[Path] = (),
) -> dict[str, SharedRows]:
    """Compare a tested list with other lists.

    Args:
        tested: The tested list.
        others: The other lists, by kind, such as `training`.
        index: Index of the files; None uses `files`, and each `index.parquet` next to the lists or videos.
        files: Indexes elsewhere.

    Returns:
        What is shared with each of the other lists. If near-duplicates were not looked for, with the command
        that creates the index for it.
    """
    if index is None:
        index = nearby_index(tested, *others.values(), files=files)
    shared = {kind: shared_rows(tested.videos, other.videos, index) for kind, other in others.items()}
    if all(each.tested.hashed for each in shared.values()):
        return shared
    lists = [tested, *others.values()]
    if index is not None and all(_all_in(index, each.videos) for each in lists):
        return {kind: replace(each, indexed=True) for kind, each in shared.items()}
    command = index_command(*lists)
    return {kind: replace(each, index_command=command) for kind, each in shared.items()}
