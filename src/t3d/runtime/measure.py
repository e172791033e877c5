"""Measure which runtime scores the clips of a model fastest.

Legend: B batch, C channels, T frames, H height, W width, S segments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from t3d.clip import ClipSpec
from t3d.device import Compute
from t3d.models.net import VideoNet
from t3d.models.segments import with_consensus
from t3d.runtime.choice import RUNTIMES, Choice
from t3d.runtime.exported import ExportedModel
from t3d.timing import Rounds, alternate, timed

_CLIPS = 4  # of a batch
_SLOW = 0.4  # seconds of all models for a single clip, above which a batch has one
_ROUNDS = Rounds(most=7, seconds=1.0)
_WORTH = 1.1  # times as fast as PyTorch, or PyTorch stays


def fastest(net: VideoNet, exported: Sequence[ExportedModel], spec: ClipSpec, compute: Compute) -> Choice:
    """Time a network and its exported files on random clips, in turn, and choose the fastest.

    Args:
        net: The network, in evaluation mode, on the CPU.
        exported: Exported models of these weights, at least one.
        spec: What a clip is.
        compute: Precision of the network.
    """
    bf16 = compute.use_bf16(torch.device("cpu"))
    scorer = with_consensus(net, spec.segments)

    def network(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            scores: Tensor = scorer(x)
        return scores

    models: dict[str, Callable[[Tensor], Tensor]] = {
        "": network,
        **{str(model.path): model for model in exported},
    }
    shape = (_CLIPS, 3, spec.segments * spec.num_frames, spec.size, spec.size)
    clips = torch.rand(shape).to(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        if sum(timed(partial(model, clips[:1])) for model in models.values()) > _SLOW:
            clips = clips[:1]
        fastest_run = alternate(
            {name: partial(model, clips) for name, model in models.items()}, _ROUNDS
        ).fastest
    torch_seconds, *seconds = fastest_run.values()  # other work on the machine only makes them longer
    best = min(range(len(exported)), key=lambda number: seconds[number])
    winner, faster = exported[best], torch_seconds / seconds[best]
    if faster < _WORTH:
        precision = "bf16" if bf16 else "fp32"
        return Choice(
            "torch", f"PyTorch computes in {precision}; {winner.path.name} is not faster on this machine"
        )
    return Choice(
        winner.runtime,
        f"{RUNTIMES[winner.runtime]} computes {winner.path.name} in {winner.precision}, {faster:.1f} times "
        "as fast as PyTorch on this machine; the runtime `torch` uses PyTorch",
    )
