"""The heads against one pair at a time, by the paper's words; what learns, and what does not."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Literal, get_args

import pytest
import torch
from torch import Tensor, nn

from t3d.clip import IMAGENET_MEAN, IMAGENET_STD
from t3d.models.net import VideoNet
from t3d.models.registry import create_model
from t3d.transfer.config import Objective, PairConfig
from t3d.transfer.objectives import transfer_loss
from t3d.transfer.pairs import allowed_pairs
from t3d.transfer.student import MatchHead, TransferNet
from t3d.transfer.teachers.library import TorchTeacher

FEATURES = 12  # of the teacher
PAIRS = [PairConfig(objective, temperature=0.2) for objective in get_args(Objective)]
PAIRS += [PairConfig("contrastive", temperature=0.2, space="teacher"), PairConfig("sum", space="teacher")]
every_kind = pytest.mark.parametrize("pairs", PAIRS, ids=lambda pairs: f"{pairs.objective}-{pairs.space}")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def student() -> VideoNet:
    options = {"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1}
    return create_model("densenet3d_tiny", num_classes=0, options=options)


def build(pairs: PairConfig, seed: int = 0) -> TransferNet:
    torch.manual_seed(seed)
    return TransferNet(student(), FEATURES, pairs)


def clips(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 8, 32, 32, generator=torch.Generator().manual_seed(seed))


def features(count: int, seed: int = 0) -> Tensor:
    """Features like those after a ReLU: nonnegative, with widely differing scales."""
    generator = torch.Generator().manual_seed(100 + seed)
    scale = torch.logspace(-1, 2, FEATURES)
    return (torch.randn(count, FEATURES, generator=generator) + 0.5).clamp(min=0) * scale


# One pair at a time


def concatenated(head: MatchHead) -> nn.Linear:
    """The paper's layer 2048 → 512 of a head's weights: the frames' feature first, then the clip's."""
    layer = nn.Linear(2048, 512, dtype=head.frames.weight.dtype)
    del layer.weight, layer.bias
    layer.weight = torch.cat([head.frames.weight, head.clip.weight], 1)
    layer.bias = head.frames.bias
    return layer


def slow_match(head: MatchHead, frames: Tensor, clip: Tensor) -> Tensor:
    """Score one pair: concatenation, fc 512, fc 128, one number."""
    first, second, last = concatenated(head), head.rest[1], head.rest[3]
    assert isinstance(second, nn.Linear)
    assert isinstance(last, nn.Linear)
    hidden = first(torch.cat([frames, clip])).clamp(min=0)
    hidden = (second.weight @ hidden + second.bias).clamp(min=0)
    return (last.weight @ hidden + last.bias)[0]


@pytest.mark.parametrize(("count", "sets"), [(1, 1), (2, 2), (2, 4), (3, 6), (4, 3)])
@pytest.mark.parametrize("seed", range(2))
def test_the_head_scores_as_a_layer_on_each_concatenation(seed: int, count: int, sets: int) -> None:
    torch.manual_seed(seed)
    head = MatchHead().double()
    frames = torch.randn(sets, 1024, dtype=torch.float64, requires_grad=True)
    clip = torch.randn(count, 1024, dtype=torch.float64, requires_grad=True)
    got = head(frames, clip)
    want = torch.stack([torch.stack([slow_match(head, f, c) for f in frames]) for c in clip])
    assert got.shape == (count, sets)
    torch.testing.assert_close(got, want)
    weights = torch.randn(count, sets, dtype=torch.float64)  # another slope for each pair
    learned = [frames, clip, *head.parameters()]
    slopes = [torch.autograd.grad((weights * table).sum(), learned) for table in (got, want)]
    for one, two in zip(*slopes, strict=True):
        assert one.any()
        torch.testing.assert_close(one, two)


def test_the_head_has_the_layers_of_the_paper() -> None:
    head = MatchHead()
    assert concatenated(head).weight.shape == (512, 2048)
    assert sum(p.numel() for p in head.parameters()) == 2049 * 512 + 513 * 128 + 129


def test_both_halves_begin_as_one_layer_of_2048_inputs_would() -> None:
    torch.manual_seed(0)
    head, one = MatchHead(), nn.Linear(2048, 512)
    bound = 1 / math.sqrt(2048)
    for weight in (one.weight, head.frames.weight, head.clip.weight, head.frames.bias):
        assert 0.999 * bound < float(weight.detach().abs().max()) <= bound
        assert float(weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.01)
        assert float(weight.detach().mean()) == pytest.approx(0, abs=0.01 * bound)
    assert not torch.equal(head.frames.weight, head.clip.weight)


def slow_layer(layer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layer, nn.Linear)
    return layer.weight.double() @ x + layer.bias.double()


def slow_tables(net: TransferNet, pooled: Tensor, targets: Tensor, temperature: float) -> dict[str, Tensor]:
    """Score pair by pair in double precision, from the student's features and the standardized teacher's."""
    tables = {name: torch.zeros(len(pooled), len(targets), dtype=torch.float64) for name in net.heads}

    def cosine(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())

    for row, clip in enumerate(pooled.double()):
        for column, target in enumerate(targets.double()):
            for name, head in net.heads.items():
                if isinstance(head, nn.Linear):  # predicts the teacher's own feature
                    score = cosine(slow_layer(head, clip), target)
                else:
                    v = slow_layer(net.clip_fc[0], clip).clamp(min=0)
                    i = slow_layer(net.frames_fc[0], target).clamp(min=0)
                    if isinstance(head, MatchHead):
                        score = slow_match(copy.deepcopy(head).double(), i, v)
                    else:
                        one, two = head.children()
                        score = cosine(slow_layer(one, v), slow_layer(two, i))
                tables[name][row, column] = score / temperature if name == "contrastive" else score
    return tables


def slow_standard(frames: Tensor) -> Tensor:
    """Mean 0 and variance 1 of each feature over the batch."""
    columns = []
    for column in frames.double().T:
        mean = sum(column) / len(column)
        variance = sum((x - mean) ** 2 for x in column) / len(column)
        columns.append((column - mean) / (variance + 1e-5) ** 0.5)
    return torch.stack(columns, 1)


@torch.no_grad()
def run(net: TransferNet, clip: Tensor, frames: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The tables, and what the student gave."""
    pooled: list[Tensor] = []
    hook = net.student.register_forward_hook(lambda _, __, out: pooled.append(out))
    tables = net(clip, frames)
    hook.remove()
    return tables, pooled[0].float()


