"""Ways to compute a network that `t3d bench model` compares.

To add a way of torch, add a line to `SETTINGS`.

Legend: B batch, C channels, T frames, H height, W width, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from t3d.bench.work import Work

Scorer = Callable[[Tensor], object]
"""Function of clips, float32 B C T H W."""


@dataclass(frozen=True)
class Setting:
    """A way to compute a network with torch.

    Args:
        channels_last: Whether weights and clips are stored with the channels of a pixel side by side.
        prepare: Function from a network in evaluation mode to one that computes the same.
        eager: Whether torch runs the network's own code.
    """

    channels_last: bool
    prepare: Callable[[nn.Module], Callable[[Tensor], Tensor]] = lambda net: net
    eager: bool = True


EAGER, CHANNELS_LAST, COMPILED = "eager", "eager, channels last", "compiled"
SETTINGS: dict[str, Setting] = {
    EAGER: Setting(channels_last=False),
    CHANNELS_LAST: Setting(channels_last=True),
    COMPILED: Setting(channels_last=True, prepare=lambda net: torch.compile(net), eager=False),
}
"""Ways to compute a network with torch, by name. The first one, in fp32 and batch 1, is the reference."""


@dataclass(frozen=True)
class Candidate:
    """One row of a benchmark before it is measured.

    Args:
        network: The network.
        setting: Program that computes it, and how.
        precision: Numbers it computes with.
        open: Function that returns the scorer. It may raise any error, which becomes the error of the row.
        channels_last: See `Setting`.
        shape: Shape of a clip, C T H W.
        work: Work per clip; None if it is not known.
        eager: See `Row`.
        fixed_batch: Batch size that does not follow the options.
        follows: Whether `auto` takes the batch size found for another row, because each size takes minutes.
        job: Options of the process that measures memory; None if there is none.
    """

    network: str
    setting: str
    precision: str
    open: Callable[[], Scorer]
    channels_last: bool
    shape: tuple[int, ...]
    work: Work | None = None
    eager: bool = False
    fixed_batch: int | None = None
    follows: bool = False
    job: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """Name that no other row has."""
        return f"{self.network}, {self.setting}, {self.precision}"

    def clips(self, batch: int, device: torch.device) -> Tensor:
        """Return clips of random numbers, B C T H W, as this row reads them."""
        layout = torch.channels_last_3d if self.channels_last else torch.contiguous_format
        generator = torch.Generator(device).manual_seed(0)
        clips = torch.randn((batch, *self.shape), generator=generator, device=device)
        return clips.contiguous(memory_format=layout)


def in_layout(net: nn.Module, *, channels_last: bool) -> nn.Module:
    """Return a copy of a network in evaluation mode, in a memory layout."""
    layout = torch.channels_last_3d if channels_last else torch.contiguous_format
    return copy.deepcopy(net).eval().to(memory_format=layout)


def scorer_of(net: nn.Module, setting: Setting, *, bf16: bool, device: torch.device) -> Scorer:
    """Return the function that scores clips.

    Args:
        net: The network, which is copied.
        setting: The way to compute it.
        bf16: Compute in bfloat16 with torch's autocast.
        device: The device.
    """
    prepared = setting.prepare(in_layout(net, channels_last=setting.channels_last).to(device))

    @torch.inference_mode()
    def score(clips: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            return prepared(clips)

    return score


def torch_candidate(
    network: tuple[str, nn.Module, tuple[int, ...], Work | None],
    setting: str,
    precision: str,
    device: torch.device,
    *,
    saved: Path | None = None,
    eager: bool = False,
    channels_last: bool | None = None,
    fixed_batch: int | None = None,
) -> Candidate:
    """Return a row that torch computes.

    Args:
        network: Name, network, shape of a clip C T H W, and work.
        setting: One of `SETTINGS`.
        precision: `fp32` or `bf16`.
        device: The device.
        saved: File of the network, for the process that measures memory. None measures no memory there.
        eager: See `Row`.
        channels_last: Memory layout, instead of that of the setting.
        fixed_batch: See `Candidate`.
    """
    name, net, shape, work = network
    way = SETTINGS[setting]
    if channels_last is not None:
        way = Setting(channels_last, way.prepare, way.eager)
    job = None
    if saved is not None and way.eager and device.type == "cpu":
        job = {
            "kind": "torch",
            "path": str(saved),
            "precision": precision,
            "channels_last": way.channels_last,
        }
        job["modules"] = sorted({type(module).__module__ for module in net.modules()})
    return Candidate(
        name,
        setting,
        precision,
        lambda: scorer_of(net, way, bf16=precision == "bf16", device=device),
        way.channels_last,
        shape,
        work,
        eager=eager and way.eager,
        fixed_batch=fixed_batch,
        follows=not way.eager,
        job=job,
    )
