"""`t3d bench train`: time training steps of a network, in turn.

Legend: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from t3d.bench.candidates import CHANNELS_LAST, COMPILED, EAGER, SETTINGS, Candidate
from t3d.bench.config import TrainBenchConfig
from t3d.bench.finish import finished
from t3d.bench.measure import measure_rows
from t3d.bench.opening import Subject, open_subject, threads
from t3d.bench.result import BenchResult
from t3d.bench.textbook import has_textbook, textbook
from t3d.bench.train_step import train_step
from t3d.bench.work import Work, work_of
from t3d.device import has_bf16, pick_device
from t3d.errors import ConfigError
from t3d.models.densenet3d import DenseNet3D
from t3d.models.grad_checkpointing import GradCheckpointing
from t3d.models.net import VideoNet

RECOMPUTED: dict[str, GradCheckpointing] = {
    "eager, channels last, recompute layers": "layers",
    "eager, channels last, recompute blocks": "blocks",
}
"""Ways that recompute activations in the backward pass."""


def recomputing(net: nn.Module, mode: GradCheckpointing) -> nn.Module:
    """Let a network recompute activations in the backward pass."""
    for module in net.modules():
        if isinstance(module, VideoNet):
            module.set_grad_checkpointing(mode)
    return net


WAYS: dict[str, tuple[bool, Callable[[nn.Module], Callable[[Tensor], Tensor]]]] = {
    EAGER: (False, lambda net: net),
    CHANNELS_LAST: (True, lambda net: net),
    **{name: (True, partial(recomputing, mode=mode)) for name, mode in RECOMPUTED.items()},
    COMPILED: (True, SETTINGS[COMPILED].prepare),
}
"""Ways to train a network, by name: channels last in memory or not, and what is done to the network."""


def bench_train(config: TrainBenchConfig) -> BenchResult:
    """Time training steps: forward pass, loss, backward pass and SGD, on clips in memory.

    The reference is the network in eager PyTorch: float32, contiguous, with the same batch size. With `auto`
    the reference has the batch size that is fastest for it.

    Args:
        config: What to measure.

    Returns:
        One row per way, the reference first.

    Raises:
        CheckpointError: The file cannot be used.
        ConfigError: There is no such model or device, or the model cannot be trained.
    """
    device = pick_device(config.device)
    subject = open_subject(config.model, num_frames=config.num_frames, size=config.size)
    if subject.file is not None:
        raise ConfigError(f"{config.model} is an exported file, which cannot be trained. Give the run folder")
    with threads(config.threads) as count, tempfile.TemporaryDirectory() as folder:
        candidates = train_candidates(
            subject, device, peers=config.peers, compiled=config.compile, folder=Path(folder)
        )
        measured = measure_rows(candidates, batch=config.batch, seconds=config.seconds, device=device)
        return finished("train", subject, candidates, measured, device, count, memory=config.memory)


def train_candidates(
    subject: Subject, device: torch.device, *, peers: bool, compiled: bool, folder: Path
) -> list[Candidate]:
    """Return the rows to measure, the reference first.

    Args:
        subject: The network.
        device: Device that computes.
        peers: Whether to add the textbook version.
        compiled: Whether to add torch.compile.
        folder: Folder for the networks, which other processes read to measure memory.
    """
    precisions = ("fp32", "bf16") if has_bf16(device) else ("fp32",)
    networks: list[tuple[str, nn.Module, tuple[str, ...]]] = []
    ways = (EAGER, CHANNELS_LAST, *RECOMPUTED, *((COMPILED,) if compiled else ()))
    networks.append((subject.name, subject.scorer, ways))
    if peers and isinstance(subject.net, DenseNet3D) and has_textbook(subject.net):
        plain = (EAGER, *((COMPILED,) if compiled else ()))
        networks.append((f"{subject.name}, textbook", textbook(subject.net), plain))
    candidates = []
    for number, (name, net, names) in enumerate(networks):
        saved = folder / f"network{number}.pt"
        torch.save(net, saved)
        forward = work_of(net, subject.shape)
        # The backward pass computes two products per product: for the input, and for the weights.
        work = Work(3 * forward.macs, 3 * forward.activations, 3 * forward.weights)
        for way in names:
            channels_last, prepare = WAYS[way]
            textbook_row = number > 0
            candidates += [
                _candidate(
                    (name, net, subject.shape, work),
                    way,
                    precision,
                    device,
                    prepare=prepare,
                    channels_last=channels_last and not textbook_row,
                    saved=saved,
                )
                for precision in precisions
            ]
    return candidates


def _candidate(
    network: tuple[str, nn.Module, tuple[int, ...], Work],
    way: str,
    precision: str,
    device: torch.device,
    *,
    prepare: Callable[[nn.Module], Callable[[Tensor], Tensor]],
    channels_last: bool,
    saved: Path,
) -> Candidate:
    name, net, shape, work = network
    bf16 = precision == "bf16"
    layout = torch.channels_last_3d if channels_last else torch.contiguous_format

    def open_row() -> Callable[[Tensor], object]:
        trained = copy.deepcopy(net).train().to(device).to(memory_format=layout)
        steps: dict[torch.Size, Callable[[], float]] = {}

        def run(clips: Tensor) -> object:
            if clips.shape not in steps:
                steps.clear()
                steps[clips.shape] = train_step(trained, clips, bf16=bf16, prepare=prepare)
            return steps[clips.shape]()

        return run

    job = None
    if way != COMPILED and device.type == "cpu":
        job = {"kind": "torch", "path": str(saved), "precision": precision, "channels_last": channels_last}
        job |= {"train": True, "checkpointing": RECOMPUTED.get(way, "none")}
        job["modules"] = sorted({type(module).__module__ for module in net.modules()})
    return Candidate(
        name,
        way,
        precision,
        open_row,
        channels_last,
        shape,
        work,
        eager=way != COMPILED,
        follows=way == COMPILED,
        job=job,
    )
