"""Two whole runs of seconds, a training on labels and a transfer: all that is drawn, and the final weights.

What is drawn (videos, clips, views, seeds, mixup) must be the same on every machine, and is compared exactly.
Losses and sums of weights must agree to 1e-4: the last bits of a convolution depend on the CPU. The weights'
digest is known for some machines; on another one its test alone is skipped, and says what to add.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from t3d.clip import ClipSpec
from t3d.data.clips.dataset import TrainClips
from t3d.data.clips.transforms import normalize
from t3d.data.config import AugmentConfig, DataConfig
from t3d.models.net import VideoNet
from t3d.models.weights import read_tensors, write_tensors
from t3d.training.config import ModelConfig, OptimConfig, TrainConfig
from t3d.training.logging import read_log
from t3d.training.run import train
from t3d.training.run_folder import RunFolder
from t3d.transfer.config import PairConfig, PoolConfig, TeacherConfig, TransferConfig
from t3d.transfer.dataset import CollatePairs, TransferClips
from t3d.transfer.run import transfer
from t3d.transfer.teachers.base import TEACHER_KEY

Make = Callable[..., Any]

# The videos are 40 pixels high: neither resized nor colored, since rounding in that depends on the CPU.
SPEC = ClipSpec(num_frames=8, stride=2, size=32, resize=40)
NET = ModelConfig(
    name="densenet3d_tiny",
    options={"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1},
)

TRAINED: dict[str, str] = {
    "torch 2.15.0+cu132 | numpy 2.4.6 | AVX512 | 1 thread(s) | AMD EPYC | 26 | 2 | 1024 KB": (
        "f61662aa6976ce994a3a14b9ecacb399638162db7563395e622fc87d44e58c35"
    ),
}
"""SHA-256 of the trained net's weights, by machine."""
TRANSFERRED: dict[str, str] = {
    "torch 2.15.0+cu132 | numpy 2.4.6 | AVX512 | 1 thread(s) | AMD EPYC | 26 | 2 | 1024 KB": (
        "a65d106dd8036879608b192a67144fffbb9469a020427f23a933ceb79746847e"
    ),
}
"""SHA-256 of the student's weights, by machine."""


@dataclass
class Seen:
    """Random draws of a run, in order.

    Args:
        keys: Epoch, row and visit of every clip that was read.
        views: Its pixels, uint8 [T, C, H, W].
        batches: Rows of every batch of pairs.
        seeds: torch's seed at every forward pass in training.
        inputs: What the net took in these, float32 [B, C, T, H, W].
        start: Sum of the magnitudes of the net's parameters in the first of these.
    """

    keys: list[tuple[int, ...]] = field(default_factory=list)
    views: list[Tensor] = field(default_factory=list)
    batches: list[list[int]] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    start: float = math.nan
    folder: RunFolder | None = None

    def log(self, kind: str) -> list[dict[str, Any]]:
        assert self.folder is not None
        return [line for line in read_log(self.folder.log) if line["kind"] == kind]

    def weights(self) -> dict[str, Tensor]:
        assert self.folder is not None
        return read_tensors(self.folder.last)[0]

    def paths(self, part: int) -> list[str]:
        """Names of the training videos (0) or the held-out ones (1)."""
        assert self.folder is not None
        table = self.folder.read_videos()[part]
        assert table is not None
        return [entry.path.stem for entry in table]


@contextmanager
def watched(clips: type[Any]) -> Iterator[Seen]:
    """Note what the clips and the net in training do; every process's own order needs `workers` = 0."""
    seen = Seen()
    read, collate = clips.__getitem__, CollatePairs.__call__

    def reading(self: Any, key: Any) -> Any:
        item = read(self, key)
        seen.keys.append(tuple(key))
        seen.views.append(item.frames)
        return item

    def collating(self: CollatePairs, items: Any) -> Any:
        seen.batches.append([item.video for item in items])
        return collate(self, items)

    def entering(module: nn.Module, args: Any) -> None:
        if isinstance(module, VideoNet) and module.training:
            if not seen.seeds:
                seen.start = sum(float(p.detach().abs().sum()) for p in module.parameters())
            seen.seeds.append(torch.initial_seed())
            seen.inputs.append(args[0].clone())

    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setattr(clips, "__getitem__", reading)
        patch.setattr(CollatePairs, "__call__", collating)
        stack.callback(register_module_forward_pre_hook(entering).remove)
        before = torch.get_num_threads()
        stack.callback(torch.set_num_threads, before)
        torch.set_num_threads(1)
        with torch.random.fork_rng(devices=[]):
            yield seen


