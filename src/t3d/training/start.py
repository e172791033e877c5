"""Start of every run: processes, folder, frames, videos and the untrained model."""

from __future__ import annotations

import atexit
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list

from t3d.clip import Targets
from t3d.data.clips.check import open_all, readable
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.rates import mixed_rates
from t3d.data.index import VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.data.moved import find_missing
from t3d.data.soft_labels import Probs
from t3d.errors import ConfigError, Failed, ManifestError
from t3d.models.net import VideoNet
from t3d.models.registry import create_model
from t3d.models.skeleton import no_weights
from t3d.training.config import RunConfig
from t3d.training.errors import InterruptedRunError
from t3d.training.initial import check_initial, load_initial
from t3d.training.interrupt import CaughtSignals, RaisedSignals, deferred_signals
from t3d.training.length import check_length
from t3d.training.run_folder import RunFolder
from t3d.training.trackers import check_trackers

Config = TypeVar("Config", bound=RunConfig)


@dataclass(frozen=True)
class RunVideos:
    """Videos of a run.

    Args:
        train: Training videos.
        val: Validation videos, or None.
        bad: Videos that cannot be read and are left out.
        soft: Probability of each class for each training video, float32 [N, K], if some have soft labels.
        note: Sentence about the choice of the videos, for the user. Empty in a resumed run.
    """

    train: Manifest
    val: Manifest | None
    bad: Sequence[Failed] = ()
    soft: Probs | None = None
    note: str = ""


