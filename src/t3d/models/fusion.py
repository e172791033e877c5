"""Several models as one: their calibrated class probabilities are averaged.

The input is a clip that contains the frames of every member, see `t3d.models.fused_clip`. Each member takes
its own frames from it, at its own size and with its own normalization.

Legend: B batch, C channels, T time, H height, W width, K classes, N windows of a clip, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t3d.clip import ClipSpec
from t3d.errors import ConfigError
from t3d.models.fused_clip import View, shared_clip, view_of
from t3d.models.net import NetOptions, VideoNet
from t3d.models.registry import create_model, register_unlisted_model

FUSED = "fused"
"""Name of the model."""
MAX_MEMBERS = 16
"""Maximum number of members."""
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as `t3d.data.clips.transforms.normalize` has it


@dataclass(frozen=True)
class Member:
    """One of the models that are averaged.

    Args:
        architecture: Name of a model, one of `list_models()`.
        options: Options that differ from the architecture's defaults.
        clip: Clip of the model.
        weight: Share of the model in the average. Shares are divided by their sum.
        temperature: Number that the model's scores are divided by before the softmax.
    """

    architecture: str = ""
    options: dict[str, object] = field(default_factory=dict)
    clip: ClipSpec = field(default_factory=ClipSpec)
    weight: float = 1.0
    temperature: float = 1.0


@dataclass(frozen=True)
class FusedOptions(NetOptions):
    """Options of several models as one.

    Args:
        members: The models.
        head: Scores: the `average` of the members' probabilities, or a `linear` layer on the features of all
            members.

    Raises:
        ConfigError: There is no member, there are too many, one is itself a fused model, or a weight or
            temperature is not above 0.
    """

    members: tuple[Member, ...] = ()
    head: Literal["average", "linear"] = "average"

    def __post_init__(self) -> None:
        if len(self.members) > MAX_MEMBERS:
            raise ConfigError(f"members has {len(self.members):,} models; at most {MAX_MEMBERS} are allowed")
        for member in self.members:
            if member.architecture == FUSED:
                raise ConfigError("a member is itself a fused model; use its members instead")
            for name in ("weight", "temperature"):
                if not 0 < getattr(member, name) < math.inf:
                    raise ConfigError(f"{name} of a member is {getattr(member, name)}; it must be above 0")

    @property
    def clip(self) -> ClipSpec:
        """Clip that contains the frames of every member, see `t3d.models.fused_clip.shared_clip`."""
        return shared_clip([member.clip for member in self.members])


class MemberFeatures(nn.Module):
    """Member of a fused model, up to its pooled features: B 3 T H W → B D N 1 1.

    Args:
        net: The model, without its classifier.
        clip: Clip of the model.
        view: Part of the shared clip that the model sees.
    """

    def __init__(self, net: VideoNet, clip: ClipSpec, view: View) -> None:
        super().__init__()
        self.net = net
        self.clip = clip
        self.view = view

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features of each window.

        Args:
            x: Shared clips, RGB from 0 to 255, B 3 T H W.
        """
        windows = [x[:, :, each.start : each.stop : each.step] for each in self.view.windows]
        clips = torch.stack(windows, dim=1).flatten(0, 1)  # B·N 3 T H W
        pooled = self.net(normalized(self._resized(clips), self.clip))  # B·N D
        return pooled.view(-1, len(windows), pooled.shape[1]).transpose(1, 2)[..., None, None]

    def _resized(self, clips: Tensor) -> Tensor:
        side, size = self.view.side, self.view.size
        if clips.shape[-1] != side:
            frames = clips.transpose(1, 2).flatten(0, 1)  # B·T C H W
            frames = F.interpolate(frames, (side, side), mode="bilinear", align_corners=False, antialias=True)
            frames = frames.round().clamp(0, 255)
            clips = frames.view(-1, clips.shape[2], *frames.shape[1:]).transpose(1, 2)
        start = round((side - size) / 2)
        return clips[..., start : start + size, start : start + size]


def normalized(clips: Tensor, spec: ClipSpec) -> Tensor:
    """Return clips as a model takes them; see `t3d.data.clips.transforms.normalize`, which takes bytes.

    Args:
        clips: RGB from 0 to 255, B 3 T H W.
        spec: `mean`, `std` and `modality` are used.
    """
    mean = clips.new_tensor(spec.mean).view(1, 3, 1, 1, 1)
    std = clips.new_tensor(spec.std).view(1, 3, 1, 1, 1)
    x = clips / 255
    if spec.modality == "diff":
        return torch.cat((torch.zeros_like(x[:, :, :1]), x[:, :, 1:] - x[:, :, :-1]), dim=2) / std
    if spec.modality == "gray":
        x = (x * x.new_tensor(_LUMA).view(1, 3, 1, 1, 1)).sum(1, keepdim=True).expand_as(x)
    return (x - mean) / std


