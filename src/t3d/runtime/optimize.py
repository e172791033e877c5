"""The fastest equal way to compute a network on this machine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from types import MappingProxyType
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from t3d.device import Precision, use_bf16
from t3d.errors import ConfigError, at_least, first_line, one_of
from t3d.runtime.fold import folded
from t3d.timing import Rounds, alternate, waiting

Numbers = Literal["fp32", "bf16"]
LARGEST_DIFFERENCE: Mapping[Numbers, float] = MappingProxyType({"fp32": 1e-5, "bf16": 2e-2})
"""Largest accepted ‖Δ‖ / ‖reference‖ of a candidate's outputs."""
_CAST_ONCE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_HOPELESS = 2.0  # a candidate this many times slower than the fastest is not measured again


@dataclass(frozen=True)
class Candidate:
    """One way to compute a network.

    Args:
        name: Description, such as `bf16, folded BatchNorm, channels_last_3d`.
        seconds: Median time of a call. None if the candidate was rejected.
        difference: ‖Δ‖ / ‖reference‖ of its outputs. None if it computed none.
        rejected: Why it must not be chosen. Empty if it may be.
    """

    name: str
    seconds: float | None = None
    difference: float | None = None
    rejected: str = ""

    def __str__(self) -> str:
        result = f"rejected: {self.rejected}" if self.seconds is None else f"{1000 * self.seconds:.1f} ms"
        return f"{self.name}: {result}"


