from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from t3d.errors import ConfigError
from t3d.models.registry import create_model
from t3d.training.config import OptimConfig
from t3d.training.optim import Schedule, make_ema, make_optimizer

STEPS = 7  # in an epoch


def schedule_of(config: OptimConfig) -> Schedule:
    return Schedule(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), config, steps_per_epoch=STEPS)


def rates(config: OptimConfig) -> list[float]:
    schedule = schedule_of(config)
    result = [schedule.set(step) for step in range(config.epochs * STEPS)]
    assert schedule.optimizer.param_groups[0]["lr"] == result[-1]
    return result


def test_constant() -> None:
    assert rates(OptimConfig(lr=0.3, schedule="constant", epochs=3)) == [0.3] * 21


def test_step_divides_the_rate_at_whole_epochs() -> None:
    config = OptimConfig(lr=0.1, schedule="step", step_epochs=3, gamma=0.1, epochs=7)
    slow = [0.1] * 21 + [0.01] * 21 + [0.001] * 7
    assert rates(config) == pytest.approx(slow, rel=1e-12)


def test_step_of_a_fractional_number_of_epochs() -> None:
    # With 7 steps per epoch, 1.5 epochs end between step 10 and step 11.
    config = OptimConfig(lr=1.0, schedule="step", step_epochs=1.5, gamma=0.5, epochs=3)
    assert rates(config) == pytest.approx([1.0] * 11 + [0.5] * 10, rel=1e-12)


def test_cosine_is_half_a_wave_after_the_warm_up() -> None:
    config = OptimConfig(lr=0.2, schedule="cosine", warmup_epochs=2, epochs=6)
    slow = []
    for step in range(6 * STEPS):
        if step < 14:
            slow.append(0.2 * (step + 1) / 14)
        else:
            slow.append(0.2 * math.cos(math.pi / 2 * (step - 14) / 28) ** 2)
    result = rates(config)
    assert result == pytest.approx(slow, rel=1e-9)
    assert result[13] == pytest.approx(0.2)
    assert result[14] == 0.2
    assert 0 < result[-1] < 0.002


@pytest.mark.parametrize("kind", ["step", "plateau", "constant"])
def test_every_schedule_begins_with_the_warm_up(kind: str) -> None:
    config = OptimConfig(lr=1.0, schedule=kind, warmup_epochs=1.5, epochs=4)  # type: ignore[arg-type]
    result = rates(config)
    # The eleventh step would lie above the peak and is held there.
    assert result[:11] == pytest.approx([(step + 1) / 10.5 for step in range(10)] + [1.0])
    assert result[11:] == [1.0] * 17


def test_plateau_against_losses_computed_by_hand() -> None:
    config = OptimConfig(lr=1.0, schedule="plateau", gamma=0.1, patience=1)
    schedule = schedule_of(config)
    played = [
        (1.00, 1.0),  # the first is the best
        (0.90, 1.0),  # better
        (0.95, 1.0),  # one bad validation is forgiven
        (0.91, 0.1),  # the second is not, and the count starts again
        (0.92, 0.1),
        (0.80, 0.1),  # better
        (0.81, 0.1),
        (0.80, 0.01),  # not better than the best
    ]
    for number, (loss, rate) in enumerate(played):
        schedule.validated(loss)
        assert schedule.set(100 + number) == pytest.approx(rate), (number, loss)


def random_losses(rng: np.random.Generator) -> list[float]:
    """Losses around a falling level, with ties, gains at the threshold, and values that are not finite."""
    losses = [float(rng.uniform(0.5, 2))]
    for _ in range(149):
        best = min((loss for loss in losses if math.isfinite(loss)), default=1.0)
        choices = [
            best,  # a tie
            best * (1 - 1e-4),  # exactly the smallest decrease, which does not count
            math.nextafter(best * (1 - 1e-4), -math.inf),  # which does
            best * (1 - 5e-5),
            best * rng.uniform(0.9, 1.5),
            best - rng.uniform(0, 1),  # may become negative
            losses[-1],
            math.nan,
            math.inf,
        ]
        losses.append(float(rng.choice(choices)))
    return losses


