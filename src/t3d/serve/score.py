"""Work on one video: classify it, and write the pictures that a visitor asks for.

It runs in a scoring process (`t3d.serve.child`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from t3d.device import Compute
from t3d.errors import ConfigError, VideoError
from t3d.evaluation.bulk import to_line
from t3d.evaluation.loaded_pair import LoadedPair, load_pair
from t3d.evaluation.predictor import Predictor
from t3d.evaluation.result import Prediction
from t3d.evaluation.timeline import Timeline, make_timeline
from t3d.progress import Bar
from t3d.runtime.formats import exported_format
from t3d.serve.allowed import CONTAINERS, FileFacts, check_file, check_length
from t3d.serve.config import ServeConfig
from t3d.video.limits import ReadLimits
from t3d.video.video import Video

if TYPE_CHECKING:
    from t3d.explanation.explainer import Explainer

Step = Literal["predict", "annotated", "explained"]
"""Kinds of work. `predict` comes first, and the others write a video about its result."""
MoreStep = Literal["annotated", "explained"]
"""Kinds of work that visitors can ask for after the first one."""
Report = Callable[[float], None]
"""Function that is called with the share of the work that is done, from 0 to 1."""

_CLASSES_PER_CLIP = 5
_RECENT = 4
_PLAYED_SOUND = frozenset({"aac", "mp3", "opus", "flac"})  # by browsers, in MP4


@dataclass(frozen=True)
class Task:
    """Work on one video.

    Args:
        step: Kind of work.
        video: The file.
        out: File to write. Not used by `predict`.
    """

    step: Step
    video: str
    out: str = ""


class Scorer:
    """The loaded model and the bounds of the server.

    Args:
        config: The options of the server.

    Raises:
        CheckpointError: The model cannot be used.
        ConfigError: The device or the runtime cannot be used.
    """

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.limits = ReadLimits(timeout=config.timeout, max_megapixels=config.max_megapixels)
        self._compute = Compute(config.device, config.precision, config.batch_size, workers=0)
        self._pair = load_pair(
            LoadedPair,
            config.model,
            runtime=config.runtime,
            compute=self._compute,
            allow_unfinished=config.allow_unfinished,
        )
        self.predictor = Predictor(self._pair, compute=self._compute, per_clip=True, limits=self.limits)
        self._explainer: Explainer | None = None
        self._recent: dict[str, Prediction] = {}  # by path, the latest last

    @property
    def on_cpu(self) -> bool:
        """True if the CPU computes the model."""
        return self._compute.pick_device().type == "cpu"

    def warm_up(self) -> None:
        """Classify gray frames: what libraries load at first use does not count for a video."""
        clip = self.predictor.card.clip
        frames = np.full((clip.num_frames, clip.size, clip.size, 3), 128, np.uint8)
        with suppress(Exception):  # the first video says what is wrong
            self.predictor(frames, fps=25.0)

    def work(self, task: Task, report: Report) -> dict[str, Any]:
        """Do the work of a task, and return its result as plain values.

        Args:
            task: The work.
            report: Called with the share that is done.

        Raises:
            VideoError: The video is not accepted or cannot be read.
        """
        if task.step == "predict":
            return self._predict(Path(task.video), report)
        if task.step == "explained":
            return self._explain(Path(task.video), Path(task.out), report)
        return self._annotate(Path(task.video), Path(task.out), report)

    def _predict(self, path: Path, report: Report) -> dict[str, Any]:
        facts = self._check(path)
        with Video(path, limits=self.limits, tonemap=self.predictor.card.clip.tonemap) as video:
            check_length(path, video.duration, max_seconds=self.config.max_seconds)
            seconds, height, width = video.duration, video.height, video.width
            prediction = self._remember(path, self.predictor(video, bar=_Reporting(report)))
        return {
            "result": result_of(prediction, self.predictor.card.classes),
            "video": {
                "seconds": round(seconds, 3),
                "width": width,
                "height": height,
                "codec": facts.codec,
                "media_type": CONTAINERS[facts.container],
            },
        }

    def _check(self, path: Path) -> FileFacts:
        config = self.config
        return check_file(path, max_seconds=config.max_seconds, max_megapixels=config.max_megapixels)

    def _annotate(self, path: Path, out: Path, report: Report) -> dict[str, Any]:
        from t3d.report.annotated import write_annotated

        prediction = self._recent.get(str(path))
        begin = 0.0 if prediction is not None else 0.5
        if prediction is None:
            bar = _Reporting(report, end=begin)
            prediction = self._remember(path, self.predictor(path, bar=bar))
        facts = self._check(path)
        heard = _PLAYED_SOUND.issuperset(facts.sound)
        bar = _Reporting(report, begin)
        try:
            written = write_annotated(prediction, out, limits=self.limits, sound=heard, bar=bar)
        except ConfigError:  # MP4 cannot hold the sound, whatever its codec
            written = write_annotated(prediction, out, limits=self.limits, sound=False, bar=bar)
        return {"frames": written.frames, "sound": list(written.sound)}

    def _explain(self, path: Path, out: Path, report: Report) -> dict[str, Any]:
        from t3d.explanation.explainer import Explainer
        from t3d.report.heat_video import write_heat_video

        self._check(path)
        if self._explainer is None:
            self._explainer = Explainer(self._pair, compute=self._compute, limits=self.limits)
        explanation = self._explainer.explain(path, bar=_Reporting(report, end=0.7))
        write_heat_video(explanation, out, limits=self.limits, bar=_Reporting(report, 0.7))
        values = explanation.to_dict()
        return {name: values[name] for name in ("label", "depths", "remarks", "explained_clips")}

    def _remember(self, path: Path, prediction: Prediction) -> Prediction:
        """Keep the predictions of the latest videos, whose pictures are probably asked for next."""
        self._recent[str(path)] = prediction
        while len(self._recent) > _RECENT:
            self._recent.pop(next(iter(self._recent)))
        return prediction


def result_of(prediction: Prediction, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return a prediction as `t3d predict` prints it as JSON, without the path, and with the segments.

    Args:
        prediction: The prediction of a video, with its clips.
        classes: Class names in the order of the model.

    Raises:
        VideoError: The video could not be read.
    """
    if prediction.error is not None:
        raise VideoError(prediction.path, prediction.error)
    line = to_line(replace(prediction, per_clip=None), top=len(classes))
    line["per_clip"] = to_line(prediction, top=_CLASSES_PER_CLIP)["per_clip"]
    line["segments"] = timeline_of(prediction, classes).to_dict()["segments"]
    del line["path"]
    return line


