"""Compare ways to join the channels of a dense block.

    python benchmarks/dense_blocks.py --threads 1 --rounds 9

`cat` concatenates before each layer, as `t3d.models.densenet3d` does. `buffer` writes each layer's
channels into one map of the whole block (inference only). `split` splits the first BatchNorm and the
1×1×1 convolution of each layer over its inputs and adds the results. The ways take turns, and the figure
is the median ratio of neighboring calls.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from t3d.models.densenet3d import DenseBlock, DenseLayer
from t3d.models.registry import create_model

SHAPES = {"t3d_tiny": [(4, 8, 18), (4, 4, 9)], "t3d121": [(2, 8, 28), (2, 4, 14), (2, 2, 7)]}


def cat(block: DenseBlock, x: Tensor) -> Tensor:
    """Concatenate before each layer."""
    return block(x)


def buffer(block: DenseBlock, x: Tensor) -> Tensor:
    """Write into one map."""
    end = x.shape[1]
    shape = (len(x), block.out_channels, *x.shape[2:])
    joined = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last_3d)
    joined[:, :end] = x
    for layer in block.values():
        assert isinstance(layer, DenseLayer)
        narrow = layer.conv1(F.relu(layer.norm1(joined[:, :end]), inplace=True))
        new = layer.conv2(F.relu(layer.norm2(narrow), inplace=True))
        joined[:, end : end + new.shape[1]] = new
        end += new.shape[1]
    return joined


def split(block: DenseBlock, x: Tensor) -> Tensor:
    """Split the first convolution of each layer over its inputs."""
    features = [x]
    for layer in block.values():
        assert isinstance(layer, DenseLayer)
        norm, start, narrow = layer.norm1, 0, None
        for part in features:
            own = slice(start, start + part.shape[1])
            statistics = norm.running_mean[own], norm.running_var[own]  # type: ignore[index]
            scaled = F.batch_norm(
                part, *statistics, norm.weight[own], norm.bias[own], layer.training, 0.1, norm.eps
            )
            term = F.conv3d(F.relu(scaled, inplace=True), layer.conv1.weight[:, own])
            narrow = term if narrow is None else narrow + term
            start = own.stop
        features.append(layer.conv2(F.relu(layer.norm2(narrow), inplace=True)))
    return torch.cat(features, dim=1)


def seconds(way: Callable[[DenseBlock, Tensor], Tensor], block: DenseBlock, x: Tensor) -> float:
    """Time of a call, with the backward pass in training."""
    began = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        if block.training:
            way(block, x).sum().backward()
        else:
            with torch.inference_mode():
                way(block, x)
    return time.perf_counter() - began


def main() -> None:
    """Print a table of times relative to `cat`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print("| block | precision | inference: cat, ms | buffer | split | training: cat, ms | split |")
    print("|---|---|---|---|---|---|---|")
    for name, shapes in SHAPES.items():
        net = create_model(name, num_classes=11).to(memory_format=torch.channels_last_3d)
        for number, (batch, frames, side) in enumerate(shapes, 1):
            block = net.get_submodule(f"features.denseblock{number}")
            assert isinstance(block, DenseBlock)
            channels = block["denselayer1"].norm1.num_features
            clean = torch.randn(batch, frames, side, side, channels).permute(0, 4, 1, 2, 3)  # type: ignore[arg-type]
            for dtype in (torch.float32, torch.bfloat16):
                cells = []
                for training in (False, True):
                    block.train(training)
                    x = clean.detach().to(dtype, copy=True).requires_grad_(training)
                    ways = (cat, split) if training else (cat, buffer, split)
                    rounds = [[seconds(way, block, x) for way in ways] for _ in range(chosen.rounds + 1)][1:]
                    cells.append(f"{1000 * median(times[0] for times in rounds):.1f}")
                    for i in range(1, len(ways)):
                        cells.append(f"× {median(times[i] / times[0] for times in rounds):.2f}")
                kind = "fp32" if dtype == torch.float32 else "bf16"
                print(f"| `{name}`, {number} | {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