def sha256(tensors: dict[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode() + tensor.numpy().tobytes())
    return total.hexdigest()


def sums(tensors: dict[str, Tensor]) -> list[float]:
    """Sum of magnitudes of all weights, then of each kernel."""
    kernels = [tensors[name].double() for name in sorted(tensors) if tensors[name].ndim > 1]
    values = [sum(float(t.double().abs().sum()) for t in tensors.values() if t.is_floating_point())]
    return [float(f"{value:.7g}") for value in values + [float(t.abs().sum()) for t in kernels]]


def check_bits(tensors: dict[str, Tensor], known: dict[str, str], machine: str) -> None:
    digest = sha256(tensors)
    if machine not in known:
        pytest.skip(
            f"no digest for this machine; where all other golden tests pass, add {machine!r}: {digest!r}"
        )
    assert digest == known[machine]


@pytest.fixture(scope="module")
def training(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Four epochs of one step of two passes: label subset, held-out videos, mixup, balance."""
    table = videos / "sources.csv"
    rows = [("ab"[number // 2 % 2], f"{number:02d}") for number in range(12)]
    lines = (f"{label}/{name}.mkv,{label},s{name}" for label, name in rows)
    table.write_text("\n".join(["path,label,source", *lines]) + "\n")
    config = TrainConfig(
        out=str(tmp_path_factory.mktemp("training") / "run"),
        seed=5,
        data=DataConfig(
            train=str(table),
            val_fraction=0.3,
            label_fraction=0.75,
            label_seed=2,
            balance=True,
            workers=0,
        ),
        clip=SPEC,
        augment=AugmentConfig(),
        model=NET,
        optim=OptimConfig(
            lr=0.02,
            epochs=4,
            batch_size=4,
            grad_accum_steps=2,
            schedule="cosine",
            warmup_epochs=1.5,
            mixup_alpha=0.4,
        ),
        precision="fp32",
        log_every=1,
    )
    with watched(TrainClips) as seen:
        seen.folder = RunFolder(train(config))
    return seen


def test_training_draws_its_videos(training: Seen) -> None:
    assert training.paths(0) == ["04", "05", "06", "07", "08", "10"]
    assert training.paths(1) == ["01", "03", "09", "11"]
    # fmt: off
    assert training.keys == [
        (0, 4, 0), (0, 3, 0), (0, 1, 0), (0, 2, 0), (1, 3, 0), (1, 4, 1), (1, 0, 0), (1, 1, 0), (2, 1, 0),
        (2, 2, 1), (2, 5, 1), (2, 3, 0), (3, 5, 0), (3, 1, 0), (3, 4, 0), (3, 2, 0)
    ]
    # fmt: on


def test_training_draws_its_views(training: Seen, digest: Make) -> None:
    assert digest(*training.views) == "098a893483ac083e"
    # fmt: off
    assert [(int(v[0, 0, 0, 0]), int(v[0, 1, 0, 0]), int(v[0, 1, 0, -1])) for v in training.views] == [
        (10, 80, 235), (60, 155, 0), (70, 235, 80), (10, 155, 0), (40, 80, 235), (0, 0, 155), (10, 235, 80),
        (70, 40, 195), (50, 80, 235), (90, 195, 40), (0, 155, 0), (40, 80, 235), (50, 80, 235), (10, 40, 195),
        (20, 195, 40), (30, 235, 80)
    ]
    # fmt: on


def test_training_draws_its_seeds_and_mixup(training: Seen) -> None:
    # fmt: off
    assert training.seeds == [
        1156291071, 1156291071, 625088614, 625088614, 552563565, 552563565, 1838680025, 1838680025
    ]
    # fmt: on
    shares = []
    for number, mixed in enumerate(training.inputs):
        clips = torch.stack(training.views[2 * number : 2 * number + 2])
        pure = normalize(clips, SPEC)
        apart = pure - pure.roll(1, 0)  # mixed = share · pure + (1 - share) · rolled
        shares.append(float(((mixed - pure.roll(1, 0)) * apart).sum() / apart.square().sum()))
    assert [round(share, 7) for share in shares] == pytest.approx(
        [0.0024368, 0.6417858, 0.0193851, 0.1417989, 0.9461643, 0.3899802, 0.1543063, 0.3919991], rel=1e-3
    )


def test_training_rates_losses_and_weights_are_pinned(training: Seen) -> None:
    assert [line["lr"] for line in training.log("train")] == pytest.approx(
        [0.013333333333333332, 0.02, 0.018090169943749474, 0.006909830056250526], rel=1e-12
    )
    assert float(f"{training.start:.7g}") == pytest.approx(384.3915, rel=1e-4)
    assert [float(f"{line['loss']:.7g}") for line in training.log("train")] == pytest.approx(
        [0.7957939, 0.546511, 0.9322625, 0.7208412], rel=1e-4
    )
    assert [float(f"{line['loss']:.7g}") for line in training.log("val")] == pytest.approx(
        [0.799337, 0.8023296, 0.745495, 0.7367595], rel=1e-4
    )
    assert sums(training.weights()) == pytest.approx(
        [442.548, 2.658117, 188.4751, 13.24364, 46.18952, 11.99131, 42.82118, 26.96809], rel=1e-4
    )


def test_training_ends_with_the_same_bits(training: Seen, machine: str) -> None:
    check_bits(training.weights(), TRAINED, machine)


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher whose weights follow a formula; `t3d teacher` writes such files."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    with torch.random.fork_rng(devices=[]):
        state = timm.create_model("resnet10t", pretrained=False, num_classes=4).state_dict()
    for number, tensor in enumerate(state.values()):
        if tensor.ndim > 1:
            waves = torch.arange(tensor.numel(), dtype=torch.float64).mul(0.7 + number / 9).sin()
            tensor.copy_((waves * math.sqrt(4 / tensor[0].numel())).reshape(tensor.shape))
        elif tensor.ndim == 1:
            tensor.fill_(0.0 if number % 5 in (2, 3) else 1.0)
    card = {"name": "timm:resnet10t", "size": 35}
    write_tensors(state, path, metadata={TEACHER_KEY: json.dumps(card)})
    return path


@pytest.fixture(scope="module")
def transferring(videos: Path, teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Two epochs of two steps, all objectives, one negative a clip, frames of other times."""
    config = TransferConfig(
        out=str(tmp_path_factory.mktemp("transfer") / "run"),
        seed=5,
        data=PoolConfig(videos=str(videos), source_pattern=r"(\d\d)$", val_fraction=0.3, workers=0),
        clip=ClipSpec(num_frames=8, stride=1, size=32, resize=40),
        augment=AugmentConfig(),
        model=NET,
        teacher=TeacherConfig(name=str(teacher_file), frames=2, augment=True),
        pairs=PairConfig("sum", other_time=True),
        optim=OptimConfig(lr=0.01, epochs=2, batch_size=4, schedule="constant"),
        precision="fp32",
        log_every=1,
    )
    with watched(TransferClips) as seen:
        seen.folder = RunFolder(transfer(config))
    return seen


def test_transfer_draws_its_videos(transferring: Seen) -> None:
    assert not set(transferring.paths(0)) & set(transferring.paths(1))
    assert transferring.paths(0) == ["00", "04", "05", "08", "02", "06", "07", "10"]
    assert transferring.paths(1) == ["01", "09", "03", "11"]


def test_transfer_draws_its_batches_and_those_held_out(transferring: Seen) -> None:
    """In each epoch two batches of training, then the held-out ones, which are the same every time."""
    # fmt: off
    assert transferring.batches == [
        [1, 4, 2, 3], [7, 5, 6, 0], [3, 1, 2, 0], [4, 2, 5, 0], [7, 6, 3, 1], [3, 1, 2, 0]
    ]
    # fmt: on
    assert transferring.seeds == [1156291071, 1279561213, 625088614, 35301595]


def test_transfer_draws_its_views(transferring: Seen, digest: Make) -> None:
    assert digest(*transferring.views) == "2182cec021e1c8aa"
    # fmt: off
    assert [(int(v[0, 0, 0, 0]), int(v[0, 1, 0, 0]), int(v[0, 1, 0, -1])) for v in transferring.views] == [
        (140, 80, 235), (20, 155, 0), (20, 80, 235), (110, 0, 155), (20, 80, 235), (0, 235, 80),
        (120, 195, 40), (110, 195, 40), (110, 40, 195), (150, 40, 195), (20, 40, 195), (100, 40, 195),
        (140, 155, 0), (60, 80, 235), (30, 0, 155), (20, 40, 195), (130, 80, 235), (140, 155, 0),
        (80, 195, 40), (140, 0, 155), (110, 40, 195), (150, 40, 195), (20, 40, 195), (100, 40, 195)
    ]
    # fmt: on


def test_transfer_losses_and_weights_are_pinned(transferring: Seen) -> None:
    assert [line["lr"] for line in transferring.log("train")] == [0.01, 0.01, 0.01, 0.01]
    assert float(f"{transferring.start:.7g}") == pytest.approx(386.2746, rel=1e-4)
    assert [float(f"{line['loss']:.7g}") for line in transferring.log("train")] == pytest.approx(
        [3.436296, 3.466737, 3.431201, 3.468464], rel=1e-4
    )
    assert [float(f"{line['loss']:.7g}") for line in transferring.log("val")] == pytest.approx(
        [3.446422, 3.446864], rel=1e-4
    )
    assert sums(transferring.weights()) == pytest.approx(
        [444.1795, 190.8716, 15.92062, 46.74592, 11.49755, 45.09406, 24.15133], rel=1e-4
    )


def test_transfer_ends_with_the_same_bits(transferring: Seen, machine: str) -> None:
    check_bits(transferring.weights(), TRANSFERRED, machine)
