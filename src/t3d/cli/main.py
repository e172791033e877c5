"""Entry point of the `t3d` command: read the options, call the function and report errors.

Only the module of the chosen command is imported, and no command imports torch before it runs. This keeps
help fast. To add a command, write a function (see `t3d.cli.options`) and add it to `COMMANDS`.

Errors: the library raises a `T3DError` that mentions parameters. `t3d.cli.parser.in_options` replaces them by
options. The attributes `folder` and `command` of an error identify the run to resume. The attribute `signal`
is the number of the signal that stopped the run.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from t3d.cli.help import command_help, overview
from t3d.cli.options import Command, Option, call, options_of, spelling_of
from t3d.cli.parser import Given, UsageError, in_options, parse, read_words
from t3d.errors import OtherProcessError, T3DError, printable_lines, without_credentials
from t3d.progress import show_progress
from t3d.training.interrupt import end_process_when_stopped, ignore_signals

GROUPS = {
    "prepare": "Prepare a data set once, before training.",
    "data": "Check, split and browse a data set.",
    "bench": "Measure speed and memory on this machine.",
}
COMMANDS = {
    "fit": ("Make a classifier of labeled videos: look, train, choose, test, export.", "fit:fit"),
    "prepare download": ("Download a published data set or a file, and unpack it.", "download:download"),
    "prepare unpack": ("Unpack archives of videos or of folders of images.", "prepare:unpack"),
    "prepare index": ("Decode every video once, so that later runs open it faster.", "prepare:index"),
    "prepare transcode": ("Re-encode videos to be small and fast to seek in.", "prepare:transcode"),
    "prepare shards": ("Pack videos into large files that are read sequentially.", "prepare:shards"),
    "data check": ("Count the videos in lists, and find files that are missing or shared.", "data:check"),
    "data split": ("Divide videos into lists for training, validation and testing.", "split:split"),
    "data browse": ("Write an HTML page with some videos per class.", "data:browse"),
    "train": ("Train a model on labeled videos.", "training:train"),
    "transfer": ("Train a 3D model on unlabeled videos with a frozen 2D model.", "training:transfer"),
    "teacher": ("Train a small 2D model on still images, to use as a teacher.", "training:teacher"),
    "test": ("Test a trained model on labeled videos.", "evaluation:evaluate"),
    "compare": ("Compare models on the same labeled videos: accuracy, size and speed.", "evaluation:compare"),
    "probe": ("Train a linear classifier on frozen features, and test it.", "evaluation:probe"),
    "features": (
        "Write the features of videos to a file, and show similar videos.",
        "features:features",
    ),
    "calibrate": ("Calibrate the probabilities of a model on labeled videos.", "evaluation:calibrate"),
    "fuse": ("Make one model that averages the probabilities of several models.", "evaluation:fuse"),
    "predict": ("Classify videos.", "prediction:predict"),
    "explain": ("Show why a model decides: places, frames and temporal depths.", "explain:explain"),
    "timeline": ("Find when classes happen in long videos.", "timeline:timeline"),
    "watch": ("Classify a camera or a live stream.", "watch:watch"),
    "serve": ("Open a web page and an API that classify videos.", "serve:serve"),
    "export": ("Export a model for fast inference on a CPU.", "export:export"),
    "models": ("List the models, with parameters and multiply-accumulates.", "models:models"),
    "convert": ("Convert weights of another project into a weights file.", "models:convert"),
    "reproduce": ("Run one of the paper's tables, row by row.", "reproduce:reproduce"),
    "bench model": ("Time a model in every way of computing it.", "bench:model"),
    "bench train": ("Time training steps of a model.", "bench:train"),
    "bench predict": (
        "Time the steps of a prediction: start-up, decoding, resizing, network.",
        "bench:predict",
    ),
    "bench decode": ("Time the reading of video files, compared with PyAV and torchcodec.", "bench:decode"),
    "bench growth": (
        "Measure how time and memory grow with frames, side, batch size and depth.",
        "bench:growth",
    ),
    "demo": ("Train, test and predict on generated videos, and write a report.", "tools:demo"),
    "doctor": ("Check that decoding, torch and the device work.", "tools:doctor"),
}
"""Help line and function (in `t3d.cli`) per command."""

_PACKAGE = Path(__file__).parents[1]
_PYTHONS_FORMAT = warnings.formatwarning


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Words after `t3d`. Default: the arguments of the process.

    Returns:
        The exit status:

        - 0: success
        - 1: a part of the input could not be used
        - 2: the work was not done or not finished, and the message gives the reason
        - 128 + n: signal n stopped the run, with its state saved, or killed one of its processes
    """
    name, rest = _find(list(sys.argv[1:] if argv is None else argv))
    if name not in COMMANDS:
        return _without_command(name, rest)
    given: list[Given] = []
    options: tuple[Option, ...] = ()
    warnings.formatwarning = _format_warning
    try:
        command = load(name)
        options = all_options(name, command)
        if "--help-all" in rest or "--help" in rest or "-h" in rest:
            print(command_help(name, command, options, everything="--help-all" in rest), end="")
            return 0
        show_progress()
        given += read_words(rest, options, lambda key: _commands_with(key, name))
        status = _run(name, command, options, given)
        sys.stdout.flush()  # a full disk must not pass for success
        return status
    except UsageError as error:
        everything = "--help-all" if options and spelling_of(command).first else "--help"
        _complain(f"t3d {name}: {error}\n  All options: t3d {name} {everything}")
        return 2
    except T3DError as error:
        if any(each.key == "resume" for each in given):  # the other options are in the YAML file of the run
            from t3d.training.config import CHANGEABLE

            options = tuple(option for option in options if option.key in CHANGEABLE)
        if not isinstance(error, OtherProcessError):  # one message per command, not one per process
            _complain(f"t3d: {in_options(str(error), options, given)}")
        folder, starter = getattr(error, "folder", None), getattr(error, "command", None)
        if folder and starter:
            _complain(f"  Resume it with: {starter} --resume {folder}")
        number = getattr(error, "signal", None)  # InterruptedRunError, recognized without importing torch
        return 2 if number is None else 128 + int(number)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `t3d … | head`
        _discard_output()
        return 141
    except OSError as error:  # a folder without read permission, `t3d … > file` on a full disk
        known = error.filename is not None and error.strerror
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            _discard_output()
            where = "the output, or memory shared with other processes (/dev/shm),"
            _complain(f"t3d: {where} cannot be written: {error.strerror}. Free some space")
        else:
            _complain(f"t3d: {error.filename}: {error.strerror}" if known else f"t3d: {error}")
        return 2
    finally:
        show_progress(False)


