from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from t3d.cli import main as cli
from t3d.errors import CheckpointError, ConfigError, ManifestError, StoppedError
from t3d.io.locks import alone_in
from t3d.progress import Bar, progress
from t3d.reproduce import run as module
from t3d.reproduce.config import Choices
from t3d.reproduce.result import Figure, ResultRow, figure, markdown
from t3d.reproduce.run import reproduce
from t3d.reproduce.runs import open_sets, trials_of
from t3d.reproduce.tables import read_table
from t3d.training import run as loop
from t3d.training.run_folder import RunFolder
from t3d.training.trainer import Trainer
from t3d.video.encode import write_video

COLORS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 60, 40)}


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per class: 14 blue, green and red videos of 10 frames, 32 × 40."""
    root = tmp_path_factory.mktemp("reproduce") / "clips"
    generator = torch.Generator().manual_seed(0)
    for name, color in COLORS.items():
        (root / name).mkdir(parents=True)
        for number in range(14):
            noise = torch.randint(-40, 41, (10, 3, 32, 40), generator=generator)
            frames = (torch.tensor(color).view(3, 1, 1) + noise).clamp(0, 255).to(torch.uint8)
            write_video(root / name / f"{name}_{number}.mp4", frames, crf=30)
    return root


@pytest.fixture
def choices(clips: Path, tmp_path: Path) -> Choices:
    return Choices(
        out=tmp_path / "out",
        data={"ucf101": str(clips), "kinetics": str(clips), "youtube8m": str(clips / "red")},
        scale="small",
        teacher="torchvision:squeezenet1_1",
        teacher_weights="random",
        workers=0,
        precision="fp32",
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Functions that run: `train`, `transfer`, `run_test`."""
    made: list[str] = []

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **more: Any) -> Any:
            made.append(name)
            return call(*args, **more)

        return counting

    for name in ("train", "transfer", "run_test"):
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    return made


def result(files: tuple[Path, Path]) -> dict[str, Any]:
    content = json.loads(files[0].read_text())
    return {row["row"]: row["figures"]["ucf101"] for row in content["rows"]}


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    """Bars of the overall progress, one per command."""
    opened: list[Bar] = []

    @contextmanager
    def recorded(*args: Any, **more: Any) -> Iterator[Bar]:
        with progress(*args, **more) as bar:
            opened.append(bar)
            yield bar

    monkeypatch.setattr(module, "progress", recorded)
    return opened


