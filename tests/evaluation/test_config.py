"""Options of testing, prediction and probes: light to import, checked when made, without name clashes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import pytest

from t3d.clip import ClipSpec
from t3d.errors import ConfigError
from t3d.evaluation.config import PredictConfig, Reading, TestConfig
from t3d.evaluation.protocol import Protocol
from t3d.transfer.probe_config import ProbeConfig


@pytest.mark.parametrize(
    "module", ["t3d.evaluation.config", "t3d.evaluation.protocol", "t3d.transfer.probe_config"]
)
def test_importing_options_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def flat(kind: Any) -> list[str]:
    hints = get_type_hints(kind)
    names = []
    for field in fields(kind):
        names += flat(hints[field.name]) if is_dataclass(hints[field.name]) else [field.name]
    return names


@pytest.mark.parametrize("kind", [TestConfig, ProbeConfig, PredictConfig])
def test_every_option_of_a_command_has_a_unique_name(kind: Any) -> None:
    names = flat(kind)
    assert len(names) > 8
    assert len(names) == len(set(names))


def test_options_that_cannot_work_are_refused() -> None:
    for make, message in (
        (lambda: Reading(max_bad=1.5), "max_bad is 1.5"),
        (lambda: TestConfig("m", "v", seed=-1), "seed is -1"),
        (
            lambda: TestConfig("m", "v", frame_order="shufled"),
            "frame_order is 'shufled'; .*'shuffled'",
        ),
        (lambda: TestConfig("m", "v", tail="padd"), "tail is 'padd'; did you mean 'pad'"),
        (lambda: Protocol(ClipSpec(), order="static "), "order is 'static '; did you mean 'static'"),
        (lambda: PredictConfig("m", top=0), "top is 0"),
        (lambda: PredictConfig("m", out="scores.txt"), "out is scores.txt; .* must end in .jsonl or .csv"),
        (
            lambda: PredictConfig("m", out="a.csv", top=3),
            "`top` is set and `out` is a.csv; .*out `top`",
        ),
        (lambda: PredictConfig("m", out="a.csv", per_clip=True), "`per_clip` is set and `out` is a.csv"),
        (
            lambda: ProbeConfig("a", "b", model="m", label_fraction=0),
            "label_fraction is 0; it must be above 0",
        ),
        (lambda: ProbeConfig("a", "b", model="m", label_fraction=1.1), "label_fraction is 1.1"),
        (lambda: ProbeConfig("a", "b", model="m", label_seed=-1), "label_seed is -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()
