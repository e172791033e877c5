from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from t3d.card import ModelCard
from t3d.clip import ClipSpec
from t3d.data.clips.dataset import Batch
from t3d.data.clips.frames import FrameStore
from t3d.data.manifest.manifest import Manifest
from t3d.errors import DivergedError, Failed, ManifestError, OutOfMemoryError
from t3d.training.config import TrainConfig
from t3d.training.run_folder import RunFolder
from t3d.training.start import Run
from t3d.training.step import MultiLabelStep, SingleLabelStep
from t3d.training.trainer import Trainer

Tiny = Callable[..., TrainConfig]
CLASSES = 3


def clips(*labels: int, seed: int = 0, bad: tuple[Failed, ...] = ()) -> Batch:
    count = len(labels)
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        frames=torch.randint(0, 256, (count, 2, 3, 4, 4), dtype=torch.uint8, generator=generator)
        if count
        else None,
        labels=torch.tensor(labels, dtype=torch.int64),
        videos=torch.arange(count),
        clips=torch.zeros(count, dtype=torch.int64),
        shares=torch.ones(count, dtype=torch.float64),
        bad=bad,
    )


def trainer(
    config: TrainConfig, *, videos: int = 100, kind: type[SingleLabelStep] = SingleLabelStep
) -> Trainer:
    """Return a trainer of a linear classifier of raw pixels. Without BatchNorm, clips stay independent."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 2 * 4 * 4, CLASSES))
    accelerator = Accelerator(cpu=True)
    run = Run(config, accelerator, RunFolder(config.out), FrameStore(config.clip), resume=False)
    columns = {"path": [f"v{i}.mp4" for i in range(videos)], "label": [i % CLASSES for i in range(videos)]}
    columns |= {"start": pa.nulls(videos, pa.float64()), "end": pa.nulls(videos, pa.float64())}
    manifest = Manifest(("a", "b", "c"), pa.table(columns | {"source": columns["path"]}))
    step = kind(config, accelerator.device)
    return Trainer(run, model, step, videos=manifest, describe=lambda _: ModelCard("t3d_tiny"))


def slow_loss(model: nn.Module, spec: ClipSpec, batch: Batch, *, smoothing: float, share: float) -> float:
    """Cross-entropy, clip by clip and class by class."""
    assert batch.frames is not None
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (spec.mean, spec.std))
    x = [(clip.transpose(0, 1).float() / 255 - mean) / std for clip in batch.frames]  # C T H W
    total = 0.0
    for i, label in enumerate(batch.labels.tolist()):
        mixed = share * x[i] + (1 - share) * x[i - 1]
        logits = model(mixed.unsqueeze(0))[0].tolist()
        norm = math.log(sum(math.exp(logit) for logit in logits))
        for k, logit in enumerate(logits):
            target = smoothing / CLASSES
            target += (1 - smoothing) * share * (k == label)
            target += (1 - smoothing) * (1 - share) * (k == batch.labels.tolist()[i - 1])
            total -= target * (logit - norm) / len(x)
    return total


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_loss_against_a_slow_loop(tiny: Tiny, mixup: float, smoothing: float) -> None:
    config = tiny(optim={"mixup_alpha": mixup, "label_smoothing": smoothing}, seed=5)
    taking = trainer(config)
    batch = clips(0, 2, 1, 1)
    share = 1.0
    if mixup:
        rng = np.random.default_rng((5, 2, 3, 0, 1))  # seed, epoch, step, process
        rng.integers(2**31)
        share = float(rng.beta(mixup, mixup))
        assert 0.01 < share < 0.99
    want = slow_loss(taking.network, config.clip, batch, smoothing=smoothing, share=share)
    taking.take_step(iter([batch]), epoch=2, step=3)
    assert taking.report()["loss"] == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_loss_of_several_labels_against_a_slow_loop(tiny: Tiny, mixup: float, smoothing: float) -> None:
    config = tiny(optim={"mixup_alpha": mixup, "label_smoothing": smoothing}, seed=5)
    taking = trainer(config, kind=MultiLabelStep)
    labels = [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]]
    batch = replace(clips(0, 0, 0, 0), labels=torch.tensor(labels, dtype=torch.float32))
    assert batch.frames is not None
    share = 1.0
    if mixup:
        rng = np.random.default_rng((5, 2, 3, 0, 1))  # seed, epoch, step, process
        rng.integers(2**31)
        share = float(rng.beta(mixup, mixup))
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (config.clip.mean, config.clip.std))
    x = [(clip.transpose(0, 1).float() / 255 - mean) / std for clip in batch.frames]  # C T H W
    want = 0.0
    for i in range(4):
        for k, logit in enumerate(taking.network((share * x[i] + (1 - share) * x[i - 1])[None])[0].tolist()):
            target = share * labels[i][k] + (1 - share) * labels[i - 1][k]
            target = target * (1 - smoothing) + smoothing / CLASSES
            prob = 1 / (1 + math.exp(-logit))
            want -= (target * math.log(prob) + (1 - target) * math.log(1 - prob)) / (4 * CLASSES)
    taking.take_step(iter([batch]), epoch=2, step=3)
    assert taking.report()["loss"] == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_loss_of_soft_labels_against_a_slow_loop(tiny: Tiny, mixup: float, smoothing: float) -> None:
    config = tiny(optim={"mixup_alpha": mixup, "label_smoothing": smoothing}, seed=5)
    taking = trainer(config)
    targets = [[0.7, 0.2, 0.1], [0.0, 0.5, 0.5], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]]
    batch = replace(clips(0, 0, 0, 0), labels=torch.tensor(targets, dtype=torch.float32))
    assert batch.frames is not None
    share = 1.0
    if mixup:
        rng = np.random.default_rng((5, 2, 3, 0, 1))  # seed, epoch, step, process
        rng.integers(2**31)
        share = float(rng.beta(mixup, mixup))
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (config.clip.mean, config.clip.std))
    x = [(clip.transpose(0, 1).float() / 255 - mean) / std for clip in batch.frames]  # C T H W
    want = 0.0
    for i in range(4):
        logits = taking.network((share * x[i] + (1 - share) * x[i - 1])[None])[0].tolist()
        norm = math.log(sum(math.exp(logit) for logit in logits))
        for k, logit in enumerate(logits):
            target = share * targets[i][k] + (1 - share) * targets[i - 1][k]
            want -= (target * (1 - smoothing) + smoothing / CLASSES) * (logit - norm) / 4
    taking.take_step(iter([batch]), epoch=2, step=3)
    assert taking.report()["loss"] == pytest.approx(want, rel=1e-5)


def test_a_single_tag_is_smoothed_toward_either_answer(tiny: Tiny) -> None:
    taking = trainer(tiny(optim={"label_smoothing": 0.2}), kind=MultiLabelStep)
    got = taking.train_step.compare(torch.tensor([[0.3], [-1.0]]), torch.tensor([[1.0], [0.0]]), 1.0)
    yes, no = (1 / (1 + math.exp(-logit)) for logit in (0.3, -1.0))
    one = -0.9 * math.log(yes) - 0.1 * math.log(1 - yes)
    zero = -0.1 * math.log(no) - 0.9 * math.log(1 - no)
    assert float(got) == pytest.approx((one + zero) / 2, rel=1e-6)


def test_accumulated_passes_give_the_gradient_of_one(tiny: Tiny) -> None:
    whole = clips(0, 2, 1, 1, 2, 0, 1, 2)
    assert whole.frames is not None
    parts = [
        replace(whole, frames=whole.frames[i : i + 2], labels=whole.labels[i : i + 2]) for i in (0, 2, 4, 6)
    ]
    one = trainer(tiny(optim={"batch_size": 8}))
    four = trainer(tiny(optim={"batch_size": 8, "grad_accum_steps": 4}))
    one.take_step(iter([whole]), epoch=0, step=0)
    four.take_step(iter(parts), epoch=0, step=0)
    for a, b in zip(one.network.parameters(), four.network.parameters(), strict=True):
        assert a.grad is not None
        assert float(a.grad.norm()) > 0.01
        torch.testing.assert_close(a.grad, b.grad)
        torch.testing.assert_close(a, b)
    assert four.report()["loss"] == pytest.approx(one.report()["loss"], rel=1e-5)


def test_gradients_are_clipped_to_their_norm(tiny: Tiny) -> None:
    free, clipped = trainer(tiny()), trainer(tiny(optim={"max_grad_norm": 0.01}))
    for taking in (free, clipped):
        taking.take_step(iter([clips(0, 1, 2)]), epoch=0, step=0)
    long, short = (
        math.sqrt(
            sum(float(p.grad.square().sum()) for p in taking.network.parameters() if p.grad is not None)
        )
        for taking in (free, clipped)
    )
    assert long > 0.1
    assert short == pytest.approx(0.01, rel=1e-3)


def test_a_report_is_the_mean_since_the_last(tiny: Tiny) -> None:
    config = tiny(optim={"lr": 1e-30})
    taking = trainer(config)
    batches = [clips(0, 1, 2, 0, seed=seed) for seed in range(5)]
    losses = [slow_loss(taking.network, config.clip, batch, smoothing=0, share=1) for batch in batches]
    for number, batch in enumerate(batches):
        taking.take_step(iter([batch]), epoch=0, step=number)
        if number == 1:
            assert taking.report()["loss"] == pytest.approx(np.mean(losses[:2]), rel=1e-5)
    line = taking.report()
    assert line["loss"] == pytest.approx(np.mean(losses[2:]), rel=1e-5)
    assert line["lr"] == 1e-30
    assert 0 <= line["waiting_for_data"] <= 1
    assert taking.meter.epoch().loss == pytest.approx(np.mean(losses), rel=1e-5)
    taking.take_step(iter([batches[0]]), epoch=1, step=0)  # the next epoch starts from zero
    taking.report()
    assert taking.meter.epoch().loss == pytest.approx(losses[0], rel=1e-5)


def test_draws_follow_from_the_place_in_the_run(tiny: Tiny) -> None:
    def loss(*, seed: int = 0, epoch: int = 0, step: int = 0) -> float:
        taking = trainer(tiny(optim={"mixup_alpha": 1.0}, seed=seed))
        torch.manual_seed(int(np.random.default_rng().integers(1000)))
        taking.take_step(iter([clips(0, 1, 2, 0)]), epoch=epoch, step=step)
        return taking.report()["loss"]

    assert loss() == loss()
    assert len({loss(), loss(seed=1), loss(epoch=1), loss(step=1)}) == 4


def test_a_loss_or_weight_that_is_not_finite_stops_the_run(tiny: Tiny) -> None:
    taking = trainer(tiny(optim={"lr": 1e30, "momentum": 0.0}))
    taking.take_step(iter([clips(0, 1, 2)]), epoch=0, step=0)
    assert math.isfinite(taking.meter.loss_sum())
    with pytest.raises(DivergedError, match=r"norm of the weights inf.*optim\.lr \(now 1e\+30\)"):
        taking.check_finite()
    taking = trainer(tiny())
    with torch.no_grad():
        next(taking.network.parameters()).fill_(math.nan)
    taking.take_step(iter([clips(0, 1, 2)]), epoch=0, step=0)
    with pytest.raises(DivergedError, match="the loss is nan"):
        taking.report()


def test_memory_that_runs_out_is_an_error_with_a_remedy(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    taking = trainer(tiny(optim={"batch_size": 4, "grad_accum_steps": 2}))
    asked = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 411041792 bytes"
    problems: list[Exception] = [RuntimeError(asked), torch.OutOfMemoryError("CUDA out of memory")]

    def fails(*_: object, **__: object) -> torch.Tensor:
        raise problems[0]

    monkeypatch.setattr(taking.train_step, "loss", fails)
    wanted = r"4 clips of \d+ × \d+ × \d+, computed in 2 parts .*allocat.*optim\.grad_accum_steps"
    with pytest.raises(OutOfMemoryError, match=wanted):
        taking._take_steps(0, iter([clips(0, 1)]))
    del problems[0]
    with pytest.raises(OutOfMemoryError, match="CUDA out of memory"):
        taking._take_steps(0, iter([clips(0, 1)]))
    problems[0] = RuntimeError("no kernel")
    with pytest.raises(RuntimeError, match="no kernel"):
        taking._take_steps(0, iter([clips(0, 1)]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_batchnorm_statistics_that_are_not_finite_stop_the_run(tiny: Tiny, value: float) -> None:
    taking = trainer(tiny())
    statistics = nn.BatchNorm3d(2, affine=False)
    taking.network.add_module("norm", statistics)
    taking.check_finite()
    assert statistics.running_var is not None
    statistics.running_var[1] = value
    with pytest.raises(DivergedError, match="BatchNorm statistics are not finite; the last checkpoint"):
        taking.check_finite()


def test_broken_videos_are_reported_once_and_too_many_stop(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    taking = trainer(tiny(data={"max_bad": 0.02}), videos=100)
    broken = [Failed(f"v{i}.mp4", f"reason {i}", i) for i in range(3)]
    for video in (broken[0], broken[0], broken[1], broken[0]):
        taking.take_step(iter([clips(0, 1, bad=(video,))]), epoch=0, step=0)
    assert capsys.readouterr().out.splitlines() == [
        "left out: v0.mp4: reason 0",
        "left out: v1.mp4: reason 1",
    ]
    with pytest.raises(
        ManifestError,
        match=r"3 of 100 videos could not be decoded.*max_bad = 0.02 .2 %. allows(?s:.*)v2.mp4: reason 2",
    ):
        taking.take_step(iter([clips(0, 1, bad=(broken[2],))]), epoch=0, step=0)


def test_a_batch_without_a_readable_video_stops(tiny: Tiny) -> None:
    taking = trainer(tiny(data={"max_bad": 1.0}))
    with pytest.raises(ManifestError, match=r"no video of a batch(?s:.*)v0.mp4: broke"):
        taking.take_step(iter([clips(bad=(Failed("v0.mp4", "broke", 0),))]), epoch=0, step=0)