def run_process() -> int:
    """Run the command of this process. After a signal stopped a run, further ones do not change how it ends.

    Returns:
        The exit status, see `main`.
    """
    _open_standard_streams()
    end_process_when_stopped()
    status = main()
    if status > 128:
        ignore_signals()  # Python would exit with a traceback, or the system would end it
    return status


def _open_standard_streams() -> None:
    """Discard what is written to a stream that this process does not have: `2>&-`, or pythonw.

    The descriptors are occupied, too. Otherwise, the next file to be opened would get the number of stderr,
    and C libraries would write their messages into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (until the process ends)
            setattr(sys, name, stream)


def _complain(text: str) -> None:
    """Print an error. Names in it cannot control the terminal, and URLs have no password."""
    print(printable_lines(without_credentials(text)), file=sys.stderr)


def _discard_output() -> None:
    """Discard unflushed output, which Python would try to write again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def load(name: str) -> Command:
    """Import the function of a command."""
    module, _, function = COMMANDS[name][1].partition(":")
    command: Command = getattr(importlib.import_module(f"t3d.cli.{module}"), function)
    return command


def all_options(name: str, command: Command) -> tuple[Option, ...]:
    """Return the options of a command, including `--recipe`, `--config` and `--resume`."""
    options = options_of(command)
    if not spelling_of(command).yaml:
        return options
    from t3d.cli.recipes import yaml_options

    return (*yaml_options(name), *(option for option in options if option.key != "resume"))


def _run(name: str, command: Command, options: Sequence[Option], given: Sequence[Given]) -> int:
    if spelling_of(command).yaml:
        from t3d.cli.recipes import run_with_files

        return run_with_files(name, command, options, given)
    from t3d.cli.exclusive import with_replaced

    return call(command, options, parse(options, with_replaced(given, options)))


def _find(words: list[str]) -> tuple[str, list[str]]:
    """Split words into the command and its arguments. The command may be unknown, or only a group."""
    if words[:1] and words[0] in GROUPS:
        name = " ".join(words[:2])
        return (name, words[2:]) if name in COMMANDS else (words[0], words[1:])
    return (words[0], words[1:]) if words else ("", [])


def _without_command(name: str, rest: list[str]) -> int:
    """Print help, the version, or a suggestion for an unknown command."""
    group = name if name in GROUPS else ""
    word = rest[0] if group and rest else "" if group else name
    if word == "--version" and not group:
        from importlib import metadata

        print(f"t3d {metadata.version('t3d')}")
        return 0
    if word in ("", "--help", "-h", "--help-all"):
        print(_help(group), end="")
        return 0 if word else 2
    prog = f"t3d {group}".strip()
    known = ["--help", "--version"] if word.startswith("-") else [*_within(group), "--help"]
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    kind = "option" if word.startswith("-") else "command"
    hint = f"; did you mean {near[0]!r}?" if near else ""
    print(f"{prog}: no {kind} {word!r}{hint}\n  All commands: {prog} --help", file=sys.stderr)
    return 2


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Format a warning of T3D as one line without the code location, and others as Python does."""
    if category is UserWarning and Path(filename).is_relative_to(_PACKAGE):
        return f"t3d: {printable_lines(str(message))}\n"
    return _PYTHONS_FORMAT(message, category, filename, lineno, line)


def _within(group: str) -> dict[str, str]:
    """Return the help line per command of a group, by its last word. Without a group: per first word."""
    if group:
        return {n.partition(" ")[2]: text for n, (text, _) in COMMANDS.items() if n.startswith(f"{group} ")}
    lines = {}
    for name, (text, _) in COMMANDS.items():
        first = name.partition(" ")[0]
        lines[first] = GROUPS.get(first, text)
    return lines


def _help(group: str) -> str:
    if group:
        return overview(GROUPS[group], f"t3d {group} COMMAND [options]", _within(group))
    return overview(
        "Video classification with Temporal 3D ConvNets.",
        "t3d COMMAND [options]",
        _within(""),
        ["Options of a command: t3d COMMAND --help\nVersion: t3d --version"],
    )


def _commands_with(key: str, name: str) -> list[str]:
    """Return the other commands with this option, by its key or its short name."""
    flag = f"--{key.replace('_', '-')}"
    return [
        other
        for other in COMMANDS
        if other != name
        and any(
            not option.positional and flag in (option.full, option.short)
            for option in all_options(other, load(other))
        )
    ]
