from __future__ import annotations

import json
from pathlib import Path

import pytest

from t3d import progress
from t3d.training.logging import RunLog, read_log


def write(path: Path, steps: range, *, done: int = 0, validated: bool = True) -> None:
    with RunLog(path, main=True, steps=100, done=done, validated=validated) as log:
        for step in steps:
            log.write("train", step, loss=step / 10)
            if step % 4 == 0:
                log.write("val", step, loss=0.5, top1=0.25)


def seen(path: Path) -> list[tuple[str, int]]:
    return [(line["kind"], line["step"]) for line in read_log(path)]


STRAIGHT = [("train", 1), ("train", 2), ("train", 3), ("train", 4), ("val", 4), ("train", 5)]


def test_a_line_is_json_with_its_kind_step_and_numbers(tmp_path: Path) -> None:
    write(tmp_path / "log.jsonl", range(4, 5))
    train, val = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert train.pop("time") > 1.6e9
    assert train == {"kind": "train", "step": 4, "loss": 0.4}
    assert {"kind": "val", "top1": 0.25}.items() <= val.items()


def test_no_log_has_no_lines(tmp_path: Path) -> None:
    assert read_log(tmp_path / "log.jsonl") == []


@pytest.mark.parametrize("done", range(6))
def test_a_resumed_run_has_every_step_once(tmp_path: Path, done: int) -> None:
    path = tmp_path / "log.jsonl"
    write(path, range(1, 6))
    assert seen(path) == STRAIGHT
    write(path, range(done + 1, 6), done=done)
    assert seen(path) == STRAIGHT


def test_the_line_of_a_repeated_validation_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, range(1, 6))
    with RunLog(path, main=True, steps=100, done=4, validated=False):
        pass
    assert seen(path) == STRAIGHT[:4]


def test_a_line_that_a_kill_truncated_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, range(1, 4))
    with path.open("a") as file:
        file.write('{"kind": "train", "step": 4, "lo')
    write(path, range(4, 6), done=3)
    assert seen(path) == STRAIGHT
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_other_processes_write_and_print_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path / "log.jsonl", main=False, steps=10) as log:
        log.write("train", 1, loss=0.1)
        log.say("hello")
        log.advance("epoch")
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_say_prints_brackets_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path / "log.jsonl", main=True, steps=10) as log:
        log.say("runs/[bold]x")
    assert "runs/[bold]x" in capsys.readouterr().out


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path / "log.jsonl", range(1, 6))
    write(tmp_path / "log.jsonl", range(4, 6), done=3)
    events = EventAccumulator(str(tmp_path / "tensorboard"), purge_orphaned_data=True)
    events.Reload()
    loss = [(event.step, round(event.value, 3)) for event in events.Scalars("train/loss")]
    assert loss == [(step, step / 10) for step in range(1, 6)]
    assert [event.step for event in events.Scalars("val/top1")] == [4]


def test_progress_leaves_the_last_line_of_a_run_to_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress, "_clock", lambda: now[0])
    monkeypatch.setattr(progress, "_TICK", 3600.0)
    progress.show_progress()
    with RunLog(tmp_path / "log.jsonl", main=True, steps=10) as log:
        now[0] += 6
        log.advance("epoch 1 of 10")
        progress.tick()
        log.say("done in 0.1 minutes")
    progress.show_progress(False)
    captured = capsys.readouterr()
    assert captured.out == "done in 0.1 minutes\n"
    assert captured.err.startswith("Training: 1 of 10 steps (10 %)")
    assert "done in" not in captured.err
