"""A teacher with a linear classifier as a model: a 2D network on each frame, with pooling over time."""

from __future__ import annotations

from typing import Any

from t3d.clip import TimePooling
from t3d.models.frames import FrameNet, FrameNetOptions
from t3d.models.net import VideoNet
from t3d.transfer.linear import as_layer
from t3d.transfer.teachers.library import TorchTeacher


def frame_net(teacher: TorchTeacher, pooling: TimePooling) -> FrameNet:
    """Return a model without a classifier that computes a teacher's features, pooled over time.

    Args:
        teacher: The teacher. Its weights are copied.
        pooling: See `t3d.models.frames.pool_time`.
    """
    options = FrameNetOptions(teacher.backbone, pooling, image_size=teacher.size)
    net = FrameNet(options, num_classes=0).eval()
    net.frames.net.load_state_dict(teacher.net.state_dict())
    return net


def set_classifier(net: VideoNet, classifier: Any, num_classes: int) -> None:
    """Replace the classifier of a network by one that was fitted on its features.

    Args:
        net: The network.
        classifier: Fitted scikit-learn pipeline, see `t3d.transfer.linear`.
        num_classes: Number of classes, K. One without training clips gets the probability 0.
    """
    net.reset_classifier(num_classes)
    net.get_classifier().load_state_dict(as_layer(classifier, num_classes).state_dict())
