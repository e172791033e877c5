"""The tables of docs/guides/many-machines.md are those that its script prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def printed(*words: str) -> list[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "scale.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_tables_are_the_scripts() -> None:
    lines = printed()
    assert len(lines) > 40
    document = (ROOT / "docs" / "guides" / "many-machines.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line not in document] == []


def test_the_arithmetic_by_hand() -> None:
    words = ("--clips", "1000", "--seconds", "8", "--fps", "25", "--width", "640", "--height", "512")
    cells = [line.strip("| ").split(" | ") for line in printed(*words, "--cores", "4")]
    values = {pair[0]: pair[1] for pair in cells if len(pair) == 2}
    frames = 1000 * 8 * 25
    assert values["index: with 4 cores"] == f"{frames / 1330 * 640 * 512 / (320 * 240) / 4 / 60:,.1f} min"
    # Half as wide and half as high once transcoded.
    assert values["transcoded"] == f"{1000 * 8 * 0.077 * 320 * 256 / (320 * 240):,.1f} MB"
