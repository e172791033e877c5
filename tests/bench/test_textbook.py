from __future__ import annotations

import pytest
import torch
from torch import nn

from t3d.bench.textbook import has_textbook, textbook
from t3d.bench.work import work_of
from t3d.models.densenet3d import DenseNet3D
from t3d.models.flops import count_macs, count_parameters
from t3d.models.registry import create_model

SMALL = {"block_config": [2, 3, 2], "growth_rate": 4, "stem_channels": 8, "ttl_channels": 6}


def net_of(name: str, depths: list[list[int]] | None = None, **options: object) -> DenseNet3D:
    """A small network whose BatchNorm statistics are not those of a new one."""
    torch.manual_seed(0)
    given = SMALL | options | ({"ttl_depths": depths} if depths else {})
    net = create_model(name, num_classes=5, options=given)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    assert isinstance(net, DenseNet3D)
    return net


NETS = [
    ("densenet3d_tiny", None),
    ("t3d_tiny", [[1, 3, 6], [1, 3, 4]]),
    ("t3d_tiny", [[2], [1, 5]]),
]


@pytest.mark.parametrize(("name", "depths"), NETS)
@pytest.mark.parametrize("shape", [(2, 3, 16, 40, 40), (1, 3, 3, 33, 47)])
def test_the_textbook_computes_the_same(
    name: str, depths: list[list[int]] | None, shape: tuple[int, ...]
) -> None:
    net = net_of(name, depths).eval()
    plain = textbook(net)
    clips = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        difference = (plain(clips) - net(clips)).norm() / net(clips).norm()
    assert difference < 1e-5
    assert count_parameters(plain) == count_parameters(net)


@pytest.mark.parametrize(("name", "depths"), NETS[:2])
def test_its_gradients_and_statistics_are_the_same(name: str, depths: list[list[int]] | None) -> None:
    net = net_of(name, depths).double().train()
    plain = textbook(net)
    clips = torch.randn(2, 3, 8, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for each in (net, plain):
        each(clips).logsumexp(1).sum().backward()
    gradients = dict(net.named_parameters())
    for key, parameter in plain.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key].grad, rtol=1e-7, atol=1e-9)
    buffers = dict(net.named_buffers())
    for key, buffer in plain.named_buffers():
        torch.testing.assert_close(buffer, buffers[key], rtol=1e-7, atol=1e-9)


def test_the_textbook_version_of_the_paper_has_its_size() -> None:
    net = create_model("t3d121", num_classes=400)
    assert isinstance(net, DenseNet3D)
    work = work_of(textbook(net), (3, 32, 224, 224))
    assert work.weights == count_parameters(net)
    assert round(work.macs / 1e9, 1) == 244.1


@pytest.mark.parametrize(
    "options", [{"ttl_projection": True}, {"stem_pool_time_stride": 2}, {"time_padding": "replicate"}]
)
def test_networks_with_other_layers_have_no_textbook(options: dict[str, object]) -> None:
    assert has_textbook(net_of("t3d_tiny", [[1, 3], [1, 3]]))
    assert not has_textbook(net_of("t3d_tiny", [[1, 3], [1, 3]], **options))
    assert not has_textbook(create_model("resnet3d18", num_classes=2, options={"width": 0.125}))


def test_work_is_counted_by_hand() -> None:
    net = nn.Sequential(
        nn.Conv3d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm3d(4),
        nn.ReLU(),
        nn.AvgPool3d(2),
        nn.Flatten(),
        nn.Linear(4 * 2 * 3 * 3, 5),
    )
    work = work_of(net, (3, 4, 6, 6))
    pixels = 4 * 6 * 6
    assert work.macs == pixels * 4 * 3 * 27 + 72 * 5
    # The convolution, the pool and the linear layer read and write their maps; BatchNorm and ReLU do not.
    assert work.activations == (3 + 4) * pixels + (4 * pixels + 72) + (72 + 5)
    assert work.weights == 3 * 4 * 27 + 2 * 4 + 72 * 5 + 5
    assert work.traffic(batch=2, bytes_per_number=4) == (work.activations + work.weights / 2) * 4


def test_work_agrees_with_the_count_of_the_library() -> None:
    net = net_of("t3d_tiny", [[1, 3, 6], [1, 3, 4]])
    assert work_of(net, (3, 8, 32, 32)).macs == count_macs(net, num_frames=8, size=32)
