"""Predictions for very many videos: on one machine or many, into a file that an interrupted run resumes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from t3d.data.catalog import open_manifest
from t3d.data.listing import absolute
from t3d.data.patterns import expanded
from t3d.errors import CheckpointError, ConfigError, Failed, LostReaderError
from t3d.evaluation.config import PredictConfig
from t3d.evaluation.parts import Part, parts_of, rows_of
from t3d.evaluation.prediction_rows import PredictionRows
from t3d.evaluation.predictor import Predictor
from t3d.evaluation.result import Prediction
from t3d.io.files import content_digest, is_url, refuse_url
from t3d.io.hub import is_hub
from t3d.io.journal import JSON_LINES, Journal
from t3d.progress import track
from t3d.runtime.load import by_file, model_file, read_model_card
from t3d.workers.pool import Lost

_BLOCK = 64  # videos that a machine of a cluster gets at a time

PathOrPart = TypeVar("PathOrPart", str, Part)


def listed_videos(config: PredictConfig, unreadable: list[Failed] | None = None) -> list[Part]:
    """Return the videos that the options name: files, those in folders and lists, or all of the index.

    Args:
        config: The options.
        unreadable: List that collects subfolders that cannot be read. Without it, they are an error.

    Raises:
        ManifestError: No videos were found, or a list cannot be read.
        ConfigError: `root` is set, and no list is given.
    """
    if config.index and not config.videos:
        return rows_of(open_manifest(config.index, root=config.root))
    return parts_of(config.videos, root=config.root, unreadable=unreadable)


def predictions(config: PredictConfig, paths: Sequence[str | Part]) -> Iterator[Prediction]:
    """Classify videos, here or on many machines.

    With Ray, each process holds the model once, on its own GPU if the cluster has any, and gets as
    many videos at a time as are scored together here; `workers` processes of each read videos, and as many
    processors are reserved for them. Scores are bit-equal to those of this machine if the machines compute
    alike: the same kind of processor or GPU, the same precision, and as many threads. A run that resumes
    forms other batches of the remaining videos: their fp32 scores are equal within 1e-6.

    Args:
        config: The model, and where it computes.
        paths: Files and parts of files, such as `listed_videos` returns.

    Yields:
        One prediction per video: in their order if they are made here, else as they come.

    Raises:
        CheckpointError: The weights cannot be used.
        ConfigError: Ray is not installed, or the cluster cannot be joined or is too small.
        ManifestError: No path.
    """
    refuse_url(config.model, error=CheckpointError)
    index = index_of(config)
    make = partial(
        Predictor,
        config.model if is_hub(config.model) else absolute(config.model),
        compute=config.compute,
        index=index if index is None or is_url(index) else absolute(index),
        allow_unfinished=config.allow_unfinished,
        per_clip=config.per_clip,
        limits=config.limits,
        image_fps=config.image_fps,
        # Machines of a cluster could choose differently, and their scores would not be comparable.
        runtime=config.runtime if config.cluster.kind == "none" else by_file(config.model, config.runtime),
    )
    if config.cluster.kind == "none":
        yield from make().many(paths)
        return
    from t3d.workers.ray_cluster import blocks_of, joined, spread
    from t3d.workers.ray_pools import Actors, has_gpus

    read_model_card(config.model, allow_unfinished=config.allow_unfinished)  # refuse before a cluster starts
    with joined(config.cluster.ray_address):
        gpus = int(config.compute.device != "cpu" and has_gpus())
        parts = [path if isinstance(path, Part) else Part(path) for path in paths]
        blocks = blocks_of(parts, _block(config.compute.batch_size))
        cpus = max(config.compute.workers, 1)
        pool = Actors(partial(_scorer, make), cpus=cpus, gpus=gpus, most=len(blocks))
        for part, outcome in track(spread(pool, blocks), "Classifying videos", len(parts)):
            if isinstance(outcome, Lost):
                yield Prediction(part.path, error=outcome.reason, start=part.start, end=part.end)
            else:
                yield outcome


def index_of(config: PredictConfig) -> str | None:
    """Return the index of the videos: `index`, or the only index among the videos."""
    indexes = [name for name in config.videos if name.lower().endswith(".parquet")]
    return indexes[0] if config.index is None and len(indexes) == 1 else config.index


def _block(batch_size: int) -> int:
    """Return how many videos a machine gets at a time: whole batches of videos, as they are formed here."""
    return max(_BLOCK // batch_size, 1) * batch_size


class GivenPaths:
    """Paths as the user gave them, for predictions, which have absolute ones.

    Args:
        given: Files, folders and patterns, as the user gave them.

    Example:
        >>> GivenPaths(["clips"]).of(Prediction(absolute("clips/a.mp4"))).path
        'clips/a.mp4'
    """

    def __init__(self, given: Sequence[str]) -> None:
        self._given = {path if is_url(path) else absolute(path): path for path in expanded(given)}

    def of(self, prediction: Prediction) -> Prediction:
        """Return a prediction with the path that the user gave, or the path within a given folder."""
        path = prediction.path
        if path in self._given:
            return replace(prediction, path=self._given[path])
        for folder in map(str, Path(path).parents):  # the deepest folder first
            if folder in self._given:
                rest = os.path.relpath(path, folder)
                return replace(prediction, path=os.path.join(self._given[folder], rest))  # noqa: PTH118
        return prediction


def _scorer(make: Callable[[], Predictor]) -> Callable[[list[Part]], list[Prediction]]:
    predictor = make()

    def score(paths: list[Part]) -> list[Prediction]:
        try:
            return list(predictor.many(paths))
        except LostReaderError:
            # A video took the process down that reads for this one. If this one dies too, the video is found.
            os._exit(1)

    return score


def to_line(prediction: Prediction, *, top: int, threshold: float = 0.0) -> dict[str, Any]:
    """Return a prediction as a JSON object: the path, and the most probable classes or the error.

    Args:
        prediction: The prediction.
        top: Classes to name.
        threshold: Smallest probability of a class in `classes`.

    Example:
        >>> to_line(Prediction("/a.mp4", ("run", "jump"), (0.75, 0.25), clips=2), top=1)
        {'path': '/a.mp4', 'clips': 2, 'classes': {'run': 0.75}}
    """
    line: dict[str, Any] = {"path": prediction.path}
    if prediction.span is not None:
        line |= {"start": prediction.start, "end": prediction.end}
    if prediction.error is not None:
        return line | {"error": prediction.error}
    line |= {"clips": prediction.clips, "classes": dict(prediction.top(top, threshold=threshold))}
    if prediction.per_clip is not None:
        line["per_clip"] = [
            {
                "start": round(clip.start, 6),
                "end": round(clip.end, 6),
                "classes": dict(clip.top(top, threshold=threshold)),
            }
            for clip in prediction.per_clip
        ]
    return line if prediction.targets == "single" else line | {"targets": prediction.targets}


class PredictionFile:
    """A file of predictions that may be closed or killed and opened again: JSON Lines, or CSV.

    Each line holds what `to_line` gives, and the digest of the weights; see `t3d.evaluation.prediction_rows`
    for the columns of CSV. When the file is opened, videos that could not be read are removed, to be tried
    again; see `t3d.io.journal` for a line that a kill cut short.

    Args:
        path: The file, new or of an earlier run with the same weights, `top` and `per_clip`. If its name ends
            in `.csv`, it is CSV, else JSON Lines.
        model: Weights file, run folder, or exported file.
        top: Number of classes in each line. Default: all, as always in CSV.
        allow_unfinished: See `Predictor`.
        per_clip: Whether each line has the scores of each clip.

    Raises:
        CheckpointError: The weights file is missing or damaged, or does not say its classes.
        ConfigError: The file is another kind of file, is of other weights or another `top`, or another run
            is writing to it.

    Example:
        >>> config = PredictConfig("runs/mine")  # doctest: +SKIP
        >>> with PredictionFile("all.jsonl", model=config.model, top=config.top) as file:  # doctest: +SKIP
        ...     for prediction in predictions(config, file.missing(paths)):
        ...         file.add(prediction)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        model: str | os.PathLike[str],
        top: int | None = None,
        allow_unfinished: bool = False,
        per_clip: bool = False,
    ) -> None:
        card = read_model_card(model, allow_unfinished=allow_unfinished)
        if card is None:
            raise CheckpointError(f"{os.fspath(model)}: no model card in the file, so t3d did not write it")
        self.path = Path(path)
        table = self.path.suffix.lower() == ".csv"
        self.form = PredictionRows(card.classes, card.targets) if table else JSON_LINES
        self.top = len(card.classes) if top is None or table else min(top, len(card.classes))
        self.per_clip = per_clip
        self.done: set[Part] = set()
        self._file = partial(model_file, model, allow_unfinished=allow_unfinished)
        self._weights = content_digest(self._file())
        self._unchecked = True

    def __enter__(self) -> PredictionFile:
        with ExitStack() as stack:
            journal = stack.enter_context(Journal(self.path, self.form))
            failed = False
            for record in journal.records():
                if self._is_done(record):
                    self.done.add(Part(record["path"], record.get("start"), record.get("end")))
                else:
                    failed = True
            if failed:
                journal.keep(self._is_done)
            self._journal = journal
            self._close = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close.__exit__(kind, error, trace)

    def missing(self, paths: Sequence[PathOrPart]) -> list[PathOrPart]:
        """The videos and parts that the file says nothing of, each once, in their order.

        Raises:
            ConfigError: A path has a line break, and the file is CSV.
        """
        if isinstance(self.form, PredictionRows):
            self.form.refuse_breaks(str(path.path if isinstance(path, Part) else path) for path in paths)
        return [
            path
            for path in dict.fromkeys(paths)
            if (path if isinstance(path, Part) else Part(path)) not in self.done
        ]

    def add(self, prediction: Prediction) -> None:
        """Write a prediction. It is kept even if this process is killed later.

        Raises:
            CheckpointError: The weights changed before this first prediction, so they may not be those that
                made it.
            T3DError: It cannot be written, since the disk is full for example.
        """
        if self._unchecked and content_digest(self._file()) != self._weights:
            raise CheckpointError(
                f"{self._file()}: the weights changed while they were loaded; no prediction was written. Run "
                "the same command again"
            )
        self._unchecked = False
        self._journal.add(to_line(prediction, top=self.top) | {"weights": self._weights})

    def _is_done(self, record: Mapping[str, Any]) -> bool:
        """Return whether a record is a prediction; False if the video could not be read.

        Raises:
            ConfigError: The record is of another file.
        """
        try:
            path, weights = record["path"], record["weights"]
            classes = None if "error" in record else len(record["classes"])
        except (TypeError, KeyError) as error:
            raise ConfigError(
                f"{self.path} holds a line that is not a prediction ({str(record)[:60]}); choose a new file"
            ) from error
        if not isinstance(path, str) or weights != self._weights:
            raise ConfigError(f"{self.path} holds predictions of other weights; choose a new file")
        if classes not in (None, self.top):
            raise ConfigError(
                f"{self.path} holds {classes} classes per line, but this command would write {self.top}; use "
                f"`top` = {classes}, or choose a new file"
            )
        if classes is not None and ("per_clip" in record) != self.per_clip:
            raise ConfigError(
                f"{self.path} holds predictions {'without' if self.per_clip else 'with'} the scores of each "
                "clip; use the same options, or choose a new file"
            )
        return classes is not None
