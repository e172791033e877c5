"""The command line: what `t3d COMMAND --help` shows, and what it calls. The only place that knows it.

Nothing heavy is imported before a command runs, so that help comes at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from t3d.cli.data import (
    fill_browse,
    fill_check,
    fill_index,
    fill_shards,
    fill_transcode,
    run_browse,
    run_check,
    run_index,
    run_shards,
    run_transcode,
)
from t3d.cli.download import fill_download, run_download
from t3d.cli.models import fill_convert, fill_models, run_convert, run_models
from t3d.cli.parser import (
    COMPUTING,
    Parser,
    add_computing,
    compute_of,
    fill_run,
    in_full,
    reading_of,
    refuse_options_beside_resume,
    run_config,
    with_init,
    with_recipe,
)
from t3d.cli.predict import fill_predict, run_predict
from t3d.cli.reproduce import fill_reproduce, run_reproduce
from t3d.errors import T3DError
from t3d.training.config import TrainConfig
from t3d.transfer.config import TransferConfig

if TYPE_CHECKING:
    from t3d.evaluation.run_test import TestResult

# A command: fills its parser, and runs on what was parsed, giving the exit status.
_Fill = Callable[[ArgumentParser], None]
_Run = Callable[[Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The words behind `t3d`; None takes them from the shell.

    Returns:
        The exit status: 0 all is well; 1 a part of the input could not be used; 2 nothing was done, and the
        message says why; 128 + n stopped by signal n, with the state saved.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser, parsers = _build()
    try:
        refuse_options_beside_resume(words)
        chosen = parser.parse_args(with_recipe(with_init(in_full(words))))
        name = chosen.command
        if name is None:
            parser.print_help()
            return 2
        options = chosen[name]
        if name in _GROUPS:
            name, options = f"{name} {options.command}", options[options.command]
        return _COMMANDS[name][2](parsers[name].instantiate(options))
    except T3DError as error:
        print(f"t3d: {error}", file=sys.stderr)
        folder, command = getattr(error, "folder", None), getattr(error, "command", None)
        if folder and command:
            print(f"  Resume it with: {command} --resume {folder}", file=sys.stderr)
        number = getattr(error, "signal", None)  # InterruptedRunError, told apart without importing torch
        return 2 if number is None else 128 + int(number)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `t3d … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        return 141
    except OSError as error:  # a full disk, a folder that may not be written to
        print(f"t3d: {error}", file=sys.stderr)
        return 2


def _build() -> tuple[Parser, dict[str, Parser]]:
    parser = Parser(
        prog="t3d",
        description="Video classification with Temporal 3D ConvNets.",
        allow_abbrev=False,
        version=metadata.version("t3d"),
    )
    subs = parser.add_subcommands(required=False, dest="command", metavar="COMMAND")
    parsers: dict[str, Parser] = {}
    groups: dict[str, Any] = {"": subs}
    for name, (text, fill, _) in _COMMANDS.items():
        parsers[name] = Parser(prog=f"t3d {name}", description=text, allow_abbrev=False)
        fill(parsers[name])
        group, _, leaf = name.rpartition(" ")
        if group not in groups:
            over = parsers[group] = Parser(
                prog=f"t3d {group}", description=_GROUPS[group], allow_abbrev=False
            )
            subs.add_subcommand(group, over, help=_GROUPS[group])
            groups[group] = over.add_subcommands(required=True, dest="command", metavar="COMMAND")
        groups[group].add_subcommand(leaf, parsers[name], help=text)
        if group:
            parsers[group].commands = {**parsers[group].commands, leaf: parsers[name]}
    parser.commands = {name: sub for name, sub in parsers.items() if " " not in name}
    return parser, parsers


# --- train -----------------------------------------------------------------------------------------------


def _fill_train(sub: ArgumentParser) -> None:
    fill_run(sub, TrainConfig)


def _train(chosen: Namespace) -> int:
    config, resume = run_config(chosen, TrainConfig)
    from t3d.training.run import train

    train(config, resume=resume)
    return 0


# --- transfer --------------------------------------------------------------------------------------------


def _fill_transfer(sub: ArgumentParser) -> None:
    fill_run(sub, TransferConfig)


def _transfer(chosen: Namespace) -> int:
    config, resume = run_config(chosen, TransferConfig)
    from t3d.transfer.run import transfer

    transfer(config, resume=resume)
    return 0


# --- teacher ---------------------------------------------------------------------------------------------


def _fill_teacher(sub: ArgumentParser) -> None:
    sub.add_argument("images", help="a folder of images per class; or labelled videos, to take frames of")
    sub.add_argument("--out", required=True, help="the .safetensors file to write; --teacher FILE opens it")
    sub.add_argument("--name", default="resnet10t", help="a timm network")
    sub.add_argument("--size", type=PositiveInt, default=64, help="side of the square it sees")
    sub.add_argument("--epochs", type=PositiveInt, default=20, help="passes over the images")
    sub.add_argument("--batch_size", type=PositiveInt, default=32, help="images in a step")
    sub.add_argument("--frames", type=PositiveInt, default=1, help="frames of each video and epoch")
    sub.add_argument("--lr", type=float, default=2e-3, help="peak learning rate of AdamW")
    sub.add_argument("--min_area", type=float, default=0.5, help="smallest share of the image in a crop")
    sub.add_argument("--flip", type=float, default=0.5, help="probability of a horizontal flip")
    sub.add_argument("--val_fraction", type=float, default=0.1, help="share held out to say how good it is")
    sub.add_argument("--seed", type=NonNegativeInt, default=0, help="every random draw follows from it")
    sub.add_argument("--root", help="folder that the files of a list lie in")
    sub.add_argument("--cache", help="folder for decoded frames of videos")
    sub.add_argument("--workers", type=NonNegativeInt, default=2, help="processes that read")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda, …")
    sub.add_argument("--overwrite", action="store_true", help="replace --out if it exists")


def _teacher(chosen: Namespace) -> int:
    from t3d.transfer.teachers.config import TeacherTraining
    from t3d.transfer.teachers.train import train_teacher

    path, accuracy = train_teacher(TeacherTraining(**vars(chosen)))
    print(f"{path}: held-out top-1 {accuracy:.1%}")
    return 0


# --- test ------------------------------------------------------------------------------------------------


def _fill_test(sub: ArgumentParser) -> None:
    sub.add_argument("model", help="weights file, or the folder of a finished training run")
    sub.add_argument("videos", help="folder with one folder per class, .csv, .jsonl, or official list")
    sub.add_argument("--root", help="folder that the files of a list or table lie in")
    sub.add_argument("--allow_unfinished", action="store_true", help="use the best weights so far of a run")
    sub.add_argument("--out", help="folder for metrics.json, scores.csv and confusion.png")
    sub.add_argument(
        "--frame_order",
        type=Literal["normal", "shuffled", "reversed", "static"],
        default="normal",
        help="order of the frames in each clip; the others show how much of the accuracy needs time",
    )
    sub.add_argument("--tail", type=Literal["drop", "pad", "shift"], help="instead of the weights' clip.tail")
    sub.add_argument("--clips", type=PositiveInt, help="clips spread over each video, however they overlap")
    sub.add_argument("--crops", type=PositiveInt, default=1, help="1, 3, 5 or 10 crops of each clip")
    sub.add_argument("--index", help="what t3d prepare index wrote about the files")
    sub.add_argument("--cache", help="folder for decoded frames")
    sub.add_argument("--max_bad", type=float, default=0.01, help="largest share of unreadable videos")
    sub.add_argument("--seed", type=NonNegativeInt, default=0, help="of shuffled frames")
    sub.add_argument("--json", action="store_true", help="print metrics as JSON")
    add_computing(sub)


def _test(chosen: Namespace) -> int:
    from t3d.data.clips.views import Views
    from t3d.evaluation.config import TestConfig
    from t3d.evaluation.run_test import run_test

    config = TestConfig(
        chosen.model,
        chosen.videos,
        views=Views(chosen.clips, chosen.crops),
        reading=reading_of(chosen),
        compute=compute_of(chosen),
        **{name: chosen[name] for name in ("frame_order", "tail", "seed", "allow_unfinished")},
    )
    return _tell(run_test(config), chosen)


def _tell(result: TestResult, chosen: Namespace) -> int:
    """Write and print what a test found."""
    from t3d.report.result import print_result, write_result

    if chosen.out:
        write_result(result, chosen.out)
    if chosen.json:
        print(json.dumps(result.to_json(), ensure_ascii=False))
    else:
        print_result(result)
    return 1 if result.scores.bad else 0


# --- probe -----------------------------------------------------------------------------------------------


def _fill_probe(sub: ArgumentParser) -> None:
    sub.add_argument("train", help="labelled videos: folder with one folder per class, .csv, .jsonl, list")
    sub.add_argument("test", help="the same, to test on")
    sub.add_argument(
        "--model", help="weights file or run folder of a 3D model, such as a transferred student"
    )
    sub.add_argument("--allow_unfinished", action="store_true", help="use the best weights so far of a run")
    sub.add_argument("--teacher", help="instead of it a 2D net: timm or torchvision name, or .onnx file")
    sub.add_argument("--teacher_weights", help=".safetensors file for the teacher")
    sub.add_argument("--teacher_size", type=PositiveInt, help="side of the square the teacher sees")
    sub.add_argument("--num_frames", type=PositiveInt, default=16, help="frames of a clip, for a teacher")
    sub.add_argument("--stride", type=PositiveInt, default=4, help="distance between them, for a teacher")
    sub.add_argument(
        "--tail", type=Literal["drop", "pad", "shift"], default="shift", help="last frames, for a teacher"
    )
    sub.add_argument("--root", help="folder that the files of lists or tables lie in")
    sub.add_argument("--source_pattern", help="names the source of each training video, see t3d train")
    sub.add_argument("--label_fraction", type=float, default=1.0, help="share of the training labels used")
    sub.add_argument("--label_seed", type=NonNegativeInt, default=0, help="of that draw")
    sub.add_argument("--out", help="folder for metrics.json, scores.csv and confusion.png")
    sub.add_argument("--index", help="what t3d prepare index wrote about the files")
    sub.add_argument("--cache", help="folder for decoded frames")
    sub.add_argument("--max_bad", type=float, default=0.01, help="largest share of unreadable videos")
    sub.add_argument("--json", action="store_true", help="print metrics as JSON")
    add_computing(sub)


def _probe(chosen: Namespace) -> int:
    from t3d.transfer.probe import run_probe
    from t3d.transfer.probe_config import ProbeConfig

    shared = ("root", "index", "cache", "max_bad", *COMPUTING, "out", "json")
    config = ProbeConfig(
        **{name: value for name, value in vars(chosen).items() if name not in shared},
        reading=reading_of(chosen),
        compute=compute_of(chosen),
    )
    return _tell(run_probe(config), chosen)


# --- demo, doctor ----------------------------------------------------------------------------------------


def _fill_demo(sub: ArgumentParser) -> None:
    sub.add_argument("--out", default="demo", help="folder for everything that is made")
    sub.add_argument("--seed", type=NonNegativeInt, default=0, help="of the training")
    sub.add_argument("--quick", action="store_true", help="a version of a minute, to see that all parts work")


def _demo(chosen: Namespace) -> int:
    from t3d.demo import run_demo

    print(f"report: {run_demo(chosen.out, seed=int(chosen.seed), quick=chosen.quick)}")
    return 0


def _fill_doctor(sub: ArgumentParser) -> None:
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda, …")


def _doctor(chosen: Namespace) -> int:
    from t3d.doctor import examine

    return 0 if examine(chosen.device) else 1


_GROUPS = {
    "prepare": "Prepare a data set once, before anybody learns from it.",
    "data": "Look at a data set.",
}
_COMMANDS: dict[str, tuple[str, _Fill, _Run]] = {
    "prepare download": (
        "Download a published data set, or a file, and unpack it.",
        fill_download,
        run_download,
    ),
    "prepare index": ("Decode every video once; training then opens them at once.", fill_index, run_index),
    "prepare transcode": (
        "Write every video again, small and cheap to read at random places.",
        fill_transcode,
        run_transcode,
    ),
    "prepare shards": (
        "Put many videos into few large files that are read from start to end.",
        fill_shards,
        run_shards,
    ),
    "data check": ("Count what lists hold, and find what they share.", fill_check, run_check),
    "data browse": ("Write a page that shows some videos of each class.", fill_browse, run_browse),
    "train": ("Train a net on labelled videos.", _fill_train, _train),
    "transfer": ("Teach a net by a frozen 2D net, from unlabelled videos.", _fill_transfer, _transfer),
    "teacher": ("Train a small 2D net on still images, to teach from.", _fill_teacher, _teacher),
    "test": ("Test a trained net on labelled videos, by the paper's protocol.", _fill_test, _test),
    "probe": ("Test a linear classifier on frozen features, of a 2D or a 3D net.", _fill_probe, _probe),
    "predict": ("Say what videos show.", fill_predict, run_predict),
    "models": ("List the nets, with parameters and multiply-adds.", fill_models, run_models),
    "convert": ("Turn a foreign .pth file into a weights file of ours.", fill_convert, run_convert),
    "reproduce": ("Run one of the paper's tables, row by row.", fill_reproduce, run_reproduce),
    "demo": ("Draw videos, train, test, predict, and write a report.", _fill_demo, _demo),
    "doctor": ("Check that decoding, torch and the device work here.", _fill_doctor, _doctor),
}
