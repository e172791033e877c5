"""Train the candidates of a fit. Each ends as a run folder that every command accepts."""

from __future__ import annotations

import io
import shutil
import warnings
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from t3d.configs import recipe
from t3d.data.clips.frames import FrameStore
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, Failed
from t3d.evaluation.config import Reading
from t3d.evaluation.scores import ClipRow
from t3d.fit.config import FitConfig
from t3d.fit.folder import FitFolder
from t3d.fit.look import Looked
from t3d.fit.plan import FRAMES, Plan
from t3d.fusion.config import FuseConfig
from t3d.fusion.result import FusionResult
from t3d.fusion.run import run_fuse
from t3d.models.weights import save_model
from t3d.training.config import TrainConfig
from t3d.training.run import train
from t3d.training.run_folder import RunFolder
from t3d.transfer.config import TransferConfig
from t3d.transfer.frozen import open_frozen
from t3d.transfer.linear import fit_linear
from t3d.transfer.probe import COMMAND, clip_features, with_classifier
from t3d.transfer.probe_config import ProbeConfig
from t3d.transfer.run import transfer

FEATURES = "Computing features of frames"
"""Title of the progress of the 2D network."""
FUSED = "both"
"""Name of the average of the candidates."""


@dataclass(frozen=True)
class Fit:
    """Everything that the steps of a fit share.

    Args:
        config: Options.
        folder: Its folder.
        looked: What is known about the videos.
        plan: The plan.
        parts: Lists of videos: `train`, `test`, and `val` if there is a choice.
    """

    config: FitConfig
    folder: FitFolder
    looked: Looked
    plan: Plan
    parts: dict[str, Manifest]

    @property
    def cache(self) -> Path:
        """Folder for decoded frames and features."""
        given = self.config.cache
        return self.folder.cache if given is None else Path(given)

    @property
    def reading(self) -> Reading:
        """Options of reading the lists of the fit. Files that cannot be read were left out."""
        config = self.config
        return Reading(
            index=self.folder.index, image_fps=config.image_fps, max_bad=config.max_bad, limits=config.limits
        )


class FrameModel:
    """A frozen 2D network on single frames, with a linear classifier.

    Its features are computed once, for training and validation videos. The classifier is fitted on the
    training videos to choose, and on both if this model is chosen.

    Args:
        fit: The fit.
    """

    def __init__(self, fit: Fit) -> None:
        self.fit = fit
        config = fit.config
        self.options = ProbeConfig(
            train=str(fit.folder.list_of("train")),
            out=str(fit.folder.candidate("frames").path),
            teacher=config.teacher,
            num_frames=FRAMES,
            fps=fit.plan.frames_fps,
            reading=fit.reading,
            compute=config.compute,
        )
        self.frozen = open_frozen(self.options)
        if self.frozen.net is None:
            raise ConfigError(
                f"teacher is {config.teacher}, an ONNX file, which cannot be saved as a model; use a timm or "
                "torchvision model, or a file of `t3d teacher`"
            )
        parts = fit.parts
        self.videos = parts["train"].followed_by(parts["val"]) if "val" in parts else parts["train"]
        self._features: tuple[list[ClipRow], list[Failed]] | None = None

    def write(self, folder: RunFolder, *, validation: bool) -> None:
        """Fit the classifier, and write the model as a run folder.

        Args:
            folder: The folder. An existing run in it is replaced.
            validation: Whether to fit it on the validation videos, too.
        """
        parts = self.fit.parts
        videos = self.videos if validation else parts["train"]
        rows, bad = self._computed()
        mine = [row for row in rows if row[0] < len(videos)]
        classifier = fit_linear(videos, mine).classifier
        net, card = with_classifier(self.frozen, classifier, videos.classes)
        assert net is not None
        assert card is not None
        card = replace(card, provenance={**card.provenance, "videos": len(videos)})
        held = None if validation else parts.get("val")
        broken = [failed for failed in bad if failed.row < len(videos)]
        with folder.finished(
            COMMAND, asdict(self.options), videos, broken, val=held, replace=folder.path.exists()
        ) as part:
            save_model(net, part.last, card=card)

    def _computed(self) -> tuple[list[ClipRow], list[Failed]]:
        if self._features is None:
            reading = self.fit.reading
            store = FrameStore(
                self.frozen.spec,
                index=self.fit.looked.index,
                limits=reading.limits,
                image_fps=reading.image_fps,
            )
            self._features = clip_features(self.frozen, self.videos, store, self.options, shown=FEATURES)
        return self._features


