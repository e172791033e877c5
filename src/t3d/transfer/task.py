"""Task of a transfer with labels: the teacher's classifier, and the soft labels that the student learns.

Legend: N videos, K classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from t3d.card import ModelCard
from t3d.clip import ClipSpec, TimePooling
from t3d.data.clips.sampling import Indices
from t3d.data.soft_labels import SoftLabels, read_soft_labels, target_probs, write_soft_labels
from t3d.errors import CheckpointError
from t3d.models.weights import save_model
from t3d.training.start import Run, RunVideos
from t3d.transfer.config import TransferConfig
from t3d.transfer.dataset import TeacherView
from t3d.transfer.frame_model import frame_net, set_classifier
from t3d.transfer.linear import LinearFit
from t3d.transfer.pairs import source_groups
from t3d.transfer.soft_teacher import label_softly, teacher_clips
from t3d.transfer.teachers.base import Teacher
from t3d.transfer.teachers.library import TorchTeacher

_POOLING: TimePooling = "mean_std"


@dataclass(frozen=True)
class Task:
    """Soft labels of a run.

    Args:
        train: Class probabilities of the training videos, float32 [N, K].
        val: Those of the held-out videos, or None.
        fit: The teacher's classifier. None in a resumed run, and on processes that did not fit it.
    """

    train: Tensor
    val: Tensor | None
    fit: LinearFit | None


def make_task(run: Run[TransferConfig], videos: RunVideos, view: TeacherView, teacher: Teacher) -> Task:
    """Fit the teacher's classifier on the labels and label all videos softly, or read what the run saved.

    Raises:
        ManifestError: Fewer than two classes have a labeled video.
        CheckpointError: The saved soft labels are of other videos.
        VideoError: A video cannot be read.
    """
    made: list[Task | None] = [None]
    if run.accelerator.is_main_process:
        saved = run.resume and all(path.exists() for path in _files(run, videos, teacher).values())
        made = [_read(run, videos) if saved else _make(run, videos, view)]
    shared = broadcast_object_list(made)[0]
    assert shared is not None
    return shared


def _files(run: Run[TransferConfig], videos: RunVideos, teacher: Teacher) -> dict[str, Path]:
    """Return the files of the run that `save_task` writes, by what they contain."""
    files = {}
    if videos.val is not None:
        files["val"] = run.folder.path / "val_soft.csv"
    if isinstance(teacher, TorchTeacher):  # others cannot be saved as a model
        files["teacher"] = run.folder.path / "teacher.safetensors"
    return files


def _make(run: Run[TransferConfig], videos: RunVideos, view: TeacherView) -> Task:
    options, spec = run.config.labels, run.config.clip
    assert view.features is not None
    together = videos.train if videos.val is None else videos.train.followed_by(videos.val)
    clips = teacher_clips(
        together,
        spec,
        store=run.store,
        features=view.features,
        count=view.count,
        pooling=_POOLING,
        workers=run.config.data.workers,
    )
    groups: Indices | None = source_groups(together, run.store.index) if options.by_source else None
    soft = label_softly(together, clips, options, groups)
    train, val = np.split(soft.targets, [len(videos.train)])
    if videos.soft is not None:  # the epochs so far learned these
        train = np.array(videos.soft)
    return Task(torch.from_numpy(train), torch.from_numpy(val) if len(val) else None, soft.fit)


def _read(run: Run[TransferConfig], videos: RunVideos) -> Task:
    train = videos.soft
    if train is None:  # all training videos have a label
        train = target_probs(videos.train, np.zeros((0, len(videos.train.classes)), np.float32))
    val = None
    if videos.val is not None:
        name = str(run.folder.path / "val_soft.csv")
        soft = read_soft_labels(name).with_classes(videos.train.classes, name=name, owner="the run")
        if [entry.path for entry in soft.videos] != [entry.path for entry in videos.val]:
            raise CheckpointError(
                f"{name} does not list the videos of {run.folder.val_csv}; restore both files"
            )
        val = torch.from_numpy(np.array(soft.probs))
    return Task(torch.from_numpy(np.array(train)), val, None)


def save_task(run: Run[TransferConfig], videos: RunVideos, task: Task, teacher: Teacher) -> None:
    """Write the soft labels of the held-out videos, and the teacher with its classifier."""
    if task.fit is None or not run.accelerator.is_main_process:
        return
    files, classes = _files(run, videos, teacher), videos.train.classes
    if videos.val is not None and task.val is not None:
        soft = SoftLabels(videos.val.without_labels(), classes, task.val.numpy())
        write_soft_labels(files["val"], soft)
    if isinstance(teacher, TorchTeacher):
        net = frame_net(teacher, _POOLING)
        set_classifier(net, task.fit.classifier, len(classes))
        card = ModelCard(
            "frames",
            asdict(net.options),
            classes=classes,
            clip=_teacher_clip(run.config, teacher),
            provenance={"teacher": teacher.name, "labels": run.config.labels.videos},
        )
        save_model(net, files["teacher"], card=card)


def _teacher_clip(config: TransferConfig, teacher: Teacher) -> ClipSpec:
    """Return a clip of the teacher's frames that lasts about as long as the student's clip."""
    clip, frames = config.clip, config.teacher.frames
    share = frames / clip.num_frames
    return ClipSpec(
        num_frames=frames,
        stride=None if clip.fps is not None else max(1, round(clip.step / share)),
        fps=None if clip.fps is None else clip.fps * share,
        size=teacher.size,
        resize=teacher.size,
        tail="shift",
        mean=teacher.mean,
        std=teacher.std,
        pixel_aspect=clip.pixel_aspect,
        tonemap=clip.tonemap,
    )


def task_sentence(task: Task) -> str:
    """Return what is known about the teacher's classifier, as the end of a sentence.

    The accuracy is that of the first fit. Fits on soft labels (`labels.rounds`) come after it.
    """
    if task.fit is None:
        return ""
    if task.fit.accuracy is None:
        return (
            ". The accuracy of the teacher's classifier is not known: a class has labeled videos of only one "
            "group, which cannot be held out"
        )
    return (
        f". Fitted on the labels alone, the teacher's classifier gets {task.fit.accuracy:.1%} of the labeled "
        "clips right (cross-validation over groups)"
    )
