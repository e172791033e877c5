"""Fold BatchNorm into the convolution before it, for inference."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
_Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def folded(model: nn.Module, example: Tensor) -> tuple[nn.Module, int]:
    """Copy a network, with every BatchNorm that directly follows a convolution folded into its weights.

    A BatchNorm is folded if its input is the output of a convolution that nothing else uses. In networks with
    pre-activation order, such as DenseNet3D, many BatchNorms follow a concatenation, and those stay.

    Args:
        model: Network in evaluation mode. It is not changed.
        example: Input of the network, which is computed once.

    Returns:
        The copy, and the number of folded BatchNorms.
    """
    pairs = foldable(model, example)
    result = copy.deepcopy(model)
    for conv_name, norm_name in pairs:
        conv, norm = result.get_submodule(conv_name), result.get_submodule(norm_name)
        assert isinstance(conv, _Conv)
        assert isinstance(norm, _Norm)
        result.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
        result.set_submodule(norm_name, nn.Identity())
    return result, len(pairs)


def foldable(model: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Return the names of each convolution and the BatchNorm that directly follows it.

    Args:
        model: Network in evaluation mode.
        example: Input of the network, which is computed once.
    """
    calls: Counter[str] = Counter()
    made: dict[int, tuple[str, Tensor]] = {}  # kept alive, so that no other tensor gets the same id
    pairs: list[tuple[int, str]] = []  # id of the output, name of the BatchNorm
    uses = _Uses()
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, _Conv):

            def after(_: nn.Module, __: object, output: Tensor, *, name: str = name) -> None:
                calls[name] += 1
                made[id(output)] = name, output
                uses.count[id(output)] = 0  # an earlier tensor may have had this id

            handles.append(module.register_forward_hook(after))
        elif isinstance(module, _Norm) and module.track_running_stats:

            def before(_: nn.Module, inputs: tuple[Tensor, ...], *, name: str = name) -> None:
                calls[name] += 1
                if id(inputs[0]) in made:
                    pairs.append((id(inputs[0]), name))

            handles.append(module.register_forward_pre_hook(before))
    try:
        with torch.no_grad(), uses:
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return [
        (made[key][0], norm)
        for key, norm in pairs
        if uses.count[key] == calls[norm] == calls[made[key][0]] == 1
    ]


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count in how many operations each tensor is used, by its id."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: Counter[int] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        return func(*args, **(kwargs or {}))
