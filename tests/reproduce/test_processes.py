"""Two processes of `t3d reproduce`, as torchrun starts them: who writes, who stops and who reports."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from t3d.cli import main as cli
from t3d.errors import ConfigError, ManifestError, OtherProcessError, StoppedError, VideoError
from t3d.reproduce import processes as module
from t3d.reproduce.config import Choices
from t3d.reproduce.processes import AllProcesses
from t3d.reproduce.run import reproduce
from t3d.training.step import SingleLabelStep
from t3d.training.trainer import Trainer
from t3d.video.encode import write_video

ROWS = ["DenseNet3D-121-at-112"]
InTwo = Callable[[Callable[[int], object]], list[Any]]


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass


@pytest.fixture
def choices(tmp_path: Path) -> Choices:
    """14 dark and 14 light videos of 10 frames, 32 × 40."""
    generator = torch.Generator().manual_seed(0)
    for name, light in (("dark", 60), ("light", 190)):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for number in range(14):
            frames = light + torch.randint(-40, 41, (10, 3, 32, 40), generator=generator)
            write_video(tmp_path / "clips" / name / f"{number}.mp4", frames.to(torch.uint8), crf=30)
    return Choices(
        out=tmp_path / "out",
        data={"ucf101": str(tmp_path / "clips")},
        scale="small",
        workers=0,
        precision="fp32",
    )


def top1(files: tuple[Path, Path]) -> dict[str, Any]:
    return {row["row"]: row["figures"]["ucf101"]["ours"] for row in json.loads(files[0].read_text())["rows"]}


@pytest.mark.slow
def test_a_row_in_two_processes_is_stopped_and_resumed(
    choices: Choices,
    in_two_processes: InTwo,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    take = Trainer.take_step

    def whole(_: int) -> Any:
        return reproduce("table5", replace(choices, out=choices.out / "whole"), rows=ROWS)

    def stopped(rank: int) -> Any:
        def take_step(self: Trainer, batches: Any, *, epoch: int, step: int) -> None:
            take(self, batches, epoch=epoch, step=step)
            if rank == 1 and epoch * self.steps + step == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(Trainer, "take_step", take_step)
        return reproduce("table5", choices, rows=ROWS)

    def resumed(_: int) -> Any:
        return reproduce("table5", choices, rows=ROWS)

    first, second = in_two_processes(whole)
    assert first == second
    out = capfd.readouterr().out
    for line in (
        "table5, row DenseNet3D-121-at-112",
        "Run 1 of 1: train on ucf101",
        "epoch   2/2",
        "videos correct",
    ):
        assert out.count(line) == 1, line
    own, other = in_two_processes(stopped)
    assert (type(own), type(other)) == (StoppedError, OtherProcessError)
    assert own.signal == other.signal == signal.SIGTERM
    assert "run the same command again to resume" in str(own)
    assert not list(choices.out.glob("runs/*/finished"))
    files, again = in_two_processes(resumed)
    assert files == again
    assert top1(files) == top1(first)
    one, straight = (
        next(out.glob("runs/*/last.safetensors")) for out in (choices.out, choices.out / "whole")
    )
    weights = load_file(straight)
    for name, tensor in load_file(one).items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-5, atol=1e-6, msg=name)
    before = {path: path.stat().st_mtime_ns for path in choices.out.glob("runs/**/*")}
    assert in_two_processes(resumed) == [files, files]  # nothing is left to run
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_failure_ends_all_processes_with_one_message(
    choices: Choices, in_two_processes: InTwo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process reports an error that all find. A process that fails alone reports its error."""
    wrong = replace(choices, data={"ucf101": "absent"})
    own, other = in_two_processes(lambda _: reproduce("table5", wrong))
    assert (type(own), type(other)) == (ManifestError, OtherProcessError)
    assert str(own) == str(other)
    uneven = replace(choices, grad_accum_steps=8)
    own, other = in_two_processes(lambda _: reproduce("table5", uneven))
    assert (type(own), type(other)) == (ConfigError, OtherProcessError)
    assert "8 clips cannot be split evenly over 2 processes × 8 passes" in str(own)

    monkeypatch.setattr(module, "_REPORT", module.timedelta(seconds=1))
    loss = SingleLabelStep.loss

    def broken(rank: int) -> Any:
        def breaking(self: Any, *arguments: Any) -> Any:
            if rank == 1:
                raise VideoError("clip.mp4", "is broken")
            return loss(self, *arguments)

        monkeypatch.setattr(SingleLabelStep, "loss", breaking)
        return reproduce("table5", choices, rows=ROWS)

    other, own = in_two_processes(broken)
    assert (type(other), type(own)) == (OtherProcessError, VideoError)
    assert not list(choices.out.glob("runs/*/finished"))


@pytest.mark.parametrize(("number", "status"), [(None, 2), (15, 143)])
def test_a_process_whose_error_another_reports_prints_nothing(
    number: int | None,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OtherProcessError("no videos", number)

    monkeypatch.setattr("t3d.reproduce.run.reproduce", failing)
    assert cli.main(["reproduce", "table4"]) == status
    assert capsys.readouterr() == ("", "")


def test_what_the_main_process_does_alone(in_two_processes: InTwo) -> None:
    def work(rank: int) -> Any:
        processes = AllProcesses()
        seen = [processes.on_main(lambda: 10 + rank)]
        for who in (0, 1):
            try:
                with processes.agreed():
                    if rank == who:
                        raise StoppedError("stopped", 15)
            except (StoppedError, OtherProcessError) as error:
                seen.append((type(error).__name__, str(error), error.signal))
        try:
            processes.on_main(lambda: 1 / 0)
        except (ZeroDivisionError, OtherProcessError) as error:
            seen.append((type(error).__name__, str(error)))
        return seen

    stopped = [("StoppedError", "stopped", 15), ("OtherProcessError", "stopped", 15)]
    assert in_two_processes(work) == [
        [10, *stopped, ("ZeroDivisionError", "division by zero")],
        [10, *reversed(stopped), ("OtherProcessError", "division by zero")],
    ]
