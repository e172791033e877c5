"""From a folder of labeled videos to a tested, exported classifier, in the order of the steps."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from signal import Signals

from t3d.data.clips.views import FrameOrder
from t3d.device import pick_device
from t3d.errors import ConfigError, ExportError, ManifestError, ResumableError, StoppedError
from t3d.evaluation.config import TestConfig
from t3d.evaluation.frame_orders import frame_order_study
from t3d.evaluation.parts import Part
from t3d.evaluation.predictor import Predictor
from t3d.evaluation.run_test import TestResult, run_test
from t3d.export.config import ExportConfig
from t3d.export.run import ExportResult, export_model
from t3d.fit.candidates import FEATURES, FUSED, Fit, FrameModel, copy_model, fuse, train_network
from t3d.fit.clock import Clock
from t3d.fit.config import FitConfig
from t3d.fit.divide import divide
from t3d.fit.folder import FitFolder
from t3d.fit.look import Looked, Say, look
from t3d.fit.plan import BATCH, CLIP_FRAMES, Plan, make_plan, plan_sentences
from t3d.fit.result import FitResult
from t3d.fit.speeds import measure_speeds
from t3d.fusion.result import FusionResult
from t3d.io.files import atomic_path, is_url
from t3d.progress import in_words
from t3d.training.errors import InterruptedRunError

_ORDERS: tuple[FrameOrder, ...] = ("shuffled", "static")
_TIMED = 8  # videos


def run_fit(config: FitConfig, *, say: Say = print) -> FitResult:
    """Look at videos, train models for the time given, choose one, test it once and export it.

    The steps are:

    1. Every file is read once. Broken files are left out. Copies and near-duplicates count as one recording.
    2. The time is planned. Whole recordings are held out for validation and test.
    3. The candidates are trained: a linear classifier on the features of single frames, a small 3D network,
       and the average of both.
    4. The most accurate candidate on the validation videos is the model. The classifier on frames is fitted
       again on training and validation videos if it is chosen.
    5. The model is tested once, also without the order of the frames, and exported.

    A second call with the same options continues an interrupted fit.

    Args:
        config: Options of the fit.
        say: Function that prints a sentence.

    Raises:
        ConfigError: An option cannot work, or the folder holds something else.
        ManifestError: The videos or their labels cannot be used.
        StoppedError: A signal stopped the fit. What is finished is kept.
        T3DError: A step failed.
    """
    _refuse_missing(config)
    _refuse_other_device(config)
    folder = FitFolder(config.out)
    began = time.monotonic()
    with folder.opened(config), _continued(config), _counted(folder, began):
        say("1. Looking at the videos")
        looked = look(config, folder, _indented(say))
        folder.start_over(config)
        earlier = folder.seconds()
        plan = _plan(config, folder, looked, earlier + time.monotonic() - began, say)
        parts = divide(config, folder, looked, plan, _indented(say))
        fit = Fit(config, folder, looked, plan, parts)
        clock = Clock(_still_to_do(fit), spent=earlier + time.monotonic() - began)
        clock.note()
        seconds = clock.passed() + clock.left()
        more = "" if seconds <= 60 * config.minutes else ". That is longer, but there is no shorter plan"
        _indented(say)(f"Estimate: about {in_words(seconds)} in all, of {config.minutes:g} minutes{more}")
        with clock.shown("Fit"):
            result = _Steps(fit, clock, say).run()
        with atomic_path(folder.result) as temporary:
            temporary.write_text(json.dumps(result.to_json(), indent=1, ensure_ascii=False), encoding="utf-8")
        shutil.rmtree(folder.cache, ignore_errors=True)
    return result


def stopped_fit(config: FitConfig, number: int) -> StoppedError:
    """Return the error of a fit that a signal stopped.

    Args:
        config: Options of the fit.
        number: Number of the signal.
    """
    return StoppedError(
        f"{Signals(number).name} stopped the fit; what is finished is kept in {config.out}. Run the same "
        "command again to continue",
        number,
    )


@contextmanager
def _continued(config: FitConfig) -> Iterator[None]:
    """Say how to continue a fit that stops within the block."""
    try:
        yield
    except InterruptedRunError as error:
        raise stopped_fit(config, error.signal) from error
    except ResumableError as error:
        error.same_command()
        raise


@contextmanager
def _counted(folder: FitFolder, began: float) -> Iterator[None]:
    """Add the time of the block to that of the fit, also if it stops."""
    try:
        yield
    finally:
        folder.add_seconds(time.monotonic() - began)


def _refuse_missing(config: FitConfig) -> None:
    """Refuse a misspelled folder or list before the folder of the fit is created.

    Raises:
        ManifestError: There is no such file or folder.
    """
    for name in filter(None, (config.videos, config.test, config.unlabeled_videos)):
        special = is_url(name) or "*" in name or ":" in name  # a pattern, or a part of HMDB51's lists
        if not special and not Path(name).exists():
            raise ManifestError(f"{name}: no such file or folder")


def _refuse_other_device(config: FitConfig) -> None:
    """Refuse a device that the training would not use.

    Raises:
        ConfigError: See above, or the device does not exist.
    """
    chosen, used = config.compute.pick_device(), pick_device()
    if chosen.type != used.type or chosen.index not in (None, used.index or 0):
        raise ConfigError(
            f"device is {config.compute.device}, but training uses {used}. Choose GPUs with the environment "
            "variable CUDA_VISIBLE_DEVICES; an empty value uses the CPU"
        )


def _indented(say: Say) -> Say:
    return lambda sentence: say(f"   {sentence}")


def _plan(config: FitConfig, folder: FitFolder, looked: Looked, spent: float, say: Say) -> Plan:
    """Make the plan. A fit whose training has started keeps its own."""
    say("2. Plan")
    if folder.plan.is_file() and folder.trains:
        plan = Plan.read(folder.plan)
        _indented(say)("Continuing with the plan of the interrupted fit")
    else:
        _indented(say)("Measuring the speed of this machine")
        speeds = measure_speeds(
            config,
            num_frames=CLIP_FRAMES,
            batch=BATCH,
            classes=len(looked.videos.classes),
            reading=looked.reading,
        )
        plan = make_plan(config, looked, speeds, spent=spent)
        folder.forget_lists()
        plan.write(folder.plan)
    for sentence in plan_sentences(config, plan):
        _indented(say)(sentence)
    return plan


def _still_to_do(fit: Fit) -> dict[str, float]:
    """Return the estimates of the steps that an earlier call did not finish."""
    done = [name for name in fit.plan.candidates if fit.folder.candidate(name).last.is_file()]
    return {name: seconds for name, seconds in fit.plan.seconds.items() if name not in done}


@dataclass
class _Steps:
    """The steps after the plan.

    Args:
        fit: Options, videos and plan.
        clock: Time left.
        say: Function that prints a sentence.
    """

    fit: Fit
    clock: Clock
    say: Say

    def run(self) -> FitResult:
        """Run all of them."""
        fit, folder, config = self.fit, self.fit.folder, self.fit.config
        frames = self._train()
        choice = None
        if len(fit.plan.candidates) > 1:
            with self._step("choice", "5. Choosing the model"):
                choice = fuse(fit)
        winner = chosen(fit, choice)
        self._make_model(winner, frames)
        with self._step("test", "6. Testing the model", follows="Testing"):
            test = self._test()
        orders = None
        if fit.looked.videos.targets == "single":
            with self._step("orders", "7. Testing without the order of the frames"):
                orders = frame_order_study(self._tested(), test, _ORDERS)
        with self._step("export", "8. Exporting the model") if config.export else nullcontext():
            export, problem = self._export()
        files = () if export is None else export.files
        milliseconds = ms_per_video(next((str(file) for file in files if file.suffix == ".xml"), ""), fit)
        self.clock.note()
        return FitResult(
            config,
            fit.looked,
            fit.plan,
            {name: (len(part), len(part.sources())) for name, part in fit.parts.items()},
            choice,
            winner,
            folder.model.path,
            test,
            orders,
            export,
            problem,
            milliseconds,
            self.clock.passed() / 60,
            tuple(self.clock.notes),
        )

    @contextmanager
    def _step(self, name: str, title: str, *, follows: str = "") -> Iterator[None]:
        """Announce a step with the time left. See `Clock.step`."""
        self.say(f"{title} (about {in_words(self.clock.left())} left)")
        with self.clock.step(name, follows=follows):
            yield

    def _train(self) -> FrameModel | None:
        """Train the candidates that are not finished. Return the one on frames, with its features."""
        fit, frames = self.fit, None
        if "frames" not in fit.plan.candidates:
            self.say("3. No classifier on frames")
        if "frames" in fit.plan.candidates and not fit.folder.candidate("frames").last.is_file():
            with self._step("frames", "3. Fitting a classifier on frames", follows=FEATURES):
                frames = FrameModel(fit)
                frames.write(fit.folder.candidate("frames"), validation=False)
        if "network" in fit.plan.candidates and not fit.folder.candidate("network").last.is_file():
            with self._step("network", "4. Training the 3D network", follows="Training"):
                train_network(fit)
        if "network" not in fit.plan.candidates:
            self.say("4. No 3D network")
        if len(fit.plan.candidates) == 1:
            self.say("5. Nothing to choose: there is one candidate")
        return frames

    def _make_model(self, winner: str, frames: FrameModel | None) -> None:
        """Write the model of the fit."""
        fit, model = self.fit, self.fit.folder.model
        if winner == "frames" and "val" in fit.parts:
            (frames or FrameModel(fit)).write(model, validation=True)
        else:
            copy_model(fit.folder.candidate(winner), model)

    def _tested(self) -> TestConfig:
        """Return the options of the test."""
        fit = self.fit
        return TestConfig(
            str(fit.folder.model.path),
            str(fit.folder.list_of("test")),
            reading=fit.reading,
            compute=fit.config.compute,
        )

    def _test(self) -> TestResult:
        """Test the model. The other orders of frames take as long each."""
        began = self.clock.passed()
        test = run_test(self._tested())
        self.clock.expect("orders", len(_ORDERS) * (self.clock.passed() - began))
        return test

    def _export(self) -> tuple[ExportResult | None, str]:
        """Export the model, or say why there is no export."""
        if not self.fit.config.export:
            return None, ""
        try:
            return export_model(
                ExportConfig(str(self.fit.folder.model.path), overwrite=True, reading=self.fit.reading)
            ), ""
        except (ConfigError, ExportError) as error:  # such as a package that is not installed
            return None, f"Not exported: {error}"


def chosen(fit: Fit, choice: FusionResult | None) -> str:
    """Return the most accurate candidate; among equals, the one with the best probabilities.

    Args:
        fit: The fit.
        choice: Figures of the candidates on the validation videos.
    """
    if choice is None:
        return fit.plan.candidates[0]
    lines = dict(zip((*fit.plan.candidates, FUSED), (*choice.members, choice.fused), strict=True))
    if any(not member.weight for member in choice.members):
        del lines[FUSED]  # it is one of the candidates
    return max(lines, key=lambda name: (lines[name].accuracy, -lines[name].loss))


def ms_per_video(exported: str, fit: Fit) -> float:
    """Return the median milliseconds of classifying one video, one by one, with the model already loaded.

    Args:
        exported: Exported file. Empty: the model itself.
        fit: The fit, whose test videos are classified. Each row of its list counts as a video.
    """
    rows = [fit.parts["test"][row] for row in range(min(_TIMED, len(fit.parts["test"])))]
    parts = [Part(str(row.path), row.start, row.end) for row in rows]
    compute = replace(fit.config.compute, workers=0, device="cpu" if exported else fit.config.compute.device)
    predictor = Predictor(
        exported or str(fit.folder.model.path),
        compute=compute,
        limits=fit.config.limits,
        image_fps=fit.config.image_fps,
    )
    times = []
    for part in [parts[0], *parts]:  # the first one warms up
        began = time.perf_counter()
        (prediction,) = predictor.many([part])
        if prediction.error is None:
            times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[1:] or times or [float("nan")])
