"""Grad-CAM: where in a clip the evidence for a class is (Selvaraju et al. 2017, "Grad-CAM").

A map of the network is weighted by the gradient of the class's score, averaged over time and space, and
summed over channels. What speaks against the class is cut off at zero. The result is resized to the clip.

Small clips have tiny last maps: 3 × 3 places for 112 pixels. By default the map is therefore the last one
with at least 4 × 4 places. A 2D network on frames has one map per frame: there, gradients are averaged over
the space of each frame. Each member of a fused model has its own map, and they are summed.

Legend: S segments, C channels, T time, H height, W width, N windows of a member; T' H' W' of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t3d.errors import ConfigError, did_you_mean
from t3d.explanation.gates import members_of
from t3d.explanation.network import ExplainedNet
from t3d.models.frames import FrameNet
from t3d.models.fused_clip import View
from t3d.models.fusion import FusedNet
from t3d.models.net import VideoNet

FEATURES = "features"
"""Name of the last map, the output of `VideoNet.forward_features`."""
_LEAST = 4  # places of a map in height and width


@dataclass
class Layer:
    """A map of a network that is kept.

    Args:
        name: Name of the layer, for messages.
        module: Module that computes it; None is the last map of `net`.
        net: Network that the layer is in.
        view: Frames and pixels that a member of a fused model sees.
        per_frame: Whether the map is one of single frames, N·T C H' W', and not of clips, N C T' H' W'.
        maps: The kept map.
    """

    name: str
    module: nn.Module | None
    net: VideoNet
    view: View | None = None
    per_frame: bool = False
    maps: list[Tensor] = field(default_factory=list)

    def keep(self, output: Tensor) -> Tensor:
        """Keep a map, and return a copy for the rest of the network."""
        self.maps.append(output.detach().requires_grad_())
        return self.maps[-1].clone()  # later layers may change it in place


def layers_of(net: VideoNet, x: Tensor, stage: str | None = None) -> list[Layer]:
    """Choose the maps of a network: one, or one per member of a fused model. Empty if there is none.

    Args:
        net: The network.
        x: A clip, see `ExplainedNet.input_of`.
        stage: Name of a stage; its output is chosen. Default: see the top of this module.

    Raises:
        ConfigError: There is no such stage, or the network has no stages.
    """
    check_stage(net, stage)
    if stage is not None:
        return [Layer(stage, net.stages()[stage][-1], net)]
    if not isinstance(net, FusedNet):
        return [layer for layer in [_chosen(net, x)] if layer is not None]
    inputs: dict[VideoNet, Tensor] = {}
    with ExitStack() as stack:
        for _, member in members_of(net):
            remember = _remembered(inputs, member.net)
            stack.callback(member.net.register_forward_pre_hook(remember).remove)
        with torch.no_grad():
            net(x)
    layers = []
    for name, member in members_of(net):
        layer = _chosen(member.net, inputs[member.net])
        if layer is not None:
            layer.name, layer.view = f"{name}: {layer.name}", member.view
            layers.append(layer)
    return layers


def check_stage(net: VideoNet, stage: str | None) -> None:
    """Refuse a stage that a network does not have.

    Args:
        net: The network.
        stage: Name of a stage, or None.

    Raises:
        ConfigError: There is no such stage, or the network has no stages.
    """
    if stage is None:
        return
    if isinstance(net, FusedNet | FrameNet):
        raise ConfigError(
            f"`stage` is {stage}, but {_kind(net)} has no stages to choose from; leave out `stage`"
        )
    if stage not in net.stages():
        raise ConfigError(f"`stage` is {stage!r}; {did_you_mean(stage, list(net.stages()))}")


def class_activation(net: ExplainedNet, x: Tensor, label: int, layers: list[Layer]) -> Tensor:
    """Return the Grad-CAM of a clip.

    Args:
        net: The network.
        x: A clip, see `ExplainedNet.input_of`.
        label: Number of the class.
        layers: Maps to use, see `layers_of`.

    Returns:
        Evidence for the class, at least 0, float32 [S·T, H, W] on the CPU. Its unit is arbitrary.
    """
    for layer in layers:
        layer.maps.clear()
    with torch.enable_grad(), ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_kept(layer))
        score = net.score(x, label)
        gradients = torch.autograd.grad(score, [layer.maps[0] for layer in layers])
    segments, _, frames, height, width = x.shape
    heat = torch.zeros(segments * frames, height, width)
    for layer, gradient in zip(layers, gradients, strict=True):
        cam = _weighted(layer.maps.pop(), gradient).float().cpu()
        if layer.per_frame:
            cam = cam.view(-1, frames if layer.view is None else len(layer.view.windows[0]), *cam.shape[2:])
        if len(layers) > 1:  # the gradient was averaged: maps of different sizes are made comparable
            cam = cam * cam[0].numel()
        if layer.view is not None:
            heat += _placed(cam, layer.view, frames, height)
        else:
            heat += _resized(cam, frames, height).flatten(0, 1)
    return heat


def _weighted(maps: Tensor, gradient: Tensor) -> Tensor:
    """Return [N, T', H', W'] from a map [N, C, T', H', W'], or [N·T, 1, H', W'] from one of single frames."""
    weights = gradient.mean(tuple(range(2, maps.ndim)), keepdim=True)
    cam = F.relu((weights * maps.detach()).sum(1))
    return cam[:, None] if maps.ndim == 4 else cam


def _resized(cam: Tensor, frames: int, side: int) -> Tensor:
    """Resize [N, T', H', W'] to [N, T, H, W]."""
    return F.interpolate(cam[:, None], (frames, side, side), mode="trilinear", align_corners=False)[:, 0]


def _placed(cam: Tensor, view: View, frames: int, side: int) -> Tensor:
    """Return the heat of a member in the shared clip, [T, H, W]. Frames between its own take the nearest."""
    each = _resized(cam, len(view.windows[0]), view.size).flatten(0, 1)
    own = torch.tensor([number for window in view.windows for number in window])
    nearest = (torch.arange(frames)[:, None] - own[None]).abs().argmin(1)
    start = round((view.side - view.size) / 2)
    canvas = torch.zeros(frames, view.side, view.side)
    canvas[:, start : start + view.size, start : start + view.size] = each[nearest]
    return F.interpolate(canvas[None], (side, side), mode="bilinear", align_corners=False)[0]


@contextmanager
def _kept(layer: Layer) -> Iterator[None]:
    """Keep the map of a layer while the block runs."""
    if layer.module is not None:
        handle = layer.module.register_forward_hook(lambda _module, _inputs, output: layer.keep(output))
        try:
            yield
        finally:
            handle.remove()
        return
    original = layer.net.forward_features
    vars(layer.net)[f"forward_{FEATURES}"] = lambda x: layer.keep(original(x))  # of this copy of the network
    try:
        yield
    finally:
        del vars(layer.net)[f"forward_{FEATURES}"]


def _chosen(net: VideoNet, x: Tensor) -> Layer | None:
    """Return the last map with enough places; None for a network without a map of places."""
    if isinstance(net, FrameNet):
        module = _last_image_map(net, x)
        return None if module is None else Layer("the last map of each frame", module, net, per_frame=True)
    modules = [module for stage in net.stages().values() for module in stage]
    shapes: dict[nn.Module, torch.Size] = {}
    with ExitStack() as stack:
        for module in modules:
            handle = module.register_forward_hook(
                lambda module, _inputs, output: shapes.update({module: output.shape})
            )
            stack.callback(handle.remove)
        with torch.no_grad():
            last = net.forward_features(x).shape
    names = {module: name.rpartition(".")[2] for name, module in net.named_modules()}
    candidates: list[tuple[str, nn.Module | None, torch.Size]] = [
        (names[module], module, shapes[module]) for module in modules if module in shapes
    ]
    candidates = [each for each in [*candidates, (FEATURES, None, last)] if len(each[2]) == 5]
    if not candidates:
        return None
    for name, chosen, shape in reversed(candidates):
        if min(shape[3:]) >= _LEAST:
            return Layer(name, chosen, net)
    return Layer(FEATURES, None, net)


def _last_image_map(net: FrameNet, x: Tensor) -> nn.Module | None:
    """Return the module of a 2D network that computes the last map N C H W; None for a transformer."""
    last: list[nn.Module | None] = [None]

    def look(module: nn.Module, _inputs: tuple[Tensor, ...], output: object) -> None:
        if not isinstance(output, Tensor):
            return
        if output.ndim == 3 or (output.ndim == 4 and output.shape[2] != output.shape[3]):
            last[0] = None  # tokens, or a map N H W C: the maps before them show little of the classes
        elif output.ndim == 4 and output.shape[3] > 1:
            last[0] = module

    with ExitStack() as stack:
        for module in net.frames.net.modules():
            stack.callback(module.register_forward_hook(look).remove)
        with torch.no_grad():
            net(x)
    return last[0]


def _remembered(inputs: dict[VideoNet, Tensor], net: VideoNet) -> Callable[[nn.Module, tuple[Tensor]], None]:
    def remember(_module: nn.Module, args: tuple[Tensor]) -> None:
        inputs[net] = args[0]

    return remember


def _kind(net: VideoNet) -> str:
    return "a fused model" if isinstance(net, FusedNet) else "a 2D network on frames"