@pytest.mark.long
def test_a_row_of_three_steps_from_clips_to_table_and_once_more(
    choices: Choices, calls: list[str], bars: list[Bar], capsys: pytest.CaptureFixture[str]
) -> None:
    files = reproduce("table8", choices, rows=["T3D-FT-Transfer"])
    assert calls == ["transfer", "train", "train", "run_test"]
    assert files == (choices.out / "table8-small.json", choices.out / "table8-small.md")
    (metrics,) = choices.out.glob("runs/*/test-ucf101-1-*/metrics.json")
    test = json.loads(metrics.read_text())
    top1, low, high = 100 * test["video_top1"], 100 * test["interval"][0], 100 * test["interval"][1]
    figures = result(files)
    assert figures.pop("T3D-FT-Transfer") == {
        "paper": None,
        "ours": round(top1, 4),
        "difference": None,
        "splits": {"1": round(top1, 4)},
        "interval": [round(low, 4), round(high, 4)],
        "videos": test["videos"],
        "majority": round(100 * test["majority"]["share"], 4),
        "chance": round(100 * test["chance"], 4),
        "missing": 0,
        "bad": 0,
    }
    assert {figure["ours"] for figure in figures.values()} == {None}
    assert f"| T3D-FT-Transfer |  | {top1:.1f} ({low:.1f}–{high:.1f}) |  |\n" in files[1].read_text()
    assert "Do not compare them" in files[1].read_text()

    def announced() -> list[str]:
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("Run ")]

    assert announced() == [
        "Run 1 of 3: transfer on youtube8m",
        "Run 2 of 3: train on kinetics",
        "Run 3 of 3: train on ucf101",
    ]
    assert [(bar.title, bar.count()) for bar in bars] == [("Running table8", "3 of 3 runs (100 %)")]

    # Each step began from the one before.
    folders = {path.name.split("-")[0] + path.name.split("-")[1]: path for path in choices.out.glob("runs/*")}
    assert set(folders) == {"transferyoutube8m1", "trainkinetics1", "trainucf1011"}
    config = (folders["trainucf1011"] / "config.yaml").read_text()
    assert f"init: {folders['trainkinetics1']}/last.safetensors" in config

    before = {path: path.stat().st_mtime_ns for path in choices.out.glob("runs/**/*") if path.is_file()}
    again = reproduce("8", choices, rows=["T3D-FT-Transfer"])
    assert calls == ["transfer", "train", "train", "run_test"]  # nothing was run again
    assert announced() == []
    assert bars[1].count() == "3 of 3 runs (100 %)"
    assert result(again)["T3D-FT-Transfer"]["ours"] == round(top1, 4)
    assert {path: path.stat().st_mtime_ns for path in before} == before

    reproduce("8", choices, rows=["T3D-Transfer"])
    assert calls[4:] == ["train", "run_test"]  # its transfer was there
    assert announced() == ["Run 2 of 2: train on ucf101"]
    assert bars[2].count() == "2 of 2 runs (100 %)"
    assert result(again)["T3D-FT-Transfer"]["ours"] == round(top1, 4)  # a row of another command stays


def test_few_labels_from_clips_to_a_table_of_published_figures(choices: Choices, calls: list[str]) -> None:
    few = replace(choices, data={"ucf101": choices.data["ucf101"]})
    files = reproduce("few-labels", few, rows=["ResNet3D-18-10-percent"])
    assert calls == ["transfer", "run_test"]
    ours = result(files)["ResNet3D-18-10-percent"]
    assert (ours["paper"], ours["difference"]) == (None, None)
    low, high = ours["interval"]
    (run,) = choices.out.glob("runs/*")
    assert run.name.startswith("transfer-ucf1011-resnet3d18-")
    train, _ = RunFolder(run).read_videos()
    assert 0 < int(train.labeled.sum()) < len(train) / 4
    assert files[1].name == "few-labels-small.md"
    assert files[1].read_text().startswith("# Few labels, UCF101 split 1\n")
    assert (
        "| | UCF101: published | ours |\n|---|---|---:|\n"
        "| ResNet3D-18-5-percent | FixMatch for video 27.1, VideoSSL 32.4, LTG 44.8 |  |\n"
        "| ResNet3D-18-10-percent | VideoSSL 42.0, LTG 62.4 | "
        f"{ours['ours']:.1f} ({low:.1f}–{high:.1f}) |\n"
        "| T3D-5-percent |  |  |\n| T3D-10-percent |  |  |\n"
        "| ViT-B-5-percent | SeFAR 77.6 |  |\n| ViT-B-10-percent | SeFAR 87.0 |  |\n"
    ) in files[1].read_text()
    assert "compare within a network only" in files[1].read_text()
    assert json.loads(files[0].read_text())["published"]["figures"]["ViT-B-5-percent"] == {"SeFAR": 77.6}
    reproduce("few-labels", few, rows=["ResNet3D-18-10-percent"])
    assert calls == ["transfer", "run_test"]