class OptimizedModel:
    """A network that is computed in the fastest way, see `optimize`.

    Args:
        compute: Function that computes the network.
        candidates: All ways that were tried.
        choice: Name of the chosen one.
        device: Device of the network.
        shape: The only accepted shape of the input. None accepts what the network accepts.

    Attributes:
        seconds: Median time of a call with the example input.
    """

    def __init__(
        self,
        compute: Callable[[Tensor], Tensor],
        candidates: tuple[Candidate, ...],
        choice: str,
        *,
        device: torch.device,
        shape: torch.Size | None = None,
    ) -> None:
        self._compute = compute
        self.candidates = candidates
        self.choice = choice
        self.device = device
        self.shape = shape
        self.seconds = next(each.seconds for each in candidates if each.name == choice)

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the network.

        Args:
            x: Input of the network, float32, on its device.

        Returns:
            Output of the network, float32, without gradients.

        Raises:
            ConfigError: The input is on another device, or the choice is a CUDA graph of another shape.
        """
        if x.device != self.device:
            raise ConfigError(
                f"the input is on {x.device}, the model on {self.device}; use x.to('{self.device}')"
            )
        if self.shape is not None and x.shape != self.shape:
            raise ConfigError(
                f"the input is {_sizes(x.shape)}, but the chosen CUDA graph computes only inputs of the "
                f"example's shape, {_sizes(self.shape)}; call t3d.optimize with an example of the new shape"
            )
        return self._compute(x)

    def __repr__(self) -> str:
        lines = (f"  {'*' if each.name == self.choice else ' '} {each}" for each in self.candidates)
        return "\n".join(("OptimizedModel(", *lines, ")"))


def optimize(
    model: nn.Module,
    *,
    example_input: Tensor,
    precision: Precision = "auto",
    compile: bool = False,  # noqa: A002 (the name of torch's function)
    rounds: int = 5,
) -> OptimizedModel:
    """Measure several ways to compute a network, and return the fastest one that gives the same outputs.

    Each way combines BatchNorm folded into the convolution before it, channels_last_3d, and bfloat16
    (autocast, with weights converted once). On a GPU, the fastest one is also tried as a CUDA graph. A way is
    rejected if its outputs for the example differ by more than `LARGEST_DIFFERENCE`, or if a top-1 differs.

    Args:
        model: Network in evaluation mode, float32. It is not changed. One copy stays in memory.
        example_input: Input as the network will get it: real, normalized clips B C T H W, in the batch size
            of later calls.
        precision: `fp32` never leaves float32. `auto` also tries bfloat16 on devices that compute it in
            hardware, `bf16` on all devices.
        compile: Also try `torch.compile` on the fastest way. It needs a C++ compiler and takes minutes.
        rounds: Calls per way. The ways take turns.

    Returns:
        Callable with the choice, its time and all candidates.

    Raises:
        ConfigError: The model is in training mode, not in float32, or on another device than the example, or
            does not accept the example.

    Example:
        >>> from t3d.models import create_model
        >>> net = create_model("t3d_tiny", num_classes=4).eval()
        >>> fast = optimize(net, example_input=torch.rand(1, 3, 4, 32, 32), precision="fp32", rounds=1)
        >>> fast(torch.rand(2, 3, 4, 32, 32)).shape
        torch.Size([2, 4])
    """
    one_of("precision", precision, get_args(Precision))
    at_least("rounds", rounds, 1)
    _check(model, example_input)
    device = example_input.device
    trial = _Trial(model, example_input, rounds)
    numbers: tuple[Numbers, ...] = get_args(Numbers) if use_bf16(precision, device) else ("fp32",)
    folding = folded(model, example_input)[1] > 0
    for fold, channels_last, each in product((False, True), (False, True), numbers):
        if (fold, channels_last, each) != (False, False, "fp32") and (folding or not fold):
            way = _Way(fold, channels_last, each)
            trial.add(way.name, partial(way.build, model, example_input), numbers=each)
    trial.measure()
    best = trial.fastest()
    extra = [("torch.compile", _compiled)] if compile else []
    if device.type == "cuda":
        extra.append(("CUDA graph", _graph))
    numbers_of_best: Numbers = "bf16" if "bf16" in best else "fp32"
    for name, build in extra:
        trial.add(
            f"{best}, {name}",
            partial(build, trial.computes[best], example_input),
            numbers=numbers_of_best,
        )
    if extra:
        trial.measure()
        best = trial.fastest()
    return OptimizedModel(
        trial.computes[best],
        tuple(trial.candidates.values()),
        best,
        device=device,
        shape=example_input.shape if "CUDA graph" in best else None,
    )


def _check(model: nn.Module, example: Tensor) -> None:
    """Raise an error for a model or an example that cannot be used."""
    if any(module.training for module in model.modules()):
        raise ConfigError(
            "the model is in training mode, which computes other outputs; call model.eval() first"
        )
    if not isinstance(example, Tensor) or example.dtype != torch.float32:
        kind = example.dtype if isinstance(example, Tensor) else type(example).__name__
        raise ConfigError(
            f"example_input is {kind}; it must be a float32 tensor, such as normalized clips B C T H W"
        )
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise ConfigError(f"{name} of the model is {parameter.dtype}; call model.float() first")
        if parameter.device != example.device:
            raise ConfigError(
                f"the model is on {parameter.device}, example_input on {example.device}; move one of them "
                "with .to()"
            )
        break


@dataclass(frozen=True)
class _Way:
    """Combination of changes that keep the outputs of a network."""

    fold: bool = False
    channels_last: bool = False
    numbers: Numbers = "fp32"

    @property
    def name(self) -> str:
        parts: list[str] = [self.numbers]
        parts += ["folded BatchNorm"] if self.fold else []
        parts += ["channels_last_3d"] if self.channels_last else []
        return ", ".join(parts) if self != _Way() else "plain"

    def build(self, model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        """Return a function that computes a changed copy of the model."""
        net = folded(model, example)[0] if self.fold else copy.deepcopy(model)
        bf16 = self.numbers == "bf16"
        if bf16:
            for module in net.modules():
                if isinstance(module, _CAST_ONCE):  # autocast would convert their weights in each call
                    module.bfloat16()
        layout = torch.channels_last_3d if self.channels_last and example.ndim == 5 else torch.preserve_format
        if layout == torch.channels_last_3d:
            net = net.to(memory_format=layout)

        @torch.inference_mode()
        def compute(x: Tensor) -> Tensor:
            x = x.to(memory_format=layout)
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=bf16):
                output: Tensor = net(x)
            return output.float()

        return compute


class _Trial:
    """Candidates, compared with the network itself and measured in turn."""

    def __init__(self, model: nn.Module, example: Tensor, rounds: int) -> None:
        self.example = example
        self.rounds = rounds

        @torch.inference_mode()
        def plain(x: Tensor) -> Tensor:
            output: Tensor = model(x)
            return output

        self.reference = plain(example)
        self.computes: dict[str, Callable[[Tensor], Tensor]] = {"plain": plain}
        self.candidates: dict[str, Candidate] = {"plain": Candidate("plain", difference=0.0)}

    def add(self, name: str, build: Callable[[], Callable[[Tensor], Tensor]], *, numbers: Numbers) -> None:
        """Build a candidate, and reject it if its outputs differ or it fails."""
        try:
            compute = build()
            output = compute(self.example)
        except Exception as error:  # of a backend, which has no common base class
            self.candidates[name] = Candidate(name, rejected=f"it fails: {first_line(error)}")
            return
        most = LARGEST_DIFFERENCE[numbers]
        difference = _difference(output, self.reference)
        rejected = ""
        if not difference < most:  # NaN included
            rejected = f"its outputs differ by {difference:.1e}, allowed are {most:.0e}"
        elif self.reference.ndim == 2 and not torch.equal(output.argmax(1), self.reference.argmax(1)):
            rejected = "its top-1 differs for some inputs"
        self.candidates[name] = Candidate(name, difference=difference, rejected=rejected)
        if not rejected:
            self.computes[name] = compute

    def measure(self) -> None:
        """Measure all candidates in turn. Ones that are much too slow in the first round are not repeated."""
        calls = {name: partial(compute, self.example) for name, compute in self.computes.items()}
        rounds = Rounds(fewest=self.rounds, most=self.rounds, warm_ups=0, hopeless=_HOPELESS)
        for name, time in alternate(calls, rounds, wait=waiting(self.example.device)).times.items():
            self.candidates[name] = replace(self.candidates[name], seconds=time.median)

    def fastest(self) -> str:
        """Return the name of the fastest candidate."""
        return min(self.computes, key=lambda name: self.candidates[name].seconds or 0.0)


def _difference(output: Tensor, reference: Tensor) -> float:
    if output.shape != reference.shape:
        return float("inf")
    delta = (output.double() - reference.double()).norm()
    return float(delta / reference.double().norm().clamp_min(1e-30))


def _compiled(compute: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    del example
    return torch.compile(compute)


def _graph(compute: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """Record the kernels of a call on a GPU once, so that later calls only replay them."""
    static = example.clone()
    stream = torch.cuda.Stream(example.device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(example.device))
    with torch.cuda.stream(stream):  # as torch's documentation asks: libraries set up their work space first
        for _ in range(3):
            compute(static)
    torch.cuda.current_stream(example.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = compute(static)

    def replay(x: Tensor) -> Tensor:
        static.copy_(x)
        graph.replay()
        return output.clone()

    return replay


def _sizes(shape: torch.Size) -> str:
    return " × ".join(map(str, shape))
