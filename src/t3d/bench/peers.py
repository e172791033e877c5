"""Networks of other projects to compare with: torchvision's video networks, with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from torch import nn


@dataclass(frozen=True)
class Peer:
    """A network of another project.

    Args:
        name: Name of its builder.
        least: Minimum frames and side that it accepts.
        only: The only frames and side that it accepts; None if there are many.
    """

    name: str
    least: tuple[int, int] = (1, 16)
    only: tuple[int, int] | None = None

    def clip(self, frames: int, side: int) -> tuple[int, int] | None:
        """Return the frames and the side to measure at; None if the wanted clip is too small."""
        if self.only is not None:
            return self.only
        return (frames, side) if frames >= self.least[0] and side >= self.least[1] else None


PEERS = (
    Peer("r3d_18"),
    Peer("r2plus1d_18"),
    Peer("s3d", least=(14, 193)),
    Peer("mvit_v2_s", only=(16, 224)),
    Peer("swin3d_t", least=(2, 32)),
)
"""torchvision's video networks that are compared."""


def open_peers(
    frames: int, side: int, *, num_classes: int
) -> Iterator[tuple[str, nn.Module, tuple[int, int]]]:
    """Yield torchvision's video networks, with random weights.

    Args:
        frames: Frames of a clip.
        side: Side of a clip in pixels.
        num_classes: Number of classes.

    Yields:
        Name, which contains the clip if it is another one; network; frames and side to measure at. Networks
        that do not accept such small clips are left out, and all of them if torchvision is not installed.
    """
    if find_spec("torchvision") is None:
        return
    from torchvision.models import get_model

    for peer in PEERS:
        clip = peer.clip(frames, side)
        if clip is None:
            continue
        name = peer.name if clip == (frames, side) else f"{peer.name} at {clip[0]} × {clip[1]}²"
        yield name, get_model(peer.name, weights=None, num_classes=num_classes).eval(), clip