@pytest.mark.long
def test_a_stopped_row_resumes_with_identical_results(
    choices: Choices, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = reproduce("table4", replace(choices, out=choices.out / "whole"), rows=["T3D"])
    take = Trainer.take_step
    with monkeypatch.context() as patched:

        def take_step(self: Trainer, batches: Any, *, epoch: int, step: int) -> None:
            take(self, batches, epoch=epoch, step=step)
            if epoch * self.steps + step == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        patched.setattr(Trainer, "take_step", take_step)
        with pytest.raises(StoppedError, match="in row T3D; run the same command again to resume") as error:
            reproduce("table4", choices, rows=["T3D"])
    assert error.value.signal == signal.SIGTERM
    assert (choices.out / "table4-small.md").exists()
    with monkeypatch.context() as patched:  # in the last validation, after the last step
        score = loop.score_videos
        patched.setattr(
            loop,
            "score_videos",
            lambda *a, **more: (os.kill(os.getpid(), signal.SIGINT), score(*a, **more))[1],
        )
        with pytest.raises(StoppedError) as error:
            reproduce("table4", choices, rows=["T3D"])
        assert error.value.signal == signal.SIGINT
    with monkeypatch.context() as patched:  # killed between the training and the end of the test
        patched.setattr(module, "run_test", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            reproduce("table4", choices, rows=["T3D"])
    files = reproduce("table4", choices, rows=["T3D"])
    assert calls == ["train", "run_test", "train", "train", "run_test"]  # the third had nothing to train
    ours, once = (result(which)["T3D"] for which in (files, whole))
    assert ours["ours"] == once["ours"]
    assert (ours["paper"], ours["difference"]) == (71.4, None)  # at the small scale they are not compared
    (one,), (other,) = (
        list(out.glob("runs/*/last.safetensors")) for out in (choices.out, choices.out / "whole")
    )
    assert one.parent.name == other.parent.name
    weights = load_file(other)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in load_file(one).items())


def test_wrong_options_are_refused_before_any_run(choices: Choices, calls: list[str], clips: Path) -> None:
    few = choices.out.parent / "few"
    for name in COLORS:
        (few / name).mkdir(parents=True)
        for number in range(4):
            shutil.copy(clips / name / f"{name}_{number}.mp4", few / name)
    wrong: list[tuple[Choices, type[Exception], str]] = [
        (
            replace(choices, data={}),
            ConfigError,
            "table8 needs UCF101, Kinetics-400, YouTube-8M: set `data.ucf101`",
        ),
        (replace(choices, scale="paper"), ConfigError, "no official lists of UCF101"),
        (replace(choices, teacher="squeezenet9"), ConfigError, "unknown teacher 'squeezenet9'"),
        (replace(choices, teacher_weights="absent.safetensors"), CheckpointError, "absent.safetensors"),
        (
            replace(choices, data=choices.data | {"ucf101": str(few)}),
            ManifestError,
            "fewer than a batch has",
        ),
        (
            replace(choices, data=choices.data | {"kinetics": "absent"}),
            ManifestError,
            "absent: no such file or folder",
        ),
    ]
    for asked, kind, message in wrong:
        with pytest.raises(kind, match=message):
            reproduce("table8", asked)
    assert not calls
    assert not (choices.out / "runs").exists()


def test_two_commands_into_one_folder_are_refused(choices: Choices, calls: list[str]) -> None:
    choices.out.mkdir(parents=True, exist_ok=True)
    with alone_in(choices.out), pytest.raises(ConfigError, match="another run is writing to"):
        reproduce("table8", choices, rows=["T3D-Transfer"])
    assert calls == []


def test_a_damaged_test_is_reported(choices: Choices) -> None:
    reproduce("table2", choices, rows=["T3D-121"])
    (metrics,) = choices.out.glob("runs/*/test-*/metrics.json")
    metrics.write_text("{}")
    with pytest.raises(CheckpointError, match=r"metrics.json: damaged test result .*delete it to test again"):
        reproduce("table2", choices, rows=["T3D-121"])


def test_the_difference_from_the_paper_once_every_split_is_tested(tmp_path: Path) -> None:
    table = read_table("table10")
    (row,) = table.chosen(["T3D"])
    choices = Choices(out=tmp_path)
    trials = trials_of(table, row, open_sets(table, (row,), choices), choices)
    mine = [trial for trial in trials if trial.on == "ucf101"]
    figures = []
    for trial, top1 in zip(mine, (0.88, 0.9, 0.911), strict=True):
        trial.folder.mkdir(parents=True)
        written = {"video_top1": top1, "interval": [top1 - 0.02, top1 + 0.01], "chance": 0.01}
        written |= {"majority": {"name": "a", "share": 0.02}, "videos": 50, "bad": 1}
        trial.metrics.write_text(json.dumps(written))
        figures.append(figure(90.3, mine, scale="paper"))
    assert [(each.ours, each.difference) for each in figures] == [(None, None), (None, None), (89.7, -0.6)]
    assert (figures[2].splits, figures[2].bad) == ({1: 88.0, 2: 90.0, 3: 91.1}, 3)
    assert (figures[1].interval, figures[2].interval) == (None, (87.7, 90.7))
    assert (figures[2].videos, figures[2].majority, figures[2].chance) == (150, 2.0, 1.0)
    assert figure(None, mine, scale="paper").difference is None


def test_the_written_table_by_hand() -> None:
    table = read_table("table10")
    nothing = Figure(None, None, None, {})
    rows = [
        ResultRow(
            "T3D", "t3d121", {"ucf101": Figure(90.3, 89.0, -1.3, {1: 88, 2: 89, 3: 90}), "hmdb51": nothing}
        ),
        ResultRow(
            "C3D",
            "c3d",
            {"ucf101": nothing, "hmdb51": Figure(None, 51.25, None, {1: 51.25}, missing=7, bad=1)},
        ),
        ResultRow(
            "I3D",
            "i3d",
            {"ucf101": nothing, "hmdb51": Figure(None, 52.5, None, {1: 52.5}, (50, 55), 90, 4, 2, 7, 1)},
        ),
    ]
    assert markdown(table, rows, scale="paper") == (
        "# Table 10. UCF101 and HMDB51, mean of three splits\n\nVideo top-1 in percent.\n\n"
        "| | UCF101 (mean): paper | ours | difference | HMDB51 (mean): paper | ours | difference |\n"
        "|---|---:|---:|---:|---:|---:|---:|\n"
        "| T3D | 90.3 | 89.0 | -1.3 |  |  |  |\n"
        "| C3D |  |  |  |  | 51.2 |  |\n"
        "| I3D |  |  |  |  | 52.5 (50.0–55.0) |  |\n\n"
        "HMDB51: 90 tested videos, 95% intervals in parentheses. Always answering the most frequent class "
        "would give 4.0, guessing 2.0.\n\n"
        "C3D, I3D on HMDB51: 7 listed videos were missing, 1 unreadable.\n"
    )


def test_from_the_command_line(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["reproduce", "4", "--row", "T3D", "--scale", "small", "--data.ucf101", str(clips)]
    assert cli.main([*words, "--plan", "--rate", "50"]) == 0
    assert capsys.readouterr().out.startswith("table4: Against other 3D nets")
    assert not list(tmp_path.iterdir())
    for wrong, message in (
        ([*words, "--out", "o", "--rate", "5"], "--rate needs --plan"),
        (["reproduce", "7", "--plan"], "Table 7 contains facts"),
        (["reproduce", "4", "--row", "T4D", "--plan"], "did you mean 'T3D'?"),
        (["reproduce", "4", "--index.ucf101", "i", "--plan"], "--index.ucf101 i needs --data.ucf101"),
    ):
        assert cli.main(wrong) == 2
        assert message in capsys.readouterr().err
    assert cli.main([*words, "--out", str(tmp_path / "out"), "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert "| T3D | 71.4 |" in out
    assert out.endswith(f"{tmp_path}/out/table4-small.md, {tmp_path}/out/table4-small.json\n")
