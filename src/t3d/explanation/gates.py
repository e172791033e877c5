"""Gates on the branches of Temporal Transition Layers (TTLs): numbers that their outputs are multiplied by.

Legend: J branches, G settings of gates, B batch, C channels, T time, H height, W width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

from t3d.models.fusion import FusedNet, MemberFeatures
from t3d.models.net import VideoNet
from t3d.models.ttl import TemporalBranch, TemporalTransition
from t3d.models.ttl_insertion import InsertedTTL


@dataclass(frozen=True)
class Branch:
    """One branch of a TTL.

    Args:
        stage: Layer of the network that the branch belongs to, such as `transition1`, or the stage that an
            inserted TTL follows. For a member of a fused model, the member's number and architecture precede
            it.
        depth: Temporal depth of its convolution, in time steps of the map.
        module: The branch.
        layer: The TTL with everything that gets the same map, such as a shortcut.
    """

    stage: str
    depth: int
    module: TemporalBranch
    layer: nn.Module


def without_gradients(net: VideoNet) -> VideoNet:
    """Return a network in evaluation mode with the same weights, which share memory but need no gradients.

    Hooks on the copy do not affect the network, which other threads may use.

    Args:
        net: The network, which does not change.
    """
    shared: dict[int, object] = {
        id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in net.parameters()
    }
    return copy.deepcopy(net, shared).eval()


def branches_of(net: VideoNet) -> list[Branch]:
    """Return the branches of all TTLs of a network, in forward order; none if it has no TTL."""
    if isinstance(net, FusedNet):
        return [
            replace(branch, stage=f"{name}: {branch.stage}")
            for name, member in members_of(net)
            for branch in branches_of(member.net)
        ]
    names = {module: name.rpartition(".")[2] for name, module in net.named_modules()}
    return [
        Branch(
            stage if isinstance(layer, InsertedTTL) else names[layer],
            branch.conv.kernel_size[0],
            branch,
            layer,
        )
        for stage, modules in net.stages().items()
        for layer in modules
        if (ttl := _transition_of(layer)) is not None
        for branch in ttl.branches
        if isinstance(branch, TemporalBranch)
    ]


@contextmanager
def measured_steps(
    net: VideoNet, branches: Sequence[Branch], frames: int, steps: dict[str, float]
) -> Iterator[None]:
    """Record the time steps of the maps of TTLs while the network computes in the block.

    Args:
        net: The network. Nothing is recorded for a fused model, whose members may see other frames.
        branches: Its branches.
        frames: Number of frames of a clip.
        steps: Frames of the clip per time step, by the name of the layer; is filled.
    """

    def record(stage: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        steps[stage] = frames / inputs[0].shape[2]

    with ExitStack() as stack:
        for branch in () if isinstance(net, FusedNet) else branches:
            hook = branch.module.register_forward_pre_hook(partial(record, branch.stage))
            stack.callback(hook.remove)
        yield


def _transition_of(layer: nn.Module) -> TemporalTransition | None:
    if isinstance(layer, InsertedTTL):
        return layer.transition
    return layer if isinstance(layer, TemporalTransition) else None


def members_of(net: FusedNet) -> list[tuple[str, MemberFeatures]]:
    """Return the members of a fused model, by number and architecture."""
    members = (member for member in net.features.members if isinstance(member, MemberFeatures))
    return [
        (f"{number} {options.architecture}", member)
        for number, (options, member) in enumerate(zip(net.options.members, members, strict=True), start=1)
    ]


def by_stage(branches: Sequence[Branch]) -> dict[str, list[int]]:
    """Return the numbers of the branches of each stage, in forward order."""
    groups: dict[str, list[int]] = {}
    for number, branch in enumerate(branches):
        groups.setdefault(branch.stage, []).append(number)
    return groups


@contextmanager
def gated(branches: Sequence[Branch], gates: Tensor) -> Iterator[None]:
    """Multiply the output of each branch by its gate while the block runs.

    The layer of the branches repeats its map once per setting, so that everything before it is computed once.
    The network then returns all clips of the first setting, all clips of the second, and so on.

    Args:
        branches: The branches, J. With several settings, all of one layer.
        gates: Gate of each branch in each setting, float [G, J]. It may need gradients.
    """
    count = len(gates)
    with ExitStack() as stack:
        for layer in dict.fromkeys(branch.layer for branch in branches):
            stack.callback(layer.register_forward_pre_hook(partial(_repeat, count)).remove)
        for branch, column in zip(branches, gates.unbind(1), strict=True):
            stack.callback(branch.module.register_forward_hook(partial(_multiply, column)).remove)
        yield


def _repeat(count: int, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each.repeat(count, 1, 1, 1, 1) for each in inputs) if count > 1 else inputs


def _multiply(gates: Tensor, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output * gates.repeat_interleave(len(output) // len(gates)).view(-1, 1, 1, 1, 1)


@contextmanager
def same_batch(net: VideoNet, count: int) -> Iterator[None]:
    """Repeat the features of members of a fused model that have no gates, once per setting of gates.

    Args:
        net: The network.
        count: Number of settings, G.
    """

    def repeat(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output if len(output) == count else output.repeat(count, 1, 1, 1, 1)

    with ExitStack() as stack:
        for _, member in members_of(net) if isinstance(net, FusedNet) else []:
            stack.callback(member.register_forward_hook(repeat).remove)
        yield
