"""Completion in a real shell."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from t3d.cli.main import COMMANDS, main


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script for bash."""
    file = tmp_path_factory.mktemp("completion") / "t3d.bash"
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lines.append)
        assert main(["completion", "bash"]) == 0
    file.write_text("\n".join(lines))
    return file


def completed(script: Path, folder: Path, lines: list[str]) -> list[list[str]]:
    """Return what bash suggests for the last word of each line."""
    calls = []
    for line in lines:
        words = [*line.split(" ")]
        quoted = " ".join(f"'{word}'" for word in words)
        calls.append(
            f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMPREPLY=(); _shtab_t3d t3d "
            f"'{words[-1]}' '{words[-2]}'; echo \"${{COMPREPLY[*]}}\""
        )
    program = f"shopt -s progcomp; source {script}\n" + "\n".join(calls)
    done = subprocess.run(
        [shutil.which("bash") or "bash", "--norc", "-c", program],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        timeout=120,
    )
    assert done.stderr == ""
    return [line.split() for line in done.stdout.split("\n")[:-1]]


def test_bash_completes_commands_options_choices_and_files(script: Path, tmp_path: Path) -> None:
    (tmp_path / "match.mp4").touch()
    suggested = completed(
        script,
        tmp_path,
        [
            "t3d pre",
            "t3d prepare ",
            "t3d export --form",
            "t3d export --format o",
            "t3d predict run mat",
            "t3d completion ",
            "t3d train --optim.weight",
            "t3d push run out --no-priv",
        ],
    )
    assert suggested == [
        ["prepare", "predict"],
        ["download", "unpack", "index", "transcode", "shards"],
        ["--format"],
        ["openvino", "onnx"],
        ["match.mp4"],
        ["bash", "zsh", "fish", "tcsh"],
        ["--optim.weight-decay"],
        ["--no-private"],
    ]


@pytest.mark.parametrize("shell", ["zsh", "fish", "tcsh"])
def test_scripts_of_other_shells_have_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert name.split()[-1] in text


def test_other_shells_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "ksh"]) == 2
    assert "SHELL is 'ksh'; did you mean 'zsh'?" in capsys.readouterr().err
