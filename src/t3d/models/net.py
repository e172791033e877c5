"""The base class of all video networks: the methods that the rest of the project calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from t3d.card import MAX_CLASSES
from t3d.errors import ConfigError, did_you_mean, one_of
from t3d.models.grad_checkpointing import GradCheckpointing, Recomputing, recompute

BACKBONE = "backbone"
"""The name that `VideoNet.freeze` accepts for all stages: everything except the classifier."""
MAX_CHANNELS = 8192
"""Maximum number of channels that an option may ask for."""
MAX_LAYERS = 1000
"""Maximum number of blocks or layers of a model."""
MAX_DEPTH = 64
"""Maximum temporal depth of a kernel."""


@dataclass(frozen=True)
class NetOptions:
    """Base class of the frozen dataclasses that hold the options of one model family.

    Options may come from a weights file that anybody made. So every number has an upper bound, and
    `create_model` bounds the number of parameters.
    """


def check_blocks(blocks: Sequence[int]) -> None:
    """Raise an error for numbers of layers per block that cannot work.

    Raises:
        ConfigError: There is no block, a block without layers, or more than 16 blocks or `MAX_LAYERS` layers.
    """
    if not blocks or min(blocks) < 1:
        raise ConfigError(f"block_config is {tuple(blocks[:16])}; every block needs at least 1 layer")
    if len(blocks) > 16 or sum(blocks) > MAX_LAYERS:
        raise ConfigError(
            f"block_config has {len(blocks):,} blocks with {sum(blocks):,} layers; at most 16 blocks with "
            f"{MAX_LAYERS:,} layers are allowed"
        )


def check_depths(depths: Sequence[Sequence[int]]) -> None:
    """Raise an error for too many or too large temporal depths of Temporal Transition Layers.

    Args:
        depths: Depths of the branches of each layer.

    Raises:
        ConfigError: A layer has more than 16 branches, or a depth is above `MAX_DEPTH`.
    """
    for branches in depths:
        if len(branches) > 16:
            raise ConfigError(f"ttl_depths has a layer of {len(branches):,} branches; at most 16 are allowed")
        if max(branches, default=1) > MAX_DEPTH:
            raise ConfigError(f"ttl_depths has the depth {max(branches)}; at most {MAX_DEPTH} is allowed")


class VideoNet(nn.Module, ABC):
    """A network that turns clips into class scores.

    Legend: B batch, C channels, T time, H height, W width, K classes.

    Training, testing, export and transfer use only this class. A new model family derives from it, implements
    the abstract methods, and sets `classifier_name` to the name of its classifier's attribute.

    Args:
        options: Options of the model family, stored as `options` and written into the model card.
        in_channels: Channels of a clip: 3 for RGB.
        num_features: Length of the pooled feature vector that the classifier sees.
        num_classes: Number of classes, K. 0 omits the classifier.
        head_drop_rate: Dropout before the classifier, in training.

    Attributes:
        inserted: Layers that `insert_ttl` added after a stage, by the stage's name; see
            `insert_ttl`.

    Raises:
        ConfigError: `num_classes` below 0.
    """

    classifier_name: ClassVar[str] = "classifier"

    def __init__(
        self,
        options: NetOptions,
        *,
        in_channels: int,
        num_features: int,
        num_classes: int,
        head_drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.options = options
        self.in_channels = in_channels
        self.num_features = num_features
        self.num_classes = _checked_count(num_classes)
        self.head_drop_rate = head_drop_rate
        self.inserted = nn.ModuleDict()
        self._frozen: tuple[nn.Module, ...] = ()
        self._recomputes_stages = False

    @abstractmethod
    def layers(self) -> Mapping[str, Sequence[nn.Module]]:
        """Return the model family's modules of each stage by the stage's name, in forward order.

        Includes everything except the classifier. `run_stages` calls the modules one after the other.
        """

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """Turn clips into the last feature map.

        Args:
            x: Clips, float, normalized, B C T H W.

        Returns:
            Map, B num_features T' H' W'.

        Raises:
            ConfigError: The input has the wrong shape or type, or is smaller than `min_input_size()`.
        """

    @abstractmethod
    def min_input_size(self) -> tuple[int, int]:
        """Return the minimum (frames, side) of a clip that this model accepts with its options."""

    def stages(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each stage by the stage's name, in forward order, without the classifier."""
        return {
            name: [*modules, *([self.inserted[name]] if name in self.inserted else [])]
            for name, modules in self.layers().items()
        }

    def run_stages(self, x: Tensor) -> Tensor:
        """Pass a batch through all modules of all stages.

        Args:
            x: Clips, B C T H W.

        Returns:
            The output of the last module of the last stage.
        """
        for modules in self.stages().values():
            part = partial(_run, modules)
            x = recompute(part, x, modules=modules, random=True) if self._recomputes_stages else part(x)
        return x

    def set_grad_checkpointing(self, mode: GradCheckpointing = "layers") -> None:
        """Choose which activations to recompute in the backward pass, to save memory.

        Outputs, gradients and BatchNorm buffers stay bit-identical. Names and values of tensors do not depend
        on it, so a weights file does not contain it.

        Args:
            mode: `none` keeps all activations. `layers` recomputes what is cheap in dense layers and TTLs
                (all but the convolutions), and residual blocks and Inception modules as a whole. `blocks`
                recomputes whole stages, and within them the same as `layers`.

        Raises:
            ConfigError: The mode is unknown.
        """
        one_of("grad_checkpointing", mode, get_args(GradCheckpointing))
        for module in self.modules():
            if isinstance(module, Recomputing):
                module.grad_checkpointing = mode != "none"
            elif isinstance(module, VideoNet):  # this one, or a member of a fused model
                module._recomputes_stages = mode == "blocks"

    def own_name(self, foreign: str) -> str:
        """Translate a tensor's name from another project's file of the same model.

        Args:
            foreign: The name in the other project's file.

        Returns:
            The name in this model; `foreign` itself if the model family does not know it.
        """
        return foreign

    def freeze(self, upto: str) -> None:
        """Freeze all stages up to and including one. Their BatchNorm statistics are frozen, too.

        Args:
            upto: Last stage to freeze, a name from `stages()`. `backbone` freezes all of them. An empty
                string unfreezes everything.

        Raises:
            ConfigError: There is no such stage.
        """
        stages = self.stages()
        if upto and upto not in (*stages, BACKBONE):
            raise ConfigError(
                f"there is no stage {upto!r} to freeze; {did_you_mean(upto, [*stages, BACKBONE])}"
            )
        names = list(stages)
        count = 0 if not upto else len(names) if upto == BACKBONE else names.index(upto) + 1
        self.requires_grad_(True)
        self._frozen = tuple(module for name in names[:count] for module in stages[name])
        for module in self._frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode. Frozen stages stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.train(False)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Score clips.

        Args:
            x: Clips, float, normalized, B C T H W.

        Returns:
            Scores before the softmax, B K; pooled features, B num_features, if num_classes is 0.
        """
        return self.forward_head(self.forward_features(x))

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Average the feature map over time and space, then classify.

        Args:
            features: Output of `forward_features`, B num_features T' H' W'.
            pre_logits: Stop before the classifier.

        Returns:
            Scores, B K; or pooled features, B num_features, with `pre_logits`.
        """
        pooled = features.mean(dim=(2, 3, 4))  # B num_features
        if pre_logits:
            return pooled
        if self.head_drop_rate > 0 and self.num_classes > 0:
            pooled = F.dropout(pooled, self.head_drop_rate, training=self.training)
        return self.get_classifier()(pooled)

    def get_classifier(self) -> nn.Module:
        """The last layer: `nn.Linear`, or `nn.Identity` if num_classes is 0."""
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier with a new, untrained one, on the device and in the precision of the model.

        Args:
            num_classes: Number of classes, K. 0 omits the classifier, so the model returns pooled features.

        Raises:
            ConfigError: `num_classes` below 0.
        """
        self.num_classes = _checked_count(num_classes)
        weight = next(self.parameters())
        setattr(
            self, self.classifier_name, self._new_classifier().to(device=weight.device, dtype=weight.dtype)
        )

    def _new_classifier(self) -> nn.Module:
        if self.num_classes == 0:
            return nn.Identity()
        classifier = nn.Linear(self.num_features, self.num_classes)
        nn.init.zeros_(classifier.bias)
        return classifier

    def check_input(self, x: Tensor) -> None:
        """Raise an error with advice if the input is not a batch of clips that this model accepts.

        Args:
            x: Input of the model.

        Raises:
            ConfigError: Wrong number of axes or channels, wrong dtype, or a clip below `min_input_size()`.
        """
        shape = " × ".join(map(str, x.shape))
        if x.ndim != 5:
            raise ConfigError(
                f"the input has {x.ndim} axes ({shape}); a model takes B × C × T × H × W: "
                "add a batch axis to a single clip, clip.unsqueeze(0)"
            )
        if x.shape[1] != self.in_channels:
            hint = (
                "; this looks like B × T × C × H × W: x.transpose(1, 2)"
                if x.shape[2] == self.in_channels
                else ""
            )
            raise ConfigError(
                f"the input is {shape} (B × C × T × H × W) with {x.shape[1]} channels; "
                f"this model takes {self.in_channels}{hint}"
            )
        if not x.is_floating_point():
            raise ConfigError(
                f"the input is {x.dtype}; a model takes normalized floats: "
                "divide 8-bit pixels by 255, subtract the clip spec's mean, divide by its std"
            )
        frames, side = self.min_input_size()
        if x.shape[2] < frames or x.shape[3] < side or x.shape[4] < side:
            raise ConfigError(
                f"the input is {shape} (B × C × T × H × W); with its options this model needs at least "
                f"{frames} frames of {side} × {side} pixels"
            )


def _run(modules: Sequence[nn.Module], x: Tensor) -> Tensor:
    for module in modules:
        x = module(x)
    return x


def _checked_count(num_classes: int) -> int:
    if num_classes > MAX_CLASSES:
        raise ConfigError(f"num_classes is {num_classes:,}; at most {MAX_CLASSES:,} are allowed")
    if num_classes < 0:
        raise ConfigError(f"num_classes is {num_classes}; it must be 1 or more, or 0 for no classifier")
    return num_classes