@dataclass(frozen=True)
class Run(Generic[Config]):
    """State of a run before its model is created.

    As a context manager, a run records signals in `signals`, except during `starting`, where they stop it
    immediately. No signal between start-up and training is therefore lost.

    Args:
        config: Options of the run.
        accelerator: Accelerator of all processes.
        folder: Run folder.
        store: Source of frames.
        resume: Whether the run continues with its saved lists of videos. A run that was interrupted before it
            saved them starts again.
        signals: Signals that arrived during the run.
    """

    config: Config
    accelerator: Accelerator
    folder: RunFolder
    store: FrameStore
    resume: bool
    signals: CaughtSignals = field(default_factory=CaughtSignals)

    def __enter__(self) -> Run[Config]:
        if self.accelerator.is_main_process:  # in start-up, other processes end with it
            self.signals.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.accelerator.is_main_process:
            self.signals.__exit__(kind)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.accelerator.device

    @property
    def restores(self) -> bool:
        """True if the run continues from a checkpoint, which a run interrupted early does not have."""
        return self.resume and self.folder.checkpoint.exists()

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Create the run folder before the slow part of a start. The block calls `start`.

        Raises:
            InterruptedRunError: A signal stopped the block. The run can be resumed.
            ConfigError: See `RunFolder.starting`.
        """
        if not self.accelerator.is_main_process:  # other processes wait for it, and end with it
            yield
            return
        folder = self.folder.resuming() if self.resume else self.folder.starting(self.config)
        with folder, RaisedSignals(self.interrupted):
            yield

    def interrupted(self, number: int) -> InterruptedRunError:
        """Return the error of a run that a signal stopped before its first step. It reports what is kept."""
        kept = " and ".join(f"the {name} in {folder}" for name, folder in self.config.caches().items())
        if self.restores:
            state = "its last checkpoint is unchanged"
        else:
            state = f"{kept} are kept and reused" if kept else "it had not taken a step yet"
        command = self.config.command
        if self.folder.replaced:
            state += ". The previous run in this folder is deleted"
        elif not (self.resume or self.folder.written or self.folder.undecided):
            state += ". The run that it would replace is unchanged; run the same command to start again"
            command = ""
        return InterruptedRunError(self.folder.path, number, command, state=state)

    def check_videos(self, train: Manifest, val: Manifest | None = None) -> RunVideos:
        """Leave out videos that cannot be read. The main process checks them for all processes.

        Warns if the frame rates differ by more than a quarter and clips are counted in frames.

        Raises:
            ManifestError: More than `data.max_bad` of them cannot be read.
        """
        data = self.config.data
        checked: list[tuple[Manifest, list[Failed]] | None] = [None, None]
        if self.accelerator.is_main_process:
            rates: list[float] = []
            for number, part in enumerate((train, val)):
                if part is not None:
                    kept_part, bad, some = readable(
                        part, self.store, workers=data.workers, max_bad=data.max_bad
                    )
                    checked[number] = (kept_part, bad)
                    rates += some
            if text := mixed_rates(rates, self.config.clip):
                warnings.warn(text, stacklevel=2)
        kept, held = broadcast_object_list(checked)
        return RunVideos(kept[0], held[0] if held else None, kept[1] + (held[1] if held else []))

    def reopen_videos(self) -> RunVideos:
        """Read the saved lists of videos of the run to resume.

        Raises:
            ManifestError: More than `data.max_bad` of the files are missing.
        """
        train, val = self.folder.read_videos()
        soft = self.folder.read_soft(train)
        if self.accelerator.is_main_process:
            for part, file in ((train, self.folder.train_csv), (val, self.folder.val_csv)):
                if part is not None:
                    self._refuse_moved(part, file)
            if self.store.folder is not None:  # some may no longer be in the cache
                for part in (train, val):
                    if part is not None:
                        open_all(part, self.store, workers=self.config.data.workers)
        return RunVideos(train, val, soft=soft)

    def _refuse_moved(self, videos: Manifest, file: Path) -> None:
        """Raise an error if the files of a saved list are gone: without them, the epochs would differ."""
        data = self.config.data
        given = self.config.lists()
        folders = [str(folder) for name in given for folder in (Path(name), *list(Path(name).parents)[:2])]
        also = [folder for folder in folders if Path(folder).is_dir()]
        missing = find_missing(videos, list_folder=str(self.folder.path), also=also)
        if missing is None or len(missing.paths) <= data.max_bad * missing.files:
            return
        hint = "Move them back" if missing.new is None else f"Move them back, or correct the paths in {file}"
        raise ManifestError(f"{self.folder.path} cannot be resumed: {file}: {missing}. {hint}")

    def new_model(self, classes: Sequence[str] = (), targets: Targets = "single") -> tuple[VideoNet, str]:
        """Create the model, untrained or from the weights of `model.init`, on the CPU.

        Args:
            classes: Class names, in the order of the scores. Empty for a model without a classifier.
            targets: Whether a video has one label or several.

        Returns:
            The model, and a sentence about its initial weights, empty for random weights.

        Raises:
            CheckpointError: The weights of `model.init` are missing or damaged, or belong to another model.
        """
        asked = self.config.model
        torch.manual_seed(self.config.seed)
        model = create_model(asked.name, num_classes=len(classes), options=asked.options)
        initial = "" if self.restores else load_initial(model, asked, classes=classes, targets=targets)
        model.freeze(asked.freeze)
        model.set_grad_checkpointing(asked.grad_checkpointing)
        return model.to(memory_format=torch.channels_last_3d), initial

    def start(self, videos: RunVideos) -> None:
        """Write options and videos into the run folder, unless the run is resumed."""
        if self.accelerator.is_main_process and not self.resume:
            with deferred_signals():
                self.folder.start(self.config, videos.train, videos.val, videos.bad, videos.soft)
        self.accelerator.wait_for_everyone()
        self.folder.written |= not self.resume  # by the main process

    def surroundings(self) -> str:
        """Return the device, and the number of left-out videos if there are any, as the end of a sentence."""
        count, gpu = self.accelerator.num_processes, self.device.type == "cuda"
        if count == 1:
            place = ", on the GPU" if gpu else ", on the CPU"
        else:
            place = f", in {count} processes on " + ("GPUs" if gpu else "the CPU")
        left_out = len(self.folder.read_bad())
        videos = "video" if left_out == 1 else "videos"
        return place + (f"; {left_out} unreadable {videos} left out (bad.csv)" if left_out else "")


def open_run(config: Config, index: VideoIndex | None, *, resume: bool) -> Run[Config]:
    """Prepare a run before its videos are opened.

    Args:
        config: Options of the run.
        index: Index of the video files.
        resume: Resume the run in `config.out`.

    Raises:
        ConfigError: A new run would replace an existing folder, `optim.epochs` is too low to resume, or the
            package of a tracker is not installed.
        CheckpointError: The weights of `model.init` are missing or damaged, or belong to another model.
    """
    data = config.data
    check_trackers(config.tracker)
    accelerator = make_accelerator()
    folder = RunFolder(config.out)
    store = FrameStore(
        config.clip,
        cache=data.cache,
        cache_gb=data.cache_gb,
        index=index,
        limits=data.limits,
        image_fps=data.image_fps,
    )
    resume = resume and not folder.undecided
    if resume:
        check_length(config, folder)
    else:
        folder.refuse_existing(overwrite=config.overwrite)
        check_initial(config.model)
    return Run(config, accelerator, folder, store, resume)


def make_accelerator() -> Accelerator:
    """Return the accelerator of all processes, on a GPU if there is one."""
    # The main process may check videos for hours while the others wait.
    timeout = InitProcessGroupKwargs(timeout=timedelta(hours=24))
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no", kwargs_handlers=[timeout])


def leave_at_exit(accelerator: Accelerator) -> None:
    """Leave the group of processes when this process exits.

    Call it when all processes have reached the same place. A process that exits without leaving can abort
    (SIGABRT) although its run is finished: the threads of torch's gloo backend still run. A single failed
    process must not leave, because NCCL could then wait for the others.
    """
    if accelerator.num_processes > 1:
        atexit.unregister(_leave)  # once, regardless of the number of runs in this process
        atexit.register(_leave)


def stay_at_exit() -> None:
    """Do not leave the group of processes when this process exits: it failed alone. See `leave_at_exit`."""
    atexit.unregister(_leave)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def check_model(config: RunConfig) -> None:
    """Check the model, its options, the stages to freeze and the clip, before any video is read.

    Raises:
        ConfigError: A model or stage does not exist, an option is invalid, or the clip has too few frames or
            pixels.
    """
    asked = config.model
    frames, side = _least_clip(asked.name, json.dumps(asked.options), asked.freeze)
    if config.clip.num_frames < frames or config.clip.size < side:
        raise ConfigError(
            f"clip.num_frames is {config.clip.num_frames} and clip.size {config.clip.size}; "
            f"{asked.name} with its options needs at least {frames} frames of {side} × {side} pixels"
        )


@cache
def _least_clip(name: str, options: str, freeze: str) -> tuple[int, int]:
    """Return the minimum number of frames and the minimum side. The options are JSON."""
    with no_weights():
        model = create_model(name, num_classes=1, options=json.loads(options))
    model.freeze(freeze)
    return model.min_input_size()