@pytest.mark.parametrize(("gamma", "patience"), [(0.1, 0), (0.1, 1), (0.5, 0), (0.3, 2), (0.0, 1), (0.9, 5)])
def test_plateau_reduces_as_torch_does(gamma: float, patience: int) -> None:
    config = OptimConfig(lr=0.3, schedule="plateau", gamma=gamma, patience=patience)
    reductions = 0
    for seed in range(40):
        schedule = schedule_of(config)
        oracle = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(oracle, factor=gamma, patience=patience)
        for loss in random_losses(np.random.default_rng(seed)):
            before = oracle.param_groups[0]["lr"]
            schedule.validated(loss)
            plateau.step(loss)
            reductions += oracle.param_groups[0]["lr"] < before
            state = schedule.state_dict()
            assert state == {
                "factor": oracle.param_groups[0]["lr"],
                "best": plateau.best,
                "bad": plateau.num_bad_epochs,
                "start": 0.0,
                "end": 200,
                "peak": 1.0,
            }
            assert schedule.set(0) == 0.3 * oracle.param_groups[0]["lr"]
            schedule.load_state_dict(json.loads(json.dumps(state)))
    assert reductions >= 40  # a factor of 0 can be reached once per sequence


def test_plateau_ends_where_reductions_become_tiny() -> None:
    schedule = schedule_of(OptimConfig(lr=1.0, schedule="plateau", gamma=0.1, patience=0))
    result = []
    for _ in range(12):
        schedule.validated(1.0)
        result.append(schedule.set(0))
    assert result[:2] == [1.0, 0.1]
    assert result[8:] == [result[8]] * 4
    assert result[8] == pytest.approx(1e-8)


@pytest.mark.parametrize("gamma", [-0.1, 1.0, math.nan])
def test_gamma_that_does_not_reduce_is_refused(gamma: float) -> None:
    with pytest.raises(ConfigError, match=r"optim\.gamma is .*; it must be at least 0 and below 1"):
        OptimConfig(gamma=gamma)


@pytest.mark.parametrize("cut", range(8))
def test_plateau_remembers_across_a_restart(cut: int) -> None:
    losses = [1.0, 0.9, 0.95, 0.91, 0.92, 0.8, 0.81, 0.8, 0.8, 0.7]
    config = OptimConfig(lr=1.0, schedule="plateau", patience=1)
    straight, before = schedule_of(config), schedule_of(config)
    for loss in losses[:cut]:
        straight.validated(loss)
        before.validated(loss)
    after = schedule_of(config)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert after.set(0) == straight.set(0)
    for loss in losses[cut:]:
        straight.validated(loss)
        after.validated(loss)
        assert after.set(0) == straight.set(0)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(3, 4, 3),
        nn.BatchNorm3d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 4, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("decay_norm", [True, False])
def test_biases_and_norms_decay_only_with_decay_norm(decay_norm: bool) -> None:
    model = net()
    model[5].bias.requires_grad_(False)
    config = OptimConfig(name="adamw", lr=0.5, weight_decay=0.1, decay_norm=decay_norm)
    optimizer = make_optimizer(model, config)
    decay = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    names = dict(model.named_parameters())
    assert set(decay) == {p for p in names.values() if p.requires_grad}
    for name, parameter in names.items():
        if parameter.requires_grad:
            small = name in ("0.bias", "1.weight", "1.bias")
            assert decay[parameter] == (0.0 if small and not decay_norm else 0.1), name


