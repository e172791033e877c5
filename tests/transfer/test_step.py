from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from t3d.card import ModelCard
from t3d.clip import IMAGENET_MEAN, IMAGENET_STD, ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.data.manifest.manifest import Manifest
from t3d.errors import Failed, ManifestError
from t3d.models.registry import create_model
from t3d.training.config import ModelConfig, OptimConfig
from t3d.training.run_folder import RunFolder
from t3d.training.start import Run
from t3d.training.trainer import Trainer
from t3d.transfer.config import PairConfig, PoolConfig, TeacherConfig, TransferConfig
from t3d.transfer.dataset import CollatePairs, PairBatch
from t3d.transfer.step import TransferStep, first_of, pair_metrics
from t3d.transfer.student import TransferNet
from t3d.transfer.teachers.base import Teacher
from t3d.transfer.teachers.library import TorchTeacher

NET = ModelConfig(
    name="densenet3d_tiny",
    options={"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1},
)
FEATURES = 6
GROUPS = torch.tensor([0, 1, 2, 2, 3, 1, 4, 5])  # of eight videos: 2 and 3, 1 and 5 are of one source
Seen = Callable[[Teacher, Tensor], Tensor]


def config_of(**changes: Any) -> TransferConfig:
    """Some options of a run; dictionaries change a part's fields."""
    base = TransferConfig(
        out="run",
        data=PoolConfig(videos="videos"),
        clip=ClipSpec(num_frames=4, stride=1, size=24, resize=24),
        model=NET,
        teacher=TeacherConfig(name="tiny", frames=3),
        pairs=PairConfig("match", negatives="all"),
        optim=OptimConfig(lr=0.1, weight_decay=0.0, epochs=1, batch_size=4, schedule="constant"),
        precision="fp32",
    )
    parts = {
        name: replace(getattr(base, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return replace(base, **parts)


def tiny_teacher() -> TorchTeacher:
    """A teacher with an unusual BatchNorm: a forward in training mode would show, and leave a trace."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        norm = nn.BatchNorm2d(FEATURES)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        net = nn.Sequential(nn.Conv2d(3, FEATURES, 5, stride=3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return TorchTeacher("tiny", net, size=24, mean=IMAGENET_MEAN, std=IMAGENET_STD)


class Holder(nn.Module):
    """Something that holds student, heads and teacher together, as a user may."""

    def __init__(self, net: TransferNet, teacher: Teacher) -> None:
        super().__init__()
        self.net = net
        self.teacher = teacher

    def forward(self, clips: Tensor, frames: Tensor) -> dict[str, Tensor]:
        return self.net(clips, frames)


def trainer(config: TransferConfig, teacher: Teacher | None, *, held: bool = False) -> Trainer:
    torch.manual_seed(0)
    model: nn.Module = TransferNet(
        create_model(NET.name, num_classes=0, options=NET.options),
        FEATURES * {"mean": 1, "mean_std": 2, "concatenate": 3}[config.pooling],
        config.pairs,
    )
    if held:
        assert teacher is not None
        model = Holder(model, teacher)
    accelerator = Accelerator(cpu=True)
    run = Run(config, accelerator, RunFolder(config.out), FrameStore(config.clip), resume=False)
    step = TransferStep(config, accelerator.device, teacher=teacher, groups=GROUPS)
    columns = {"path": [f"{i}.mp4" for i in range(8)], "label": pa.nulls(8, pa.int64())}
    columns |= {"start": pa.nulls(8, pa.float64()), "end": pa.nulls(8, pa.float64())}
    videos = Manifest((), pa.table(columns | {"source": columns["path"]}))
    return Trainer(run, model, step, videos=videos, describe=lambda _: ModelCard(NET.name))


def step_of(taking: Trainer) -> TransferStep:
    assert isinstance(taking.train_step, TransferStep)
    return taking.train_step


def batch_of(
    *videos: int,
    seed: int = 0,
    other: list[bool] | None = None,
    features: bool = False,
    bad: tuple[Failed, ...] = (),
) -> PairBatch:
    generator = torch.Generator().manual_seed(seed)
    count = len(videos)
    sets = count if other is None else 2 * count
    seen = torch.randint(0, 256, (sets, 3, 3, 24, 24), generator=generator).byte()
    if features:
        seen = torch.rand(sets, 3, FEATURES, generator=generator)
    return PairBatch(
        frames=torch.randint(0, 256, (count, 4, 3, 24, 24), generator=generator).byte(),
        teacher=seen,
        other=None if other is None else torch.tensor(other),
        videos=torch.tensor(videos),
        bad=bad,
    )


def as_seen(clip: Tensor, spec: ClipSpec) -> Tensor:
    """Convert a clip T C H W to the input of a network, C T H W, frame by frame."""
    scaled, out = clip.float() / 255, []
    for number, frame in enumerate(scaled):
        if spec.modality == "diff":
            out.append(
                (frame - scaled[number - 1] if number else 0 * frame) / torch.tensor(spec.std)[:, None, None]
            )
        else:
            out.append(
                (frame - torch.tensor(spec.mean)[:, None, None]) / torch.tensor(spec.std)[:, None, None]
            )
    return torch.stack(out, 1)


def slow_scores(
    model: nn.Module, batch: PairBatch, config: TransferConfig, see: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Scores of each pair of one clip and one set of frames, alone; `see` gives a single frame's feature."""
    assert batch.frames is not None
    rows: dict[str, list[Tensor]] = {}
    for clip in batch.frames:
        for seen in batch.teacher:
            each = [see(frame) for frame in seen]
            feature = torch.cat(each) if config.pooling == "concatenate" else sum(each) / len(each)
            if config.pooling == "mean_std":
                feature = torch.cat((feature, torch.stack(each).std(0, correction=0)))
            for name, score in model(as_seen(clip, config.clip)[None], feature[None]).items():
                assert score.shape == (1, 1)
                rows.setdefault(name, []).append(score.squeeze())
    return {name: torch.stack(list_).view(len(batch.frames), -1) for name, list_ in rows.items()}


def slow_masks(batch: PairBatch) -> tuple[list[list[bool]], list[list[bool]]]:
    """Return masks of the positive and negative pairs, checked one by one."""
    videos = batch.videos.tolist()
    count = len(videos)
    positive, negative = [], []
    for clip in range(count):
        for seen in range(len(batch.teacher)):
            source = seen % count
            apart = bool(GROUPS[videos[clip]] != GROUPS[videos[source]])
            if seen < count:
                positive.append(clip == seen)
                negative.append(apart)
            else:
                assert batch.other is not None
                positive.append(False)
                negative.append(bool(batch.other[source]) and (apart or clip == source))
    rows = [slice(at, at + len(batch.teacher)) for at in range(0, len(positive), len(batch.teacher))]
    return [positive[row] for row in rows], [negative[row] for row in rows]


def used(model: nn.Module, config: TransferConfig, teacher: Teacher) -> None:
    """A few steps in training mode, so that BatchNorm has seen something."""
    step = step_of(trainer(config, teacher))
    for seed in range(3):
        model.train()
        with torch.no_grad():
            step.score(model, batch_of(0, 1, 2, 4, seed=20 + seed), GROUPS)
    model.eval()


# --- scores -------------------------------------------------------------------------------------------------


def without_fillers(scores: Tensor, other: list[bool] | None) -> Tensor:
    """Scores with zeros where a video has no other time."""
    if other is None:
        return scores
    return scores * torch.tensor([True] * len(other) + other)


def test_placeholders_of_missing_times_change_nothing() -> None:
    config = config_of(pairs={"objective": "sum"})
    scoring = trainer(config, None)
    used(scoring.network, config, tiny_teacher())
    scoring.network.train()
    outputs = []
    for value in (0.0, 100.0):
        batch = batch_of(0, 1, 5, 7, other=[False, True, True, True], features=True)
        batch.teacher[4] = value
        state = copy.deepcopy(scoring.network.state_dict())
        with torch.no_grad():
            scores, _, negative = step_of(scoring).score(scoring.network, batch, GROUPS)
        outputs.append([*scores.values(), *scoring.network.standardize.state_dict().values()])
        scoring.network.load_state_dict(state)
        assert not negative[:, 4].any()
    for one, other in zip(*outputs, strict=True):
        assert torch.equal(one, other)


def test_a_single_readable_clip_is_refused_with_the_cause() -> None:
    scoring = trainer(config_of(), None)
    batch = replace(batch_of(1, features=True), bad=(Failed("b.mp4", "is broken", 2),))
    with pytest.raises(ManifestError, match=r"a batch has fewer than two readable videos.*b\.mp4: is broken"):
        scoring.train_step.loss(scoring.network, batch, np.random.default_rng(0))


@pytest.mark.parametrize("other", [None, [True, True, False, True]])
@pytest.mark.parametrize(
    ("objective", "modality", "pooling"),
    [
        ("sum", "rgb", None),
        ("sum", "rgb", "concatenate"),
        ("match", "diff", None),
        ("contrastive", "rgb", "mean_std"),
        ("regress", "rgb", None),
        ("regress", "diff", "concatenate"),
    ],
)
def test_scores_are_those_of_clips_and_frames_taken_one_by_one(
    seen_by: Seen, objective: str, modality: str, pooling: str | None, other: list[bool] | None
) -> None:
    config = config_of(
        pairs={"objective": objective}, clip={"modality": modality}, teacher={"pooling": pooling}
    )
    teacher = tiny_teacher()
    scoring = trainer(config, teacher)
    used(scoring.network, config, teacher)
    batch = batch_of(5, 2, 3, 6, other=other)
    kept = copy.deepcopy(batch)

    @torch.no_grad()
    def see(frame: Tensor) -> Tensor:
        return teacher.net(seen_by(teacher, frame[None])).flatten()

    with torch.no_grad():
        scores, positive, negative = step_of(scoring).score(scoring.network, batch, GROUPS)
        want = slow_scores(scoring.network, batch, config, see)
    assert list(scores) == list(want)
    assert set(scores) == ({"match", "contrastive", "regress"} if objective == "sum" else {objective})
    for name, score in scores.items():
        assert score.dtype == torch.float32
        assert score.shape == (4, 4 if other is None else 8)
        assert score.std() > 5e-4  # else anything would agree
        torch.testing.assert_close(score, without_fillers(want[name], other), rtol=1e-3, atol=2e-5)
    assert (positive.tolist(), negative.tolist()) == slow_masks(batch)
    for name in ("frames", "teacher", "videos"):
        assert torch.equal(getattr(batch, name), getattr(kept, name)), name


@pytest.mark.parametrize("pooling", ["mean", "mean_std", "concatenate"])
def test_features_of_a_batch_are_taken_as_they_are(pooling: str) -> None:
    config = config_of(pairs={"objective": "sum"}, teacher={"pooling": pooling})
    scoring = trainer(config, None)
    used(scoring.network, config, tiny_teacher())
    batch = batch_of(0, 1, 5, 7, other=[False, True, True, True], features=True)
    with torch.no_grad():
        scores, positive, negative = step_of(scoring).score(scoring.network, batch, GROUPS)
        want = slow_scores(scoring.network, batch, config, lambda feature: feature)
    for name, score in scores.items():
        fair = without_fillers(want[name], [False, True, True, True])
        torch.testing.assert_close(score, fair, rtol=1e-3, atol=2e-5)
    assert (positive.tolist(), negative.tolist()) == slow_masks(batch)


def test_groups_are_those_of_the_rows_that_the_batch_names() -> None:
    scoring = trainer(config_of(), None)
    batch = batch_of(1, 0, features=True)
    with torch.no_grad():
        for groups, apart in ((torch.tensor([3, 4]), True), (torch.tensor([3, 3]), False)):
            _, positive, negative = step_of(scoring).score(
                scoring.network, batch, groups
            )  # as for held-out videos
            assert positive.tolist() == [[True, False], [False, True]]
            assert negative.tolist() == [[False, apart], [apart, False]]


def test_in_bfloat16_scores_are_float32_and_nearly_the_same() -> None:
    teacher, batch = tiny_teacher(), batch_of(0, 1, 2, 4)
    outputs = []
    for precision in ("fp32", "bf16"):
        config = config_of(precision=precision)
        scoring = trainer(config, teacher)
        used(scoring.network, config_of(), teacher)
        with torch.no_grad():
            outputs.append(step_of(scoring).score(scoring.network, batch, GROUPS)[0]["match"])
    full, half = outputs
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.02)


# --- steps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [False, True])
def test_the_teacher_stays_as_it_is_while_student_and_heads_learn(held: bool) -> None:
    teacher = tiny_teacher()
    config = config_of(pairs={"objective": "sum"}, optim={"weight_decay": 0.1})
    taking = trainer(config, teacher, held=held)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    assert any("running_mean" in name for name in before)
    net = taking.network.net if isinstance(taking.network, Holder) else taking.network
    learning = {name: value.detach().clone() for name, value in net.named_parameters()}
    for number in range(3):
        taking.take_step(iter([batch_of(0, 1, 2, 4, seed=number)]), epoch=0, step=number)
        assert taking.network.training
        assert not any(part.training for part in teacher.modules())
        for name, value in net.named_parameters():
            assert value.grad is not None, name
            assert value.grad.any(), name
            assert not torch.equal(value, learning[name]), name
    assert {name.split(".")[0] for name in learning} == {"student", "clip_fc", "frames_fc", "heads"}
    assert all(parameter.grad is None for parameter in teacher.parameters())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_step_follows_the_gradient_of_the_slow_loss(seen_by: Seen) -> None:
    """Plain gradient descent, written out; BatchNorm sees the whole batch, so clips go in together."""
    teacher = tiny_teacher()
    taking = trainer(config_of(optim={"momentum": 0.0}), teacher)
    net = copy.deepcopy(taking.network).train()
    batch = batch_of(5, 2, 3, 6, other=[True] * 4)
    assert batch.frames is not None
    with torch.no_grad():
        features = torch.stack(
            [teacher.net(seen_by(teacher, frames)).flatten(1).mean(0) for frames in batch.teacher]
        )
    x = torch.stack([as_seen(clip, taking.config.clip) for clip in batch.frames])
    scores = net(x, features)["match"]
    positive, negative = slow_masks(batch)
    right = [-nn.functional.logsigmoid(scores[i, i]) for i in range(4)]
    wrong = [-nn.functional.logsigmoid(-scores[i, j]) for i in range(4) for j in range(8) if negative[i][j]]
    assert sum(map(sum, positive)) == 4
    loss = sum(right) / len(right) / 2 + sum(wrong) / len(wrong) / 2
    loss.backward()
    taking.take_step(iter([batch]), epoch=0, step=0)
    for (name, mine), want in zip(taking.network.named_parameters(), net.parameters(), strict=True):
        assert want.grad is not None
        torch.testing.assert_close(mine, want - 0.1 * want.grad, rtol=1e-3, atol=1e-5, msg=name)
    assert taking.report()["loss"] == pytest.approx(loss.item(), rel=1e-4)


def test_the_draw_of_negatives_follows_from_the_place_in_the_run() -> None:
    def loss(*, seed: int = 0, epoch: int = 0, step: int = 0) -> float:
        config = config_of(pairs={"negatives": "one"}, optim={"lr": 1e-30, "batch_size": 8}, seed=seed)
        taking = trainer(config, None)
        torch.manual_seed(int(np.random.default_rng().integers(1000)))
        taking.take_step(iter([batch_of(*range(8), features=True)]), epoch=epoch, step=step)
        return taking.report()["loss"]

    assert loss() == loss()
    assert len({loss(), loss(seed=1), loss(epoch=1), loss(step=1)}) == 4


def test_a_report_holds_the_figures_of_the_pairs_since_the_last() -> None:
    taking = trainer(config_of(optim={"lr": 1e-30}), None)
    batches = [batch_of(0, 1, 2, 3, seed=seed, features=True) for seed in range(3)]
    slow: list[tuple[list[float], list[float], list[bool]]] = []
    for batch in batches:
        scores = (
            step_of(taking).score(copy.deepcopy(taking.network).train(), batch, GROUPS)[0]["match"].tolist()
        )
        positive, negative = slow_masks(batch)
        right = [scores[i][j] for i in range(4) for j in range(4) if positive[i][j]]
        wrong = [scores[i][j] for i in range(4) for j in range(4) if negative[i][j]]
        rivals = [[scores[i][j] for j in range(4) if negative[i][j]] for i in range(4)]
        slow.append((right, wrong, [own > max(others) for own, others in zip(right, rivals, strict=True)]))

    def figures(parts: list[tuple[list[float], list[float], list[bool]]]) -> dict[str, float]:
        right, wrong, first = ([value for part in parts for value in part[k]] for k in range(3))
        wins = [(own > other) + (own == other) / 2 for own in right for other in wrong]
        hit, false = np.mean(np.array(right) > 0), np.mean(np.array(wrong) > 0)
        return {
            "auc": float(np.mean(wins)),
            "top1": float(np.mean(first)),
            "accuracy": float(hit + 1 - false) / 2,
            "recall": float(hit),
        }

    for number, batch in enumerate(batches[:2]):
        taking.take_step(iter([batch]), epoch=0, step=number)
    line = taking.report()
    assert {name: line[name] for name in figures(slow[:2])} == pytest.approx(figures(slow[:2]))
    assert {"loss", "lr", "clips_per_second", "precision"} <= line.keys()
    taking.take_step(iter([batches[2]]), epoch=0, step=2)
    line = taking.report()
    assert {name: line[name] for name in figures(slow[2:])} == pytest.approx(figures(slow[2:]))
    assert figures(slow[2:]) != figures(slow[:2])


def test_broken_videos_are_counted_and_a_batch_of_nothing_else_stops(
    capsys: pytest.CaptureFixture[str],
) -> None:
    taking = trainer(config_of(data={"max_bad": 0.2}), None)  # one of eight
    broken = Failed("three.mp4", "broke", 3)
    for number in range(2):
        batch = batch_of(0, 1, 2, features=True, bad=(broken,))
        taking.take_step(iter([batch]), epoch=0, step=number)
    assert capsys.readouterr().out.splitlines() == ["left out: three.mp4: broke"]
    nothing = CollatePairs(other_time=False)([broken])
    with pytest.raises(ManifestError, match=r"no video of a batch could be read(?s:.*)three\.mp4: broke"):
        taking.take_step(iter([nothing]), epoch=0, step=2)
    batch = batch_of(0, 1, 2, features=True, bad=(Failed("four.mp4", "broke too", 4),))
    with pytest.raises(ManifestError, match=r"2 of 8 videos could not be decoded(?s:.*)four\.mp4: broke too"):
        taking.take_step(iter([batch]), epoch=0, step=2)


# --- which scores are counted -------------------------------------------------------------------------------


def test_match_is_counted_where_it_is_learned() -> None:
    assert first_of({"match": 0, "contrastive": 0}) == "match"
    assert first_of({"contrastive": 0, "match": 0}) == "match"
    assert first_of({"contrastive": 0}) == "contrastive"
    assert first_of({"regress": 0}) == "regress"


@pytest.mark.parametrize(
    ("objective", "undecided"), [("match", True), ("sum", True), ("contrastive", False), ("regress", False)]
)
def test_only_logits_say_yes_or_no(objective: str, undecided: bool) -> None:
    config = config_of(pairs={"objective": objective})
    metrics = pair_metrics(config)
    assert metrics.threshold == (0.0 if undecided else None)
    scores, _, _ = step_of(trainer(config, None)).score(
        trainer(config, None).network, batch_of(0, 1, features=True), GROUPS
    )
    own = torch.eye(2, dtype=torch.bool)
    metrics.add(scores[first_of(scores)], own, ~own)
    figures = metrics.figures()
    assert ("accuracy" in figures) == undecided
    assert {"auc", "top1"} <= figures.keys()
    metrics = pair_metrics(config)  # each is an empty one
    metrics.add(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), own, ~own)
    assert metrics.figures()["auc"] == 1
