"""From a folder of labeled videos to a tested, exported classifier, in the order of the steps."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from signal import Signals

from t3d.data.clips.views import FrameOrder
from t3d.data.manifest.manifest import Manifest
from t3d.data.split_lists import Shares, missing_classes, split
from t3d.errors import ConfigError, ExportError, ManifestError, ResumableError, StoppedError, printable
from t3d.evaluation.config import TestConfig
from t3d.evaluation.frame_orders import frame_order_study
from t3d.evaluation.predictor import Predictor
from t3d.evaluation.run_test import TestResult, run_test
from t3d.export.config import ExportConfig
from t3d.export.run import ExportResult, export_model
from t3d.fit.candidates import FEATURES, FUSED, Fit, FrameModel, copy_model, fuse, train_network
from t3d.fit.clock import Clock
from t3d.fit.config import FitConfig
from t3d.fit.folder import FitFolder
from t3d.fit.look import Looked, Say, look
from t3d.fit.plan import BATCH, CLIP_FRAMES, Plan, make_plan, plan_sentences
from t3d.fit.result import FitResult
from t3d.fit.speeds import measure_speeds
from t3d.fusion.result import FusionResult
from t3d.io.files import atomic_path
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
    folder = FitFolder(config.out)
    began = time.monotonic()
    with folder.opened(config), _continued(config):
        say("1. Looking at the videos")
        looked = look(config, folder, _indented(say))
        plan = _plan(config, folder, looked, began, say)
        fit = Fit(config, folder, looked, plan, _divide(config, folder, looked, plan, say))
        clock = Clock(_still_to_do(fit), spent=time.monotonic() - began)
        with clock.shown("Fit"):
            result = _Steps(fit, clock, say).run(began)
        with atomic_path(folder.result) as temporary:
            temporary.write_text(json.dumps(result.to_json(), indent=1, ensure_ascii=False), encoding="utf-8")
        shutil.rmtree(folder.cache, ignore_errors=True)
    return result


@contextmanager
def _continued(config: FitConfig) -> Iterator[None]:
    """Say how to continue a fit that stops within the block."""
    try:
        yield
    except InterruptedRunError as error:
        raise StoppedError(
            f"{Signals(error.signal).name} stopped the fit; what is finished is kept in {config.out}. Run "
            "the same command again to continue",
            error.signal,
        ) from error
    except ResumableError as error:
        error.folder, error.command = None, ""  # not the run of a candidate alone: the same command continues
        raise


def _indented(say: Say) -> Say:
    return lambda sentence: say(f"   {sentence}")


def _plan(config: FitConfig, folder: FitFolder, looked: Looked, began: float, say: Say) -> Plan:
    """Make the plan, or read that of the interrupted fit."""
    say("2. Plan")
    if folder.plan.is_file():
        plan = Plan.read(folder.plan)
    else:
        speeds = measure_speeds(
            config,
            num_frames=CLIP_FRAMES,
            batch=BATCH,
            classes=len(looked.videos.classes),
            reading=looked.reading,
        )
        plan = make_plan(config, looked, speeds, spent=time.monotonic() - began)
        plan.write(folder.plan)
    for sentence in plan_sentences(config, plan, spent=time.monotonic() - began):
        _indented(say)(sentence)
    return plan


def _divide(
    config: FitConfig, folder: FitFolder, looked: Looked, plan: Plan, say: Say
) -> dict[str, Manifest]:
    """Hold out whole recordings, and write the lists; or read those of the interrupted fit."""
    parts = folder.read_lists(looked.videos.classes)
    if not parts:
        parts = _divided(config, looked, plan)
        for name, part in parts.items():
            part.write_csv(folder.list_of(name))
        if looked.unlabeled is not None:
            looked.unlabeled.write_csv(folder.list_of("unlabeled"))
            held = parts["test"] if "val" not in parts else parts["test"].followed_by(parts["val"])
            held.write_csv(folder.held_csv)
    else:
        _refuse_changed(config, looked, parts)
    counts = ", ".join(
        f"{name} {len(part)} ({len(part.sources())} recordings)" for name, part in parts.items()
    )
    _indented(say)(f"Videos: {counts}. No recording is in two lists")
    for name, labels in missing_classes(parts).items():
        shown = ", ".join(map(printable, labels[:10])) + (" …" if len(labels) > 10 else "")
        _indented(say)(f"No video of {shown} is in the list {name}, because there are too few recordings")
    return parts


def _refuse_changed(config: FitConfig, looked: Looked, parts: dict[str, Manifest]) -> None:
    """Refuse to continue with other videos than those that were divided.

    Raises:
        ConfigError: There are more videos than before, or fewer.
    """
    given = filter(None, (looked.videos, looked.test))
    before = {path for part in parts.values() for path in part.table["path"].to_pylist()}
    now = {path for part in given for path in part.table["path"].to_pylist()}
    if changed := sorted(before ^ now):
        verb = "is new" if changed[0] in now else "is gone"
        raise ConfigError(
            f"the videos have changed since this fit began: {printable(changed[0])} {verb}"
            + (f", as are {len(changed) - 1} more" if len(changed) > 1 else "")
            + f". Choose another `out` than {config.out}, or set `overwrite` to start again"
        )


def _divided(config: FitConfig, looked: Looked, plan: Plan) -> dict[str, Manifest]:
    shares = config.shares
    test = 0.0 if looked.test is not None else shares.test_fraction
    if looked.test is None and not test:
        raise ConfigError("test_fraction is 0 and there is no `test`; a fit needs videos to test on")
    parts = {"train": looked.videos}
    if plan.val_fraction or test:
        parts = split(looked.videos, Shares(plan.val_fraction, test, shares.seed))
    if looked.test is not None:
        parts["test"] = looked.test
    if not len(parts["test"]):
        raise ManifestError(f"{config.test}: no video can be read, so there is nothing to test on")
    return parts


def _still_to_do(fit: Fit) -> dict[str, float]:
    """Return the estimates of the steps that an earlier call did not finish."""
    seconds = dict(fit.plan.seconds)
    for name in (*fit.plan.candidates, FUSED):
        if fit.folder.candidate(name).last.is_file():
            seconds.pop("choice" if name == FUSED else name, None)
    return seconds


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

    def run(self, began: float) -> FitResult:
        """Run all of them.

        Args:
            began: Time at which the fit began.
        """
        fit, folder, config = self.fit, self.fit.folder, self.fit.config
        frames = self._train()
        choice = None
        with self._step("choice", "Choosing the model") if len(fit.plan.candidates) > 1 else _nothing():
            if len(fit.plan.candidates) > 1:
                choice = fuse(fit)
            winner = chosen(fit, choice)
            self._make_model(winner, frames)
        with self._step("test", "Testing the model", follows="Testing"):
            test = self._test()
        orders = None
        if fit.looked.videos.targets == "single":
            with self._step("orders", "Testing without the order of the frames"):
                orders = frame_order_study(self._tested(), test, _ORDERS)
        with self._step("export", "Exporting the model") if config.export else _nothing():
            export, problem = self._export()
        file = None if export is None else next((f for f in export.files if f.suffix == ".xml"), None)
        milliseconds = ms_per_video(str(file or folder.model.path), fit)
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
            (time.monotonic() - began) / 60,
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
        if "frames" in fit.plan.candidates and not fit.folder.candidate("frames").last.is_file():
            with self._step("frames", "3. Fitting a classifier on frames", follows=FEATURES):
                frames = FrameModel(fit)
                frames.write(fit.folder.candidate("frames"), validation=False)
        if "network" in fit.plan.candidates and not fit.folder.candidate("network").last.is_file():
            with self._step("network", "3. Training the 3D network", follows="Training"):
                train_network(fit)
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


def ms_per_video(model: str, fit: Fit) -> float:
    """Return the median milliseconds of classifying one video, one by one, with the model already loaded.

    Args:
        model: Run folder, or exported file.
        fit: The fit, whose test videos are classified.
    """
    paths = list(dict.fromkeys(fit.parts["test"].table["path"].to_pylist()))[:_TIMED]
    predictor = Predictor(model, compute=replace(fit.config.compute, workers=0))
    times = []
    for path in [paths[0], *paths]:  # the first one warms up
        began = time.perf_counter()
        list(predictor.many([path]))
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[1:])


@contextmanager
def _nothing() -> Iterator[None]:
    yield
