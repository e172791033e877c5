from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml
from safetensors.torch import save_file

from t3d.card import ModelCard
from t3d.cli import main as cli
from t3d.cli import training
from t3d.cli.recipes import recipes
from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.errors import T3DError
from t3d.models.registry import create_model, list_models
from t3d.models.weights import load_model, save_model
from t3d.training.config import TrainConfig
from t3d.training.run_folder import RunFolder
from t3d.video.encode import write_video

SMALL = {"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1}
OPTIONS = {
    "clip": {"num_frames": 8, "stride": 1, "size": 32, "resize": 32},
    "model": {"name": "densenet3d_tiny", "options": SMALL},
    "optim": {"lr": 0.1, "epochs": 2, "batch_size": 4, "schedule": "constant"},
    "precision": "fp32",
}


def run(*words: object) -> int:
    """The exit status of `t3d WORDS`, however it comes."""
    try:
        return cli.main([str(word) for word in words])
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else -1


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per class: 4 red and 4 blue videos of 20 frames, 32 × 40."""
    root = tmp_path_factory.mktemp("cli") / "clips"
    generator = torch.Generator().manual_seed(0)
    for name, color in (("red", (200, 60, 40)), ("blue", (40, 60, 200))):
        (root / name).mkdir(parents=True)
        for number in range(4):
            noise = torch.randint(-40, 41, (20, 3, 32, 40), generator=generator)
            frames = (torch.tensor(color).view(3, 1, 1) + noise).clamp(0, 255).to(torch.uint8)
            write_video(root / name / f"{name} {number}.mp4", frames, crf=30)
    return root


@pytest.fixture(scope="module")
def options(clips: Path) -> Path:
    file = clips.parent / "options.yaml"
    file.write_text(yaml.safe_dump(OPTIONS))
    return file


@pytest.fixture(scope="module")
def trained(clips: Path, options: Path) -> RunFolder:
    """Files that `t3d train` wrote."""
    out = clips.parent / "run"
    words = ["--config", options, "--data.train", clips, "--data.val", clips, "--data.workers", 0]
    assert run("train", *words, "--out", out, "--optim.epochs", 3) == 0
    return RunFolder(out)


Out = pytest.CaptureFixture[str]


# --- help and mistakes -----------------------------------------------------------------------------------


def test_alone_it_shows_its_commands(capsys: Out) -> None:
    assert run() == 2
    out = capsys.readouterr().out
    assert all(f"\n  {name.partition(' ')[0]} " in out for name in cli.COMMANDS)
    assert run("--help") == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize("group", list(cli.GROUPS))
def test_a_group_shows_its_commands(group: str, capsys: Out) -> None:
    assert run(group) == 2
    out = capsys.readouterr().out
    leaves = [name.partition(" ")[2] for name in cli.COMMANDS if name.startswith(f"{group} ")]
    assert leaves
    assert all(f"\n  {leaf} " in out for leaf in leaves)
    for word in ("--help", "--help-all"):
        assert run(group, word) == 0
        assert capsys.readouterr().out == out


def test_the_version_is_shown(capsys: Out) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip().endswith("0.1.0.dev0")


def test_a_warning_of_t3d_is_one_plain_line(
    trained: RunFolder, clips: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    unfinished = tmp_path / "run"
    shutil.copytree(trained.path, unfinished, ignore=shutil.ignore_patterns("best.*", "last.*"))
    assert run("predict", unfinished, clips / "red" / "red 0.mp4", "--allow-unfinished", "--workers", 0) == 0
    (warning,) = (each for each in recwarn if "not finished" in str(each.message))
    line = warnings.formatwarning(warning.message, warning.category, warning.filename, warning.lineno)
    assert line == f"t3d: {unfinished}: this run is not finished; these are its weights so far\n"
    assert "other.py:3: UserWarning: x" in warnings.formatwarning("x", UserWarning, "other.py", 3)


def test_a_system_error_names_the_file(clips: Path, tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "file").touch()
    assert run("prepare", "index", clips, "--out", tmp_path / "file" / "i.parquet") == 2
    assert capsys.readouterr().err == f"t3d: {tmp_path}/file: File exists\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian", "t3d: no command 'trian'; did you mean 'train'?"),
        ("train --modle.name x", "t3d train: unknown option --modle.name; did you mean --model?"),
        ("train --optim.lrr 3", "unknown option --optim.lrr; did you mean --lr?"),
        ("train --learning-rate 3", "unknown option --learning-rate; did you mean --lr?"),
        ("train --videos d --out o --config absent.yaml", "t3d train: absent.yaml: no such file\n"),
        ("train --optim.zzz 3", "options of optim: --batch-size, --epochs, --lr"),
        ("train --optim.epoch 3", "did you mean --epochs?"),  # no silent abbreviations
        ("train --optim.lr fast", "--optim.lr is 'fast'; it must be a number"),
        ("train --lr fast", "--lr is 'fast'; it must be a number"),
        ("train --seed 1.5", "--seed is '1.5'; it must be a whole number"),
        ("train --optim.name adam", "--optim.name is 'adam'; did you mean 'adamw'? Known: adamw, sgd"),
        ("train --optim.lr -1 --out o --videos d", "--optim.lr is -1.0; it must be above 0"),
        ("train --lr -1 --out o --videos d", "--lr is -1.0; it must be above 0"),
        ("train --lr", "--lr needs a value: --lr X"),
        ("train --lr --out o", "--lr needs a value: --lr X"),
        ("predict m.xml a\udcff.mp4", "'a\\udcff.mp4' is not valid UTF-8; rename the file or folder"),
        ("train --overwrite true", "unexpected argument 'true'; --overwrite takes no value"),
        ("train --clip.mean 1 2", "--clip.mean is '[1, 2]'; it must be 3 numbers"),
        ("train --model.options 3", "it must be a YAML table, such as '{drop_rate: 0.2}'"),
        ("train --recipe papers", "no recipe 'papers'; did you mean 'paper'?"),
        ("train --recipe", "--recipe needs a value"),
        ("train --recipe paper --recipe modern", "pass --recipe only once"),
        ("train --config absent.yaml", "absent.yaml"),
        ("train --out o", "--videos is missing"),
        ("train --videos d", "--out is missing"),
        ("train --videos absent --out o", "absent: no such file or folder"),
        ("train --videos d --out o --model t3d_tini", "did you mean 't3d_tiny'?"),
        ("train --resume absent", "absent: no such folder"),
        ("train --resume absent --epochs 9", "absent: no such folder"),
        (
            "train --resume r --epochs 9 --lr 1 --model.name t3d121",
            "only --epochs and --early-stopping can change. Remove --lr --model.name",
        ),
        ("transfer --resume r --seed 1", "only --epochs can change. Remove --seed"),
        (
            "transfer --resume r --early-stopping 1",
            "unknown option --early-stopping; it belongs to t3d train",
        ),
        ("test w", "t3d test: missing: VIDEOS"),
        ("test --model w", "unknown option --model; give MODEL without a name"),
        ("test absent.safetensors d", "absent.safetensors: no such run folder or weights file"),
        ("test w d --frame-order reverse", "--frame-order is 'reverse'; did you mean 'reversed'?"),
        ("test w d --frames reversed", "unknown option --frames; it is now --frame-order"),
        ("train --clips 3", "unknown option --clips; it belongs to t3d test, t3d bench decode\n"),
        ("train --index i", "unknown option --index; did you mean --data.index?"),
        ("train --data.videos d", "unknown option --data.videos; it is now --root"),
        (
            "train --json",
            "it belongs to t3d fit, t3d prepare download, t3d prepare unpack and 23 more",
        ),
        *(
            (
                f"{command} --device cuda",
                "unknown option --device; it belongs to t3d fit, t3d teacher, t3d test, t3d compare, "
                "t3d probe, t3d features, t3d calibrate, t3d fuse, t3d predict, t3d explain, t3d timeline, "
                "t3d watch, t3d serve, "
                "t3d bench model, t3d bench train, t3d bench predict, t3d doctor; to train on one GPU, "
                "set its number before the command: CUDA_VISIBLE_DEVICES=0 t3d train\n",
            )
            for command in ("train", "transfer", "data check a", "prepare index a")
        ),
        ("train --clip.tail foo", "--clip.tail is 'foo'; known: drop, pad, shift"),
        ("transfer --model t3d121", "unknown option --model; did you mean --student?"),
        ("transfer --init w", "unknown option --init; did you mean --model.init?"),
        ("probe a b --videos d", "unknown option --videos; it is now --root"),
        ("data check a --videos d", "unknown option --videos; it is now --root"),
        ("reproduce table4 --videos.ucf101 d", "unknown option --videos.ucf101; it is now --root.ucf101"),
        ("test w d --lr 3", "unknown option --lr; it belongs to t3d train, t3d transfer, t3d teacher\n"),
        ("test w d --clips 0", "--clips is 0; it must be at least 1"),
        ("test w d --clips ten", "--clips is 'ten'; it must be a whole number"),
        ("test w d --crops 4", "--crops is"),
        ("test w d --clips 10 --tail drop", "--tail is drop and --clips is 10; --tail is about"),
        ("test w d --crop 3", "did you mean --crops?"),
        ("test w d --max-bad 2", "--max-bad is 2.0; it must be between 0 and 1"),
        ("test w d --max_bad 2", "--max_bad is 2.0; it must be between 0 and 1"),
        ("test w d --device cudda", "device 'cudda' cannot be used"),
        ("test w d --workers -1", "--workers is -1; it must be at least 0"),
        ("predict absent.safetensors v.mp4", "absent.safetensors: no such run folder or weights file"),
        ("predict w v.mp4 --top 0", "--top is 0; it must be at least 1"),
        ("predict w v.mp4 --batchsize 3", "did you mean --batch-size?"),
        ("predict w v.mp4 --crops 3", "unknown option --crops; it belongs to t3d test"),
        ("models t3d_tini", "no model matches 't3d_tini': did you mean 't3d_tiny'?"),
        ("models t3d_tiny --size 8", "at least 1 frames of 29 × 29 pixels"),
        ("convert w.pth w.safetensors", "t3d convert: missing: --model NAME"),
        ("convert absent.pth w.safetensors --model t3d_tiny --classes absent.txt", "absent.txt: the class"),
        ("convert w.pth w.safetensors --model t3d_tiny", "--classes is missing"),
        ("convert w.pth w.safetensors --model t3d_tiny --classes c --inflate mean", "remove --classes"),
        ("convert w.pth w.safetensors --model t3d_tiny --inflate centre", "did you mean 'center'?"),
        (
            "convert absent.pth w.safetensors --model t3d_tiny --inflate mean",
            "absent.pth: no such weights file",
        ),
        ("demo --seed -1", "--seed is -1; it must be at least 0"),
        ("demo extra", "unexpected argument 'extra'; every value needs the name of its option before it"),
        ("help", "t3d: no command 'help'; did you mean '--help'?"),
        ("train --help-al", "unknown option --help-al; did you mean --help-all?"),
        ("prepare index v --out i.parquet --ray-address x", "but --cluster is 'none'; set it to 'ray'"),
        ("prepare indx", "t3d prepare: no command 'indx'; did you mean 'index'?"),
        ("preprae index", "t3d: no command 'preprae'; did you mean 'prepare'?"),
        ("prepare index v", "t3d prepare index: missing: --out PATH"),
        ("prepare index v --out i.parquet --patience 3", "unknown option --patience; it is now --timeout"),
        ("prepare index v --out i.parquet --engine ray", "unknown option --engine; it is now --cluster"),
        ("data check list.csv --indx a", "t3d data check: unknown option --indx; did you mean --index?"),
        ("--verson", "no option '--verson'; did you mean '--version'?"),
    ],
)
def test_a_mistake_is_explained_in_a_few_lines(
    words: str, message: str, capsys: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words.split(" ")) == 2
    out, err = capsys.readouterr()
    assert err.startswith("t3d")
    assert message in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 2
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {lrr: 3}", "c.yaml: unknown option optim.lrr; did you mean optim.lr?"),
        ("optin: {lr: 3}", "c.yaml: unknown option optin.lr; did you mean optim.lr?"),
        ("model: {nam: t3d121}", "did you mean model.name?"),
        ("epochs: 3", "c.yaml: unknown option epochs; did you mean optim.epochs?"),
        ("optim: 3", "c.yaml: optim is 3; expected a table of its options"),
        ("optim: {lr: [1]}", "optim.lr is '[1]'; it must be a number"),
        ("optim: {schedule: cosin}", "optim.schedule is 'cosin'; did you mean 'cosine'?"),
        ("optim: [", "c.yaml: not YAML"),
        ("- seed", "c.yaml: expected a table of options"),
    ],
)
def test_a_mistake_in_a_file_too(text: str, message: str, capsys: Out, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert run("train", "--config", tmp_path / "c.yaml") == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_the_signal_of_an_interrupted_run_is_the_exit_status(
    capsys: Out, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class InterruptedRunError(T3DError):
        signal = 15
        folder = tmp_path / "run"
        command = "t3d train"

    def interrupted(*_: object, **__: object) -> None:
        raise InterruptedRunError("stopped by SIGTERM")

    monkeypatch.setattr("t3d.training.run.train", interrupted)
    assert run("train", "--videos", "d", "--out", "o") == 128 + 15
    err = capsys.readouterr().err
    assert err == f"t3d: stopped by SIGTERM\n  Resume it with: t3d train --resume {tmp_path / 'run'}\n"


def test_errors_of_the_operating_system_are_reported(tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "file").write_text("")
    assert run("demo", "--quick", "--out", tmp_path / "file" / "demo") == 2
    err = capsys.readouterr().err
    assert err.startswith("t3d: ")
    assert str(tmp_path / "file") in err


# --- configuration ---------------------------------------------------------------------------------------


def printed(capsys: Out, *words: object) -> dict[str, dict[str, object]]:
    capsys.readouterr()
    assert run("train", *words, "--print-config") == 0
    values: dict[str, dict[str, object]] = yaml.safe_load(capsys.readouterr().out)
    return values


def test_recipes_are_whole_and_give_way_to_options(capsys: Out) -> None:
    assert recipes("train") == ["modern", "paper"]
    assert recipes("transfer") == ["transfer-few-labels", "transfer-laptop", "transfer-paper"]
    paper = printed(capsys, "--recipe", "paper")
    assert (paper["optim"]["name"], paper["optim"]["lr"], paper["clip"]["num_frames"]) == ("sgd", 0.1, 32)
    modern = printed(capsys, "--optim.lr", 0.5, "--recipe=modern", "--optim.ema_decay", "0")
    assert (modern["optim"]["name"], modern["optim"]["lr"], modern["optim"]["ema_decay"]) == (
        "adamw",
        0.5,
        0.0,
    )
    assert modern["optim"]["schedule"] == "cosine"


def test_a_file_gives_way_to_options_and_a_recipe_to_a_file(capsys: Out, options: Path) -> None:
    values = printed(capsys, "--recipe", "modern", "--config", options, "--optim.batch_size", 6)
    optim = values["optim"]
    assert (optim["batch_size"], optim["lr"], optim["label_smoothing"]) == (6, 0.1, 0.1)
    assert values["model"]["options"] == SMALL


def test_init_includes_its_network_and_clip(capsys: Out, tmp_path: Path, options: Path) -> None:
    clip = ClipSpec(num_frames=12, stride=3, size=40, resize=48, mean=(0.5, 0.4, 0.3), modality="diff")
    card = ModelCard("densenet3d_tiny", options=SMALL, clip=clip)
    file = tmp_path / "student.safetensors"
    save_model(create_model("densenet3d_tiny", num_classes=0, options=SMALL), file, card=card)
    for words in (["--init", file], [f"--init={file}", "--recipe", "paper"]):
        values = printed(capsys, *words)
        assert (values["model"]["name"], values["model"]["options"]) == ("densenet3d_tiny", SMALL)
        assert values["model"]["init"] == str(file)
        kept = {**values["clip"], "mean": tuple(values["clip"]["mean"]), "std": tuple(values["clip"]["std"])}
        assert ClipSpec(**kept) == clip
    values = printed(
        capsys, "--clip.stride", 1, "--recipe", "modern", "--init", file, "--model.name", "t3d_tiny"
    )
    assert (values["model"]["name"], values["clip"]["stride"], values["clip"]["num_frames"]) == (
        "t3d_tiny",
        1,
        12,
    )
    assert values["optim"]["name"] == "adamw"
    values = printed(capsys, "--init", file, "--config", options)
    assert (values["clip"]["num_frames"], values["clip"]["modality"]) == (8, "diff")


def test_a_later_source_of_the_rate_replaces_an_earlier_stride_and_back(capsys: Out, tmp_path: Path) -> None:
    def distance(*words: object) -> tuple[object, object]:
        clip = printed(capsys, *words)["clip"]
        return clip["stride"], clip["fps"]

    rate, stride, both = (tmp_path / f"{name}.yaml" for name in ("rate", "stride", "both"))
    rate.write_text("clip: {fps: 8}")
    stride.write_text("clip: {stride: 3}")
    both.write_text("clip: {stride: 2, fps: 8}")
    file = tmp_path / "net.safetensors"
    card = ModelCard("densenet3d_tiny", options=SMALL, clip=ClipSpec(num_frames=8, fps=10.0))
    save_model(create_model("densenet3d_tiny", num_classes=0, options=SMALL), file, card=card)

    assert distance() == (2, None)
    assert distance("--clip.fps", 12.5) == (None, 12.5)
    assert distance("--recipe", "paper", "--clip.fps", 12.5) == (None, 12.5)
    assert distance("--recipe", "paper", "--config", rate) == (None, 8.0)
    assert distance("--config", rate, "--clip.stride", 4) == (4, None)
    assert distance("--init", file) == (None, 10.0)
    assert distance("--init", file, "--config", stride) == (3, None)
    for words in (["--clip.stride", 2, "--clip.fps", 8], ["--config", both]):
        assert run("train", "--videos", "clips", "--out", tmp_path / "run", *words) == 2
        assert "--clip.stride is 2 and --clip.fps is 8" in capsys.readouterr().err


def test_init_from_a_file_without_card_or_from_a_missing_file(capsys: Out, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    values = printed(capsys, "--init", tmp_path / "foreign.safetensors")
    assert (values["model"]["name"], values["clip"]["num_frames"]) == ("t3d121", 32)
    assert run("train", "--init", tmp_path / "absent.safetensors") == 2
    assert "absent.safetensors: no such run folder or weights file" in capsys.readouterr().err


def test_init_with_another_model_is_refused_by_both_names(
    trained: RunFolder, clips: Path, tmp_path: Path, capsys: Out
) -> None:
    words = ["--init", trained.last, "--model", "t3d_tiny", "--videos", clips, "--out", tmp_path / "run"]
    assert run("train", *words) == 2
    err = capsys.readouterr().err
    assert f"--init: {trained.last} has the weights of densenet3d_tiny" in err
    assert "but --model is t3d_tiny" in err
    assert "; set --model to densenet3d_tiny, or choose other weights" in err
    assert not (tmp_path / "run").exists()


def test_printed_options_and_those_of_a_run_can_be_read_again(
    capsys: Out, tmp_path: Path, trained: RunFolder
) -> None:
    values = printed(capsys, "--config", trained.config)
    assert values["optim"]["epochs"] == 3
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(values))
    assert printed(capsys, "--config", tmp_path / "again.yaml") == values


# --- train, test, predict --------------------------------------------------------------------------------


def test_options_of_the_line_win(trained: RunFolder, clips: Path) -> None:
    config = trained.read_config(TrainConfig)
    assert (config.optim.epochs, config.optim.lr, config.clip.size) == (3, 0.1, 32)
    assert config.data.train == str(clips)
    assert TrainConfig(out="o", data=config.data) != config


def test_a_run_has_a_page(trained: RunFolder) -> None:
    page = (trained.path / "report.html").read_text(encoding="utf-8")
    assert "Best validation, after epoch" in page
    assert "Confusion matrix" in page


def test_a_run_without_its_page_is_complete(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"complete, but its report\.html was not written: .*no conf"):
        training._write_page(tmp_path, "train")


def test_a_folder_is_only_overwritten_on_request(trained: RunFolder, clips: Path, capsys: Out) -> None:
    before = trained.last.read_bytes()
    assert run("train", "--data.train", clips, "--out", trained.path) == 2
    err = capsys.readouterr().err
    assert "already contains a run of t3d train; resume it, choose another --out, or set --overwrite" in err
    assert err.endswith(f"  Resume it with: t3d train --resume {trained.path}\n")
    assert trained.last.read_bytes() == before


def test_a_moved_run_resumes_in_its_new_folder(
    trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = RunFolder(tmp_path / "moved")
    shutil.copytree(trained.path, moved.path)
    text = moved.config.read_text()
    moved.config.write_text(text.replace("epochs: 3", "epochs: 4"))
    before = trained.last.read_bytes()
    monkeypatch.chdir(tmp_path)
    assert run("train", "--resume", "moved") == 0
    assert moved.last.read_bytes() != before
    assert trained.last.read_bytes() == before


def test_a_finished_run_is_trained_longer(trained: RunFolder, tmp_path: Path, capsys: Out) -> None:
    longer = RunFolder(tmp_path / "longer")
    shutil.copytree(trained.path, longer.path)
    assert run("train", "--resume", longer.path, "--epochs", 4) == 0
    assert "optim.epochs is now 4 (before: 3)" in capsys.readouterr().out
    assert longer.read_config(TrainConfig).optim.epochs == 4
    assert load_model(longer.last)[1].provenance["epochs"] == 4
    before = longer.config.read_bytes()
    assert run("train", "--resume", longer.path, "--epochs", 2) == 2
    assert "--epochs is 2, but the run in" in capsys.readouterr().err
    assert run("train", "--resume", longer.path, "--early-stopping", -1) == 2
    assert "--early-stopping is -1; it must be at least 0" in capsys.readouterr().err
    assert longer.config.read_bytes() == before


def test_a_finished_run_is_not_trained_again(trained: RunFolder, tmp_path: Path, capsys: Out) -> None:
    finished = RunFolder(tmp_path / "finished")
    shutil.copytree(trained.path, finished.path)
    log = finished.log.read_bytes()
    assert run("train", "--resume", finished.path) == 0
    message = f"{finished.path}: the run has already finished (3 epochs); train longer with --epochs N\n"
    assert capsys.readouterr().out == message
    assert finished.log.read_bytes() == log
    finished.last.unlink()  # interrupted before its weights were written
    assert run("train", "--resume", finished.path) == 0
    assert "done in" in capsys.readouterr().out
    assert finished.last.exists()


def test_a_folder_without_class_folders_is_explained_per_command(
    clips: Path, tmp_path: Path, capsys: Out
) -> None:
    flat = clips / "red"
    assert run("train", "--videos", flat, "--out", tmp_path / "run") == 2
    err = capsys.readouterr().err
    assert "4 videos are directly in this folder (first 'red 0.mp4'), and it has no class folders" in err
    assert err.endswith("To train on videos without labels, use t3d transfer\n")
    assert run("data", "split", flat, "--out", tmp_path) == 2
    assert capsys.readouterr().err.endswith(", or add --unlabeled to use the videos without labels\n")


def test_short_help_shows_what_happens_by_default(capsys: Out) -> None:
    assert run("train", "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--val PATH Labeled videos to validate on. Default: a tenth of the training videos" in shown
    assert "official list of UCF101, HMDB51 or Kinetics" in shown


def test_equal_class_counts_are_one_number(clips: Path, capsys: Out) -> None:
    assert run("data", "check", clips) == 0
    assert capsys.readouterr().out.endswith("2 classes, 8 groups\n  4 videos in each class\n")


def test_videos_to_test_on_need_labels(trained: RunFolder, clips: Path, tmp_path: Path, capsys: Out) -> None:
    table = tmp_path / "nolabel.csv"
    table.write_text(f"path\n{clips / 'red' / 'red 0.mp4'}\n")
    for words in (["test", trained.last, table], ["probe", clips, table, "--model", trained.last]):
        assert run(*words) == 2
        assert f"{table} has no labels; add a column label" in capsys.readouterr().err


def test_a_run_with_old_option_names_is_refused_in_the_words_of_its_file(
    trained: RunFolder, tmp_path: Path, capsys: Out
) -> None:
    folder = tmp_path / "old"
    shutil.copytree(trained.path, folder)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("  root:", "  videos:"))
    assert run("train", "--resume", folder) == 2
    err = capsys.readouterr().err
    assert f"{config} uses option names of an earlier version: data.videos is now data.root" in err


@pytest.mark.parametrize("command", ["test w d", "probe w d --model w"])
def test_an_out_that_cannot_be_written_is_refused_before_the_work(
    command: str, tmp_path: Path, capsys: Out
) -> None:
    (tmp_path / "file").touch()
    assert run(*command.split(), "--out", tmp_path / "file" / "below") == 2
    assert f"out: the folder {tmp_path}/file/below cannot be created" in capsys.readouterr().err


def test_weights_of_an_unfinished_run_are_refused_or_used_with_a_warning(
    trained: RunFolder, clips: Path, tmp_path: Path, capsys: Out
) -> None:
    folder = tmp_path / "unfinished"
    shutil.copytree(trained.path, folder)
    for file in (folder / "best.safetensors", folder / "last.safetensors"):
        file.unlink(missing_ok=True)
    video = clips / "red" / "red 0.mp4"
    assert run("predict", folder, video, "--workers", 0) == 2
    assert "resume it to its end" in (err := capsys.readouterr().err)
    assert "--allow-unfinished" in err
    with pytest.warns(UserWarning, match="this run is not finished; these are its weights so far"):
        assert run("predict", folder, video, "--workers", 0, "--allow-unfinished") == 0
    assert capsys.readouterr().out.startswith(str(video))


def test_test_and_predict_agree(trained: RunFolder, clips: Path, tmp_path: Path, capsys: Out) -> None:
    both = ["--workers", 0, "--precision", "fp32"]
    out = tmp_path / "test"
    assert run("test", trained.last, clips, "--out", out, "--json", *both, "--batch_size", 3) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics == json.loads((out / "metrics.json").read_text())
    assert (metrics["videos"], metrics["bad"]) == (8, 0)
    assert (out / "confusion.png").stat().st_size > 1000

    words = ["--json", "--top", 2, *both, "--batch_size", 5]
    assert run("predict", trained.last, clips / "blue", clips / "red", *words) == 0
    predictions = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    with (out / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [line["path"] for line in predictions] == [row["path"] for row in rows]
    right = 0
    for line, row in zip(predictions, rows, strict=True):
        assert line["clips"] == int(row["clips"]) == 2
        assert line["classes"] == pytest.approx(
            {name: float(row[name]) for name in ("blue", "red")},
            abs=1e-6 + 5e-7,  # other batches, and six digits in the table
        )
        assert next(iter(line["classes"])) == row["prediction"]
        right += row["prediction"] == row["label"]
    assert metrics["video_top1"] == right / 8
    given = np.array([line["classes"][row["label"]] for line, row in zip(predictions, rows, strict=True)])
    assert metrics["loss"] == pytest.approx(-np.log(given).mean(), abs=1e-6 / given.min())  # other batches


def test_test_prints_a_table(trained: RunFolder, clips: Path, capsys: Out) -> None:
    assert run("test", trained.last, clips, "--workers", 0, "--frame-order", "static") == 0
    out = capsys.readouterr().out
    assert "8 videos" in out
    assert "of 8 videos correct" in out
    assert all(name in out for name in ("red", "blue"))


def test_an_unknown_class_is_reported_with_the_nearest_name(
    trained: RunFolder, clips: Path, tmp_path: Path, capsys: Out
) -> None:
    (tmp_path / "t.csv").write_text(f"path,label\n{clips / 'red' / 'red 0.mp4'},Reds\n")
    assert run("test", trained.last, tmp_path / "t.csv") == 2
    assert (
        "the class 'Reds' is not a class of the model (blue, red); did you mean 'red'? Rename"
        in capsys.readouterr().err
    )


@pytest.fixture(scope="module")
def reliable(clips: Path, options: Path) -> RunFolder:
    """A run that tells red from blue: after 3 epochs, it depends on the noise that x264 adds."""
    out = clips.parent / "reliable"
    words = ["--config", options, "--data.train", clips, "--data.val", clips, "--data.workers", 0]
    assert run("train", *words, "--out", out, "--optim.epochs", 6) == 0
    return RunFolder(out)


def test_predictions_have_the_paths_that_were_given(
    trained: RunFolder, clips: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clips)
    words = ["red/red 0.mp4", "./blue", "../absent.mp4", str(clips / "red")]
    assert run("predict", trained.last, *words, "--workers", 0) == 1
    out, err = capsys.readouterr()
    paths = [line.split("\t")[0] for line in out.splitlines()]
    blue = [f"./blue/blue {number}.mp4" for number in range(4)]
    red = [f"{clips}/red/red {number}.mp4" for number in range(1, 4)]
    assert paths == ["red/red 0.mp4", *blue, "red/red 0.mp4", *red]
    assert "t3d: ../absent.mp4: " in err
    assert run("predict", trained.last, "red/red 0.mp4", "--workers", 0, "--json") == 0
    assert json.loads(capsys.readouterr().out)["path"] == "red/red 0.mp4"


def test_a_bad_file_among_good_ones(reliable: RunFolder, clips: Path, tmp_path: Path, capsys: Out) -> None:
    trained = reliable
    (tmp_path / "empty.mp4").write_bytes(b"")
    files = [clips / "red" / "red 0.mp4", tmp_path / "empty.mp4", tmp_path / "absent.mp4"]
    files.append(clips / "blue" / "blue 0.mp4")
    assert run("predict", trained.last, *files, "--workers", 1) == 1
    out, err = capsys.readouterr()
    lines = [line.split("\t") for line in out.splitlines()]
    assert [line[0] for line in lines] == [str(files[0]), str(files[3])]
    assert [line[1].split()[0] for line in lines] == ["red", "blue"]
    assert f"t3d: {files[1]}: " in err
    assert f"t3d: {files[2]}: " in err
    assert "2 of 4 videos could not be read" in err

    assert run("predict", trained.last, *files, "--workers", 0, "--json") == 1
    predictions = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [sorted(line) for line in predictions] == [
        ["classes", "clips", "path"],
        ["error", "path"],
        ["error", "path"],
        ["classes", "clips", "path"],
    ]

    (tmp_path / "t.csv").write_text("path,label\n" + "".join(f"{file},red\n" for file in files))
    assert run("test", trained.last, tmp_path / "t.csv", "--workers", 0) == 2
    assert (
        "2 of 4 videos (50.0%) cannot be read, more than --max-bad = 0.01 (1 %) allows"
        in capsys.readouterr().err
    )
    assert run("test", trained.last, tmp_path / "t.csv", "--workers", 0, "--max_bad", 0.5) == 1
    out, err = capsys.readouterr()
    assert "2 videos" in out
    assert f"could not be read: {files[1]}" in err


def test_a_closed_pipe_is_not_an_error(trained: RunFolder, clips: Path) -> None:
    code = (
        "import sys, t3d.progress; from t3d.cli.main import main; "
        "t3d.progress._clock = lambda: 0.0; sys.exit(main())"  # a busy machine prints no progress either
    )
    words = ["predict", trained.last, clips, "--workers", 0]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=300) == 141


# --- models, convert -------------------------------------------------------------------------------------


def test_models_lists_every_net_with_its_size(capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert run("models") == 0
    out = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line.split("│")[2:4] for line in out.splitlines() if "│" in line}
    assert list(rows) == list_models()
    assert [cell.strip() for cell in rows["t3d121"]] == ["29.88", "244.1"]
    assert [cell.strip() for cell in rows["densenet3d121"]] == ["11.66", "62.5"]
    assert "32 frames of 224 × 224, 400 classes" in out

    assert run("models", "*_tiny", "--json", "--num-frames", 16, "--size", 64, "--num-classes", 7) == 0
    sizes = json.loads(capsys.readouterr().out)
    assert list(sizes) == ["densenet3d_tiny", "t3d_tiny"]
    for name, size in sizes.items():
        net = create_model(name, num_classes=7)
        assert size["parameters"] == sum(p.numel() for p in net.parameters())
        assert 0 < size["macs"] < 2e9


def test_a_foreign_file_becomes_one_of_ours(tmp_path: Path, clips: Path, capsys: Out) -> None:
    torch.manual_seed(3)
    net = create_model("densenet3d_tiny", num_classes=2, options=SMALL).eval()
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, tmp_path / "foreign.pth")
    (tmp_path / "classes.txt").write_text("rot\nblau\n")
    words = ["convert", tmp_path / "foreign.pth", tmp_path / "ours.safetensors", "--model", "densenet3d_tiny"]
    words += ["--options", json.dumps(SMALL), "--classes", tmp_path / "classes.txt"]
    clip = ["--clip.num_frames", 8, "--clip.size", 32, "--clip.resize", 40]
    assert run(*words, *clip) == 0
    ours, card = load_model(tmp_path / "ours.safetensors")
    assert card.classes == ("rot", "blau")
    assert (card.clip.num_frames, card.clip.size, card.clip.resize, card.clip.stride) == (8, 32, 40, 2)
    x = torch.randn(1, 3, 8, 32, 32)
    assert torch.equal(ours(x), net(x))
    capsys.readouterr()
    assert run("predict", tmp_path / "ours.safetensors", clips / "red" / "red 1.mp4", "--workers", 0) == 0
    assert "blau" in capsys.readouterr().out

    (tmp_path / "classes.txt").write_text("rot\nblau\ngelb\n")
    assert run(*words[:2], tmp_path / "other.safetensors", *words[3:]) == 2
    assert "classifier" in capsys.readouterr().err
    assert not (tmp_path / "other.safetensors").exists()


def test_a_2d_nets_file_becomes_a_start_for_training(tmp_path: Path, capsys: Out) -> None:
    twin = torchvision.models.resnet18().eval()
    torch.save(twin.state_dict(), tmp_path / "resnet18.pth")
    target = tmp_path / "start.safetensors"
    words = ["convert", tmp_path / "resnet18.pth", target, "--model", "resnet3d18", "--inflate", "center"]
    assert run(*words, "--clip.num_frames", 4, "--clip.size", 16, "--clip.resize", 18) == 0
    message = "120 of 120 backbone tensors loaded; left out on purpose: fc.weight, fc.bias"
    assert message in capsys.readouterr().out
    net, card = load_model(target)
    assert (card.classes, card.provenance["inflated"]) == ((), "center")
    frame = torch.rand(2, 3, 1, 16, 16)
    twin.fc = torch.nn.Identity()
    with torch.no_grad():
        still = net.forward_features(frame.expand(-1, -1, 4, -1, -1)).mean((2, 3, 4))
        torch.testing.assert_close(still, twin(frame[:, :, 0]), rtol=1e-4, atol=1e-5)
    values = printed(capsys, "--init", target)
    assert values["model"]["name"] == "resnet3d18"
    assert (values["clip"]["num_frames"], values["clip"]["resize"]) == (4, 18)


@pytest.mark.parametrize("command", ["test", "probe"])
def test_a_stopped_test_reports_that_decoded_frames_are_kept(
    command: str,
    trained: RunFolder,
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Out,
) -> None:
    def stopped(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(FrameStore, "prepare", stopped)
    cache = ["--cache", tmp_path / "cache", "--workers", 0]
    words = (
        ["test", trained.path, clips]
        if command == "test"
        else ["probe", clips, clips, "--model", trained.path]
    )
    assert run(*words, *cache) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == (
        f"t3d: SIGTERM stopped the {command}; the decoded frames in {tmp_path / 'cache'} are kept and "
        "reused. Run the same command again to continue\n"
    )


@pytest.mark.parametrize("closed", ["2>&-", "1>&-", "0>&- 1>&- 2>&-"])
def test_closed_standard_streams_are_replaced(closed: str) -> None:
    code = (
        "import os, sys; from t3d.cli.main import run_process; sys.argv = ['t3d', 'trian']; "
        "status = run_process(); print('x', file=sys.stdout); print('x', file=sys.stderr); "
        "file = os.open(os.devnull, os.O_RDONLY); os._exit(100 + status if file > 2 else 1)"
    )
    done = subprocess.run(
        ["sh", "-c", f'exec "{sys.executable}" -c "{code}" {closed}'], capture_output=True, check=False
    )
    assert done.returncode == 102