def test_sgd_is_nesterov_with_decay_in_the_gradient() -> None:
    model, slow = net(), net()
    config = OptimConfig(lr=0.1, momentum=0.9, weight_decay=0.01)
    learn(model, make_optimizer(model, config))

    velocity = {name: torch.zeros_like(p) for name, p in slow.named_parameters()}

    class Slow(torch.optim.SGD):
        def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # noqa: ARG002
            with torch.no_grad():
                for name, p in slow.named_parameters():
                    assert p.grad is not None
                    gradient = p.grad + 0.01 * p
                    velocity[name] = 0.9 * velocity[name] + gradient
                    p -= 0.1 * (gradient + 0.9 * velocity[name])

    learn(slow, Slow(slow.parameters(), lr=0.1))
    for fast, want in zip(model.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(fast, want)


def test_adamw_decays_the_weights_themselves() -> None:
    model = nn.Linear(3, 2, bias=False)
    before = model.weight.detach().clone()
    optimizer = make_optimizer(model, OptimConfig(name="adamw", lr=0.1, weight_decay=0.5))
    model.weight.grad = torch.zeros_like(model.weight)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before * (1 - 0.1 * 0.5))


def test_plain_sgd_without_momentum() -> None:
    model = net()
    assert not make_optimizer(model, OptimConfig(momentum=0.0)).param_groups[0]["nesterov"]


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_moving_average_against_a_slow_loop(decay: float) -> None:
    model = net()
    ema = make_ema(model, decay)
    optimizer = make_optimizer(model, OptimConfig(lr=0.1))
    slow: dict[str, torch.Tensor] = {}
    for number in range(12):
        learn(model, optimizer, steps=1)
        ema.update_parameters(model)
        share = min(decay, (1 + number) / (10 + number))
        for name, value in model.state_dict().items():
            if number == 0 or not value.is_floating_point():
                slow[name] = value.clone()  # counters are copied
            else:
                slow[name] = share * slow[name] + (1 - share) * value
    averaged = ema.module.state_dict()
    assert averaged.keys() == slow.keys()
    for name, want in slow.items():
        torch.testing.assert_close(averaged[name], want, msg=name)
    assert int(averaged["1.num_batches_tracked"]) == 12
    assert not torch.equal(averaged["1.running_mean"], model.state_dict()["1.running_mean"])


# --- rates by stage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay_norm", [True, False])
def test_each_stage_has_its_rate(decay_norm: bool) -> None:
    net = create_model("densenet3d_tiny", num_classes=2)
    config = OptimConfig(
        lr=0.5,
        schedule="constant",
        layer_decay=0.5,
        classifier_lr=10,
        decay_norm=decay_norm,
        weight_decay=0.1,
    )
    optimizer = make_optimizer(net, config)
    assert Schedule(optimizer, config, steps_per_epoch=1).set(0) == 0.5
    got = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    stages = ("conv0", "norm0"), ("denseblock1", "transition1"), ("denseblock2", "transition2")
    stages += ("denseblock3", "transition3"), ("denseblock4", "norm5")
    for name, parameter in net.named_parameters():
        if name.startswith("classifier"):
            rate = 5.0
        else:
            place = next(i for i, names in enumerate(stages) if name.split(".")[1] in names)
            rate = 0.5 * 0.5 ** (5 - place)
        decay = 0.1 if decay_norm or parameter.ndim > 1 else 0.0
        assert got[id(parameter)] == (pytest.approx(rate), decay), name


def test_without_rates_by_stage_nothing_changes() -> None:
    net = create_model("densenet3d_tiny", num_classes=2)
    (group,) = make_optimizer(net, OptimConfig()).param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in net.parameters()]
    two = make_optimizer(net, OptimConfig(decay_norm=False)).param_groups
    assert [p.ndim > 1 for p in two[0]["params"]] == [True] * len(two[0]["params"])
    assert len(two) == 2


def test_rates_by_stage_need_stages() -> None:
    with pytest.raises(ConfigError, match="a transfer run has none"):
        make_optimizer(nn.Linear(2, 2), OptimConfig(layer_decay=0.5))
    with pytest.raises(ConfigError, match=r"optim\.layer_decay is 1\.5"):
        OptimConfig(layer_decay=1.5)
    with pytest.raises(ConfigError, match=r"optim\.classifier_lr is 0"):
        OptimConfig(classifier_lr=0)