def train_network(fit: Fit) -> None:
    """Train the small 3D network, taught by the 2D network if there is one, or continue to train it.

    The lines of its epochs are not printed. They are in the log of its run folder.
    """
    config = network_config(fit)
    folder = RunFolder(config.out)
    resume = folder.config.is_file() and folder.checkpoint.is_file()
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        # Without `unlabeled_videos`, all videos have a label, as intended.
        warnings.filterwarnings("ignore", ".*all .* videos have a label", UserWarning)
        if isinstance(config, TransferConfig):
            transfer(replace(config, overwrite=not resume), resume=resume)
        else:
            train(replace(config, overwrite=not resume), resume=resume)


def network_config(fit: Fit) -> TransferConfig | TrainConfig:
    """Return the options of the run that trains the 3D network."""
    config, plan, folder = fit.config, fit.plan, fit.folder
    run = folder.candidate("network")
    changes: dict[str, Any] = {
        "out": str(run.path),
        "seed": config.shares.seed,
        "precision": config.compute.precision,
        "model.name": config.student,
        "clip.fps": plan.clip_fps,
        "clip.size": config.size,
        "clip.resize": round(1.25 * config.size),
        "optim.epochs": plan.epochs,
        "optim.batch_size": min(plan.batch_size, max(2, len(fit.parts["train"].sources()))),
        "optim.warmup_epochs": max(1, round(0.05 * plan.epochs)),
        "data.val_fraction": 0.0,
        "data.index": folder.index,
        "data.cache": str(fit.cache / "frames"),
        "data.workers": config.compute.workers,
        "data.max_bad": config.max_bad,
        "data.image_fps": config.image_fps,
        "data.timeout": config.limits.timeout,
        "data.max_megapixels": config.limits.max_megapixels,
        "data.max_clip_gb": config.limits.max_clip_gb,
    }
    if not config.mirror:
        changes["augment.flip"] = 0.0
    labeled = str(folder.list_of("train"))
    if not plan.taught:
        return recipe("modern", changes | {"data.train": labeled})
    pool, exclude = labeled, None
    if fit.looked.unlabeled is not None:
        pool, exclude = str(folder.list_of("unlabeled")), str(folder.list_of("held_out"))
    return recipe(
        "transfer-few-labels",
        changes
        | {
            "data.videos": pool,
            "data.exclude": exclude,
            "labels.videos": labeled,
            "teacher.name": config.teacher,
            "teacher.cache": str(fit.cache / "features"),
        },
    )


def fuse(fit: Fit) -> FusionResult:
    """Average the candidates, and measure all of them on the validation videos."""
    folder = fit.folder.candidate(FUSED)
    return run_fuse(
        FuseConfig(
            tuple(str(fit.folder.candidate(name).path) for name in fit.plan.candidates),
            videos=str(fit.folder.list_of("val")),
            out=str(folder.path),
            overwrite=folder.path.exists(),
            reading=fit.reading,
            compute=fit.config.compute,
        )
    )


def copy_model(source: RunFolder, target: RunFolder) -> None:
    """Write a candidate as the model of the fit."""
    train_videos, val = source.read_videos()
    bad = [Failed(path, reason) for path, reason in source.read_bad().items()]
    weights = source.best if source.best.is_file() else source.last
    with target.finished(
        "t3d fit", {"candidate": str(source.path)}, train_videos, bad, val=val, replace=target.path.exists()
    ) as part:
        shutil.copyfile(weights, part.last)
        if source.log.is_file():  # its curves are part of the report
            shutil.copyfile(source.log, part.log)
