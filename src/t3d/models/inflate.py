"""Inflate 2D weights to 3D, to initialize a 3D model from its trained 2D counterpart.

On a clip that repeats one frame, a model inflated by `center` computes its 2D counterpart's features at every
step, with any time padding. A model inflated by `mean` does so only with `time_padding="replicate"`. Zeros
before and after the clip would enter the mean, and make the first and last steps too small.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from t3d.errors import ConfigError, did_you_mean
from t3d.models.loading import LoadReport, convolutions, load_matching
from t3d.models.net import VideoNet

Inflation = Literal["mean", "center"]


def inflate(state_2d: Mapping[str, Tensor], model: VideoNet, *, method: Inflation = "mean") -> LoadReport:
    """Fill a 3D network with 2D weights of the same names.

    Args:
        state_2d: State of a 2D network, such as torchvision's DenseNet-121 for `densenet3d121`.
        model: The 3D network; changed in place. Its classifier is left as it is.
        method: `mean` gives every time step of a kernel the 2D kernel divided by the temporal depth d;
            `center` gives the 2D kernel to step (d-1)//2 and zeros to the others.

    Returns:
        Which tensors were loaded. A T3D's transitions, and blocks whose width they change, are not loaded.

    Raises:
        ConfigError: An unknown `method`.
        CheckpointError: No tensor of the backbone fits.

    Example:
        >>> from torchvision.models import densenet121
        >>> from t3d.models import create_model
        >>> inflate(densenet121().state_dict(), create_model("densenet3d121")).complete
        True
    """
    if method not in get_args(Inflation):
        raise ConfigError(f"method is {method!r}; {did_you_mean(method, get_args(Inflation))}")
    depths = {name: model.get_parameter(name).shape[2] for name in convolutions(model)}
    state = {
        name: inflate_kernel(tensor, depths[name], method=method)
        if name in depths and tensor.ndim == 4
        else tensor
        for name, tensor in state_2d.items()
    }
    return load_matching(model, state, source="2D weights")


def inflate_kernel(kernel: Tensor, depth: int, *, method: Inflation = "mean") -> Tensor:
    """Inflate one 2D kernel to 3D.

    Args:
        kernel: Weights, C' C H W.
        depth: Temporal depth d.
        method: See `inflate`.

    Returns:
        Weights, C' C d H W.

    Example:
        >>> inflate_kernel(torch.ones(1, 1, 1, 1), 4, method="center").flatten().tolist()
        [0.0, 1.0, 0.0, 0.0]
    """
    if method == "mean":
        return (kernel / depth).unsqueeze(2).repeat(1, 1, depth, 1, 1)
    inflated = torch.zeros(*kernel.shape[:2], depth, *kernel.shape[2:], dtype=kernel.dtype)
    inflated[:, :, (depth - 1) // 2] = kernel
    return inflated