class AllFeatures(nn.Module):
    """Features of all members: normalized clips, B 3 T H W → B D N 1 1.

    A member with fewer windows repeats each of them, so that the mean over N stays the same.

    Args:
        members: The members.
    """

    def __init__(self, members: Sequence[MemberFeatures]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.windows = math.lcm(*(len(member.view.windows) for member in members))

    def forward(self, x: Tensor) -> Tensor:
        """Join the features of all members."""
        pixels = (x * 255).round()  # exactly the bytes that were read
        parts = [member(pixels) for member in self.members]
        return torch.cat([p.repeat_interleave(self.windows // p.shape[2], 2) for p in parts], dim=1)


class AveragedScores(nn.Module):
    """Classifiers of all members: B D … → B K, the logarithm of the averaged probabilities.

    Args:
        widths: Number of features of each member.
        num_classes: Number of classes, K.
        weights: Share of each member.
        temperatures: Temperature of each member.
    """

    def __init__(
        self, widths: Sequence[int], num_classes: int, weights: Sequence[float], temperatures: Sequence[float]
    ) -> None:
        super().__init__()
        self.widths = list(widths)
        self.shares = [math.log(weight / sum(weights)) for weight in weights]
        self.temperatures = list(temperatures)
        self.heads = nn.ModuleList(nn.Linear(width, num_classes) for width in widths)

    def forward(self, features: Tensor) -> Tensor:
        """Average the probabilities over members and windows.

        Args:
            features: Features of all members, B D or B D N 1 1.
        """
        windows = features.reshape(*features.shape[:2], -1).transpose(1, 2)  # B N D
        logs = []
        parts = torch.split(windows, self.widths, dim=2)
        for part, head, share, temperature in zip(
            parts, self.heads, self.shares, self.temperatures, strict=True
        ):
            scores = head(part)
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) / temperature  # B N K
            logs.append(scores.log_softmax(-1) + share)
        joined = torch.cat(logs, dim=1)  # B M·N K
        return joined.logsumexp(1) - math.log(windows.shape[1])


class FusedNet(VideoNet):
    """Several models as one.

    Its scores are the logarithms of averaged probabilities, so the softmax gives the averages. Its features
    are those of all members, one after the other.

    Args:
        options: Options of the model.
        num_classes: Number of classes, K. 0 omits the classifiers.

    Raises:
        ConfigError: There is no member, the members' clips do not fit together, or an option is invalid.

    Example:
        >>> small = {"growth_rate": 4, "block_config": (1, 1)}
        >>> member = Member("densenet3d_tiny", small, ClipSpec(num_frames=8, size=32, resize=32))
        >>> net = FusedNet(FusedOptions((member,)), num_classes=4).eval()
        >>> net(torch.zeros(1, 3, 8, 32, 32)).shape
        torch.Size([1, 4])
    """

    def __init__(self, options: FusedOptions, *, num_classes: int = 400) -> None:
        if not options.members:
            raise ConfigError("a fused model needs members; `t3d fuse` makes one of trained models")
        self.clip = options.clip
        nets = [
            create_model(member.architecture, num_classes=0, options=member.options)
            for member in options.members
        ]
        if any(net.in_channels != 3 for net in nets):
            raise ConfigError("a member does not take three channels (in_channels); a fused model takes RGB")
        self._widths = [net.num_features for net in nets]
        super().__init__(options, in_channels=3, num_features=sum(self._widths), num_classes=num_classes)
        self.options: FusedOptions = options
        self.features = AllFeatures(
            [
                MemberFeatures(net, member.clip, view_of(member.clip, self.clip))
                for net, member in zip(nets, options.members, strict=True)
            ]
        )
        self.classifier = self._new_classifier()

    def layers(self) -> dict[str, list[nn.Module]]:
        """`features`, see `VideoNet.layers`."""
        return {"features": [self.features]}

    def forward_features(self, x: Tensor) -> Tensor:
        """Turn clips into the pooled features of each member and window, see `VideoNet.forward_features`.

        Args:
            x: Clips with the frames, size and normalization of `clip`, B C T H W.

        Returns:
            Map, B num_features N 1 1.
        """
        self.check_input(x)
        return self.run_stages(x)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Average the members' probabilities, see `VideoNet.forward_head`."""
        if pre_logits or not isinstance(self.classifier, AveragedScores):
            return super().forward_head(features, pre_logits=pre_logits)
        scores: Tensor = self.classifier(features)
        return scores

    def min_input_size(self) -> tuple[int, int]:
        """Return the (frames, side) of a clip. No other clip is accepted."""
        return self.clip.num_frames, self.clip.size

    def check_input(self, x: Tensor) -> None:
        """Raise an error if the input is not a batch of the clips of this model, see `VideoNet`."""
        super().check_input(x)
        frames, side = self.min_input_size()
        if tuple(x.shape[2:]) != (frames, side, side):
            raise ConfigError(
                f"the input is {' × '.join(map(str, x.shape))} (B × C × T × H × W); this model averages "
                f"models and takes clips of exactly {frames} frames of {side} × {side} pixels"
            )

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifiers of all members by one linear layer, see `VideoNet.reset_classifier`."""
        self.options = replace(self.options, head="linear")
        super().reset_classifier(num_classes)

    def _new_classifier(self) -> nn.Module:
        if self.num_classes == 0 or self.options.head == "linear":
            return super()._new_classifier()
        members = self.options.members
        return AveragedScores(
            self._widths,
            self.num_classes,
            [member.weight for member in members],
            [member.temperature for member in members],
        )


_FUSED = FusedOptions()


@register_unlisted_model
def fused(options: FusedOptions = _FUSED, *, num_classes: int = 400) -> FusedNet:
    """Several models as one, see `t3d fuse`."""
    return FusedNet(options, num_classes=num_classes)