def check(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, table in got.items():
        assert table.dtype == torch.float32
        torch.testing.assert_close(table.double(), want[name], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@every_kind
@pytest.mark.parametrize(("count", "sets"), [(2, 2), (2, 4), (3, 6)])
def test_tables_are_what_single_pairs_give(pairs: PairConfig, count: int, sets: int) -> None:
    net = build(pairs, seed=count).train()
    frames = features(sets)
    tables, pooled = run(net, clips(count), frames)
    named = {"match", "contrastive", "regress"} if pairs.objective == "sum" else {pairs.objective}
    assert set(tables) == named
    if "contrastive" in named:
        assert isinstance(net.heads["contrastive"], nn.Linear) == (pairs.space == "teacher")
    check(tables, slow_tables(net, pooled, slow_standard(frames), pairs.temperature))


@torch.no_grad()
def test_outside_training_features_are_standardized_by_running_statistics() -> None:
    net = build(PairConfig("sum")).train()
    mean, variance = torch.zeros(FEATURES, dtype=torch.float64), torch.ones(FEATURES, dtype=torch.float64)
    for seed in range(5):
        frames = features(4, seed)
        net(clips(4, seed), frames)
        mean = 0.9 * mean + 0.1 * frames.double().mean(0)
        variance = 0.9 * variance + 0.1 * frames.double().var(0)
    net.eval()
    frames = features(6, 9)
    tables, pooled = run(net, clips(3), frames)
    check(tables, slow_tables(net, pooled, (frames.double() - mean) / (variance + 1e-5).sqrt(), 0.1))
    # Then the score of a pair depends on its clip and frames only.
    for row in range(3):
        alone = net(clips(3)[row : row + 1], frames[row + 1 : row + 3])
        for name, table in alone.items():
            part = tables[name][row : row + 1, row + 1 : row + 3]
            torch.testing.assert_close(table, part, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_scale_of_a_teacher_does_not_matter() -> None:
    net = build(PairConfig("sum")).train()
    frames = features(6)
    first, second = net(clips(3), frames), net(clips(3), 37 * frames - 5)
    for name, table in first.items():
        torch.testing.assert_close(table, second[name], rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("space", ["learned", "teacher"])
def test_cosines_are_within_their_bounds(space: Literal["learned", "teacher"]) -> None:
    tables = build(PairConfig("sum", temperature=0.05, space=space))(clips(4), features(8))
    assert float(tables["regress"].abs().max()) <= 1 + 1e-6
    assert float(tables["contrastive"].abs().max()) <= 1 / 0.05 + 1e-4


@torch.no_grad()
def test_heads_stay_in_single_precision_under_autocast() -> None:
    net = build(PairConfig("sum")).train()
    frames = features(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tables, pooled = run(net, clips(2), frames)
    check(tables, slow_tables(net, pooled, slow_standard(frames), 0.1))


# Parameters that learn


def masks(count: int, wide: bool) -> tuple[Tensor, Tensor]:
    return allowed_pairs(torch.arange(count), torch.ones(count, dtype=torch.bool) if wide else None)


@every_kind
@pytest.mark.parametrize("wide", [False, True])
def test_everything_in_the_net_learns(pairs: PairConfig, wide: bool) -> None:
    # A parameter without gradient would stop a run on several processes.
    net = build(pairs).train()
    tables = net(clips(3), features(6 if wide else 3))
    transfer_loss(tables, *masks(3, wide), pairs=pairs).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    for part in (net.student, net.clip_fc, *net.heads.values()):
        assert all(p.grad is not None and p.grad.any() for p in part.parameters() if p.ndim > 1)


def test_without_negatives_everything_has_a_gradient_still() -> None:
    net = build(PairConfig("sum")).train()
    positive, negative = allowed_pairs(torch.zeros(2, dtype=torch.int64), None)
    transfer_loss(net(clips(2), features(2)), positive, negative, pairs=PairConfig("sum")).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_a_frozen_student_gets_no_gradient_and_its_heads_do() -> None:
    net = build(PairConfig("sum"))
    net.student.freeze("backbone")
    net.train()
    before = {name: tensor.clone() for name, tensor in net.student.state_dict().items()}
    transfer_loss(net(clips(3), features(3)), *masks(3, False), pairs=PairConfig("sum")).backward()
    assert all(parameter.grad is None for parameter in net.student.parameters())
    assert all(p.grad is not None for name, p in net.named_parameters() if not name.startswith("student."))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.student.state_dict().items())


@every_kind
def test_the_teacher_gets_none(pairs: PairConfig) -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(3, FEATURES, 3), nn.BatchNorm2d(FEATURES))
    teacher = TorchTeacher("small", inner, size=16, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    net = build(pairs).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.1)
    pixels = torch.randint(0, 256, (4, 2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
    for _ in range(2):
        seen = teacher(pixels.flatten(0, 1)).unflatten(0, (4, 2)).mean(1)  # M D
        assert not seen.requires_grad
        kept = seen.clone()
        loss = transfer_loss(net(clips(4), seen), *masks(4, False), pairs=pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.equal(seen, kept), "the features are not changed in place"
        assert seen.grad is None
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


@every_kind
def test_a_pair_teaches_its_own_clip_and_no_other(pairs: PairConfig) -> None:
    net = build(pairs).eval()
    x = clips(3).requires_grad_()
    tables = net(x, features(6))
    for table in tables.values():
        slope = torch.autograd.grad(table[1, 4], x, retain_graph=True)[0]
        assert slope[1].any()
        assert not slope[[0, 2]].any()


def test_layers_of_1024_are_not_built_where_the_teachers_own_feature_is_predicted() -> None:
    for pairs in PAIRS:
        parts = {name.split(".")[0] for name, _ in build(pairs).named_parameters()}
        predicts = (pairs.objective, pairs.space) in (("regress", "learned"), ("contrastive", "teacher"))
        assert parts == {"student", "heads"} | (set() if predicts else {"clip_fc", "frames_fc"})