def timeline_of(prediction: Prediction, classes: tuple[str, ...]) -> Timeline:
    """Return the timeline of a prediction: the one that `Predictor.predict_timeline` computes.

    Args:
        prediction: The prediction of a video, with its clips.
        classes: Class names in the order of the model.
    """
    assert prediction.per_clip is not None
    times = np.array([(clip.start, clip.end) for clip in prediction.per_clip])
    by_name = [dict(zip(clip.classes, clip.probs, strict=True)) for clip in prediction.per_clip]
    probs = np.array([[each[name] for name in classes] for each in by_name])
    return make_timeline(prediction.path, times, probs, classes, targets=prediction.targets)


class _Reporting(Bar):
    """Progress that is reported instead of shown.

    Args:
        report: Called with the share that is done.
        begin: Share of the whole work that is done before.
        end: Share that is done afterward.
    """

    def __init__(self, report: Report, begin: float = 0.0, end: float = 1.0) -> None:
        super().__init__("Working", 1)
        self._report = report
        self._begin = begin
        self._end = end

    def advance(self, count: float = 1, *, note: str = "") -> None:
        super().advance(count, note=note)
        share = min(self.done / max(self.total or 1, 1e-9), 1.0)
        self._report(self._begin + share * (self._end - self._begin))


def more_steps(model: str) -> tuple[MoreStep, ...]:
    """Return the kinds of work that a model can do after the first one. An exported file explains nothing.

    Example:
        >>> more_steps("model.xml"), more_steps("model.safetensors")
        (('annotated',), ('annotated', 'explained'))
    """
    return ("annotated",) if exported_format(model) is not None else ("annotated", "explained")


def described(scorer: Scorer) -> dict[str, Any]:
    """Return facts about the model for visitors: no path, and nothing about this machine.

    Args:
        scorer: The loaded model.
    """
    card = scorer.predictor.card
    clip = asdict(card.clip)
    names = ("num_frames", "stride", "fps", "size", "modality")
    return {
        "architecture": card.architecture,
        "classes": list(card.classes),
        "targets": card.targets,
        "clip": {name: clip[name] for name in names},
    }
