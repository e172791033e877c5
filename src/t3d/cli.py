"""The command line: what `t3d COMMAND --help` shows, and what it calls. The only place that knows it.

Nothing heavy is imported before a command runs, so that help comes at once.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata, resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from t3d.data.sampling import ClipSpec
from t3d.errors import ConfigError, T3DError, did_you_mean
from t3d.train.config import RunConfig, TrainConfig
from t3d.transfer.config import TransferConfig

if TYPE_CHECKING:
    from t3d.testing import Outcome

# A command: fills its parser, and runs on what was parsed, giving the exit status.
_Fill = Callable[[ArgumentParser], None]
_Run = Callable[[Namespace], int]
Config = TypeVar("Config", bound=RunConfig)

# What is asked most, under the name one thinks of first.
_SHORT = {
    "train": {"--init": "--model.init", "--label_fraction": "--data.label_fraction"},
    "transfer": {
        "--videos": "--data.videos",
        "--teacher": "--teacher.name",
        "--student": "--model.name",
        "--student_input": "--clip.modality",
        "--objective": "--pairs.objective",
    },
}


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
        _refuse_options_beside_resume(words)
        chosen = parser.parse_args(_with_recipe(_in_full(words)))
        name = chosen.command
        if name is None:
            parser.print_help()
            return 2
        return _COMMANDS[name][2](parsers[name].instantiate(chosen[name]))
    except T3DError as error:
        print(f"t3d: {error}", file=sys.stderr)
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


class _Parser(ArgumentParser):
    """An argument parser whose complaint about an unknown name says the nearest known one."""

    commands: Mapping[str, _Parser] = MappingProxyType({})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: ARG002 (its signature)
        text = re.sub(r"\s*\n\s*", "\n  ", message.strip())
        text = re.sub(r"<class '(\w+)'>", lambda kind: _SPOKEN.get(kind[1], kind[1]), text)
        prog = self.prog.replace(" [options]", "")
        if command := re.search(r"invalid choice: '(.*?)' \(", message):
            text = f"no command {command[1]!r}; {did_you_mean(command[1], self.commands)}"
        elif choice := re.search(r"typing\.Literal\[(.*)\]\. Got value: (.*)", message):
            key, allowed = re.search(r'"(.*?)"', message), re.findall(r"'(.*?)'", choice[1])
            text = f"{key[1] if key else 'an option'} is {choice[2]!r}; {did_you_mean(choice[2], allowed)}"
        elif option := re.search(r"Subcommand '(.*?)' does not accept option '(.*?)'", message):
            prog += f" {option[1]}"
            text = f"unknown option {option[2]}; {self.commands[option[1]].nearest(option[2])}"
        elif required := re.search(r"required: (\w+)\.", message):
            prog += f" {required[1]}"
        elif option := re.search(r"(?i)unrecognized arguments: -*([\w.]+)", message):
            text += f"\n  {self.nearest(option[1])}"
        print(f"{prog}: {text}\n  All options: {prog} --help", file=sys.stderr)
        raise SystemExit(2)

    def nearest(self, name: str) -> str:
        """Say which option is nearest to a wrong name, out of its own group if there is such a group."""
        known = {action.dest for action in self._actions}
        groups = {dest.partition(".")[0] for dest in known if "." in dest}
        known -= groups | {"help", "print_config", "==SUPPRESS=="}
        group = name.partition(".")[0]
        return did_you_mean(name, [k for k in known if group not in groups or k.startswith(f"{group}.")])


_SPOKEN = {"int": "whole number", "float": "number", "bool": "true or false", "str": "text"}


def _build() -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(
        prog="t3d",
        description="Video classification with Temporal 3D ConvNets.",
        allow_abbrev=False,
        version=metadata.version("t3d"),
    )
    subs = parser.add_subcommands(required=False, dest="command", metavar="COMMAND")
    parsers: dict[str, _Parser] = {}
    parser.commands = parsers
    for name, (text, fill, _) in _COMMANDS.items():
        parsers[name] = _Parser(prog=f"t3d {name}", description=text, allow_abbrev=False)
        fill(parsers[name])
        subs.add_subcommand(name, parsers[name], help=text)
    return parser, parsers


def _computing(sub: ArgumentParser) -> None:
    """The options of every command that runs a net."""
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda, …")
    sub.add_argument("--precision", type=Literal["auto", "fp32", "bf16"], default="auto", help="of the net")
    sub.add_argument(
        "--batch_size", type=PositiveInt, default=8, help="clips at a time: speed and memory only"
    )
    sub.add_argument("--workers", type=NonNegativeInt, default=2, help="processes that read videos")


# --- train -----------------------------------------------------------------------------------------------


def recipes(command: str = "t3d train") -> list[str]:
    """Names of the recipes that come along for a command."""
    folder = resources.files("t3d") / "recipes"
    names = sorted(
        item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml")
    )
    return [name for name in names if name.startswith("transfer") == (command == "t3d transfer")]


def _in_full(words: list[str]) -> list[str]:
    """Short names of options as the long ones that they stand for; dashes in names as underscores."""
    short = _SHORT.get(words[0], {}) if words else {}
    full = []
    for word in words:
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            name = "--" + name[2:].replace("-", "_")
        full.append(short.get(name, name) + equals + value)
    return full


def _with_recipe(words: list[str]) -> list[str]:
    """Turn `--recipe NAME` into `--config FILE`, in front, so that the other options win over it."""
    for at, word in enumerate(words):
        if word == "--recipe" or word.startswith("--recipe="):
            name = word.partition("=")[2] if "=" in word else (words[at + 1 : at + 2] or [""])[0]
            rest = words[:at] + words[at + (1 if "=" in word else 2) :]
            if any(other.partition("=")[0] == "--recipe" for other in rest):
                raise ConfigError("give one --recipe; options behind it change it")
            known = recipes(f"t3d {words[0]}")
            if name not in known:
                raise ConfigError(f"no recipe {name!r}: {did_you_mean(name, known)}. Your own: --config FILE")
            path = str(resources.files("t3d") / "recipes" / f"{name}.yaml")
            return [*rest[:1], "--config", path, *rest[1:]]
    return words


def _refuse_options_beside_resume(words: list[str]) -> None:
    """A run goes on by its own options: others would be ignored without a word."""
    options = [word.partition("=")[0] for word in words if word.startswith("-")]
    others = [word for word in options if word not in ("--resume", "--help", "-h")]
    if "--resume" in options and others:
        raise ConfigError(
            f"--resume goes on with a run by the options in its config.yaml; leave out {' '.join(others)}"
        )


def _fill_run(sub: ArgumentParser, kind: type[RunConfig]) -> None:
    """The options of a command that makes a run folder."""
    sub.add_argument("--config", action="config", help="YAML file with any of the options below")
    names = recipes(kind.command)
    sub.add_argument("--recipe", metavar="NAME", help=f"a configuration that comes along: {', '.join(names)}")
    sub.add_argument("--resume", metavar="RUN", help="go on with the run in this folder, by its own options")
    sub.add_class_arguments(kind)


def _run_config(chosen: Namespace, kind: type[Config]) -> tuple[Config, bool]:
    """The options of a run, and whether it goes on."""
    if chosen.resume is not None:
        from t3d.train.run_folder import RunFolder

        # The folder may have been moved since, and its own `out` was said from where the run began.
        return replace(RunFolder(chosen.resume).read_config(kind), out=chosen.resume), True
    values = vars(chosen)
    return kind(**{k: v for k, v in values.items() if k not in ("config", "recipe", "resume")}), False


def _fill_train(sub: ArgumentParser) -> None:
    _fill_run(sub, TrainConfig)


def _train(chosen: Namespace) -> int:
    config, resume = _run_config(chosen, TrainConfig)
    from t3d.train.loop import train

    train(config, resume=resume)
    return 0


# --- transfer --------------------------------------------------------------------------------------------


def _fill_transfer(sub: ArgumentParser) -> None:
    _fill_run(sub, TransferConfig)


def _transfer(chosen: Namespace) -> int:
    config, resume = _run_config(chosen, TransferConfig)
    from t3d.transfer.loop import transfer

    transfer(config, resume=resume)
    return 0


# --- test ------------------------------------------------------------------------------------------------


def _fill_test(sub: ArgumentParser) -> None:
    sub.add_argument("weights", help="weights file that a training run wrote")
    sub.add_argument("data", help="folder with one folder per class, .csv, .jsonl, or UCF101 split list")
    sub.add_argument("--videos", help="folder that the files of a list or table lie in")
    sub.add_argument("--out", help="folder for metrics.json, scores.csv and confusion.png")
    sub.add_argument(
        "--frames",
        type=Literal["normal", "shuffled", "reversed", "static"],
        default="normal",
        help="order of the frames in each clip; the others show how much of the accuracy needs time",
    )
    sub.add_argument("--tail", type=Literal["drop", "pad", "shift"], help="instead of the weights' clip.tail")
    sub.add_argument("--cache", help="folder for decoded frames")
    sub.add_argument("--max_bad", type=float, default=0.01, help="largest share of unreadable videos")
    sub.add_argument("--seed", type=NonNegativeInt, default=0, help="of shuffled frames")
    sub.add_argument("--json", action="store_true", help="print metrics as JSON")
    _computing(sub)


def _test(chosen: Namespace) -> int:
    from t3d.testing import run_test

    return _tell(run_test(**{k: v for k, v in vars(chosen).items() if k not in ("out", "json")}), chosen)


def _tell(result: Outcome, chosen: Namespace) -> int:
    """Write and print what a test found."""
    from dataclasses import asdict

    from t3d.testing import print_result, write_result

    if chosen.out:
        write_result(result, chosen.out)
    if chosen.json:
        print(json.dumps(asdict(result.metrics), ensure_ascii=False))
    else:
        print_result(result)
    return 1 if result.scores.bad else 0


# --- probe -----------------------------------------------------------------------------------------------


def _fill_probe(sub: ArgumentParser) -> None:
    sub.add_argument("train", help="labelled videos: folder with one folder per class, .csv, .jsonl, list")
    sub.add_argument("test", help="the same, to test on")
    sub.add_argument("--weights", help="weights file of a 3D net, such as a transferred student")
    sub.add_argument("--teacher", help="instead of it a 2D net: timm or torchvision name, or .onnx file")
    sub.add_argument("--teacher_weights", help=".safetensors file for the teacher")
    sub.add_argument("--teacher_size", type=PositiveInt, help="side of the square the teacher sees")
    sub.add_argument("--num_frames", type=PositiveInt, default=16, help="frames of a clip, for a teacher")
    sub.add_argument("--stride", type=PositiveInt, default=4, help="distance between them, for a teacher")
    sub.add_argument("--videos", help="folder that the files of lists or tables lie in")
    sub.add_argument("--source_pattern", help="names the source of each training video, see t3d train")
    sub.add_argument("--label_fraction", type=float, default=1.0, help="share of the training labels used")
    sub.add_argument("--label_seed", type=NonNegativeInt, default=0, help="of that draw")
    sub.add_argument("--out", help="folder for metrics.json, scores.csv and confusion.png")
    sub.add_argument("--cache", help="folder for decoded frames")
    sub.add_argument("--max_bad", type=float, default=0.01, help="largest share of unreadable videos")
    sub.add_argument("--json", action="store_true", help="print metrics as JSON")
    _computing(sub)


def _probe(chosen: Namespace) -> int:
    from t3d.transfer.probe import run_probe

    return _tell(run_probe(**{k: v for k, v in vars(chosen).items() if k not in ("out", "json")}), chosen)


# --- predict ---------------------------------------------------------------------------------------------


def _fill_predict(sub: ArgumentParser) -> None:
    sub.add_argument("weights", help="weights file that a training run wrote")
    sub.add_argument("inputs", nargs="+", metavar="VIDEO", help="video files, or folders of them")
    sub.add_argument("--top", type=PositiveInt, default=3, help="classes to show")
    sub.add_argument("--json", action="store_true", help="print one JSON object a video")
    _computing(sub)


def _predict(chosen: Namespace) -> int:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from t3d.data.manifest import Manifest
    from t3d.predict import Predictor

    paths = [entry.path for entry in Manifest.from_files(chosen.inputs)]
    names = ("device", "precision", "batch_size", "workers")
    predictor = Predictor(chosen.weights, **{name: chosen[name] for name in names})
    bad = 0
    # A table for eyes; for other programs a line a video as soon as it is known.
    console = Console()
    shown = range(1, min(chosen.top, len(predictor.card.classes)) + 1)
    table = Table(Column("video", overflow="fold"), *(f"top-{rank}" for rank in shown))
    for prediction in predictor.many(paths):
        likely = list(zip(prediction.classes, prediction.probs, strict=True))[: chosen.top]
        if prediction.error is not None:
            bad += 1
            print(f"t3d: {prediction.path}: {prediction.error}", file=sys.stderr)
        if chosen.json:
            line = {"path": prediction.path, "clips": prediction.clips, "classes": dict(likely)}
            if prediction.error is not None:
                line = {"path": prediction.path, "error": prediction.error}
            print(json.dumps(line, ensure_ascii=False), flush=True)
        elif prediction.error is None:
            cells = [prediction.path, *(f"{name} {prob:.1%}" for name, prob in likely)]
            if console.is_terminal:
                table.add_row(*map(escape, cells))
            else:
                print(*cells, sep="\t", flush=True)
    if table.row_count:
        console.print(table)
    if bad:
        print(f"t3d: {bad} of {len(paths)} videos could not be read", file=sys.stderr)
    return 1 if bad else 0


# --- models, convert, demo, doctor -----------------------------------------------------------------------


def _fill_models(sub: ArgumentParser) -> None:
    sub.add_argument("pattern", nargs="?", default="*", help="such as 't3d*'")
    sub.add_argument("--frames", type=PositiveInt, default=32, help="frames of the clip that is counted")
    sub.add_argument("--size", type=PositiveInt, default=224, help="side of the clip that is counted")
    sub.add_argument("--classes", type=PositiveInt, default=400, help="classes of the net that is counted")
    sub.add_argument("--json", action="store_true", help="print JSON")


def _models(chosen: Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from t3d.models.flops import model_size
    from t3d.models.registry import list_models

    names = list_models(chosen.pattern)
    if not names:
        raise ConfigError(
            f"no net is called {chosen.pattern!r}: {did_you_mean(chosen.pattern, list_models())}"
        )
    clip = {"num_frames": chosen.frames, "size": chosen.size, "num_classes": chosen.classes}
    sizes = {name: model_size(name, **clip) for name in names}
    if chosen.json:
        print(json.dumps({name: {"parameters": s.parameters, "macs": s.macs} for name, s in sizes.items()}))
        return 0
    title = f"{chosen.frames} frames of {chosen.size} × {chosen.size}, {chosen.classes} classes"
    table = Table("net", "parameters (M)", "GMAC a clip", title=title)
    for name, size in sizes.items():
        table.add_row(name, f"{size.parameters / 1e6:.2f}", f"{size.macs / 1e9:.1f}")
    Console().print(table)
    return 0


def _fill_convert(sub: ArgumentParser) -> None:
    sub.add_argument("source", help="a .pth file that torch.save wrote")
    sub.add_argument("target", help="the .safetensors file to write")
    sub.add_argument("--model", required=True, help="the net the weights belong to, see: t3d models")
    sub.add_argument("--options", type=dict[str, Any], default={}, help="options of the net, as YAML")
    sub.add_argument("--classes", required=True, help="text file with one class name a line, in order")
    sub.add_argument("--clip", type=ClipSpec, default=ClipSpec(), help="what a clip is")


def _convert(chosen: Namespace) -> int:
    from t3d.models.convert import convert_checkpoint

    try:
        classes = Path(chosen.classes).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"{chosen.classes}: the class names cannot be read: {error}") from error
    convert_checkpoint(
        chosen.source,
        chosen.target,
        architecture=chosen.model,
        classes=tuple(classes),
        clip=chosen.clip,
        options=chosen.options,
    )
    return 0


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


_COMMANDS: dict[str, tuple[str, _Fill, _Run]] = {
    "train": ("Train a net on labelled videos.", _fill_train, _train),
    "transfer": ("Teach a net by a frozen 2D net, from unlabelled videos.", _fill_transfer, _transfer),
    "test": ("Test a trained net on labelled videos, by the paper's protocol.", _fill_test, _test),
    "probe": ("Test a linear classifier on frozen features, of a 2D or a 3D net.", _fill_probe, _probe),
    "predict": ("Say what videos show.", _fill_predict, _predict),
    "models": ("List the nets, with parameters and multiply-adds.", _fill_models, _models),
    "convert": ("Turn a foreign .pth file into a weights file of ours.", _fill_convert, _convert),
    "demo": ("Draw videos, train, test, predict, and write a report.", _fill_demo, _demo),
    "doctor": ("Check that decoding, torch and the device work here.", _fill_doctor, _doctor),
}
