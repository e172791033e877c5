"""Patterns such as `clips/**/*.mp4` stand for the files that they match."""

from __future__ import annotations

from pathlib import Path

import pytest

from t3d.cli.videos import VideoSet
from t3d.data.patterns import expanded, is_pattern
from t3d.errors import ManifestError
from t3d.evaluation.bulk import GivenPaths
from t3d.evaluation.parts import parts_of
from t3d.evaluation.result import Prediction


@pytest.fixture(autouse=True)
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.mp4", "a.mp4", "day 1/c.mp4", "day 1/deep/d.avi", "notes.txt", ".hidden.mp4", "x[1].mp4"):
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def slashes(paths: list[str]) -> list[str]:
    return [path.replace("\\", "/") for path in paths]


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("clips/*.mp4", ["clips/a.mp4", "clips/b.mp4", "clips/x[1].mp4"]),
        ("clips/[ab].mp4", ["clips/a.mp4", "clips/b.mp4"]),
        ("clips/?.mp4", ["clips/a.mp4", "clips/b.mp4"]),
        ("clips/**/*.mp4", ["clips/a.mp4", "clips/b.mp4", "clips/day 1/c.mp4", "clips/x[1].mp4"]),
        ("clips/x[1].mp4", ["clips/x[1].mp4"]),  # the name of a file
        ("clips/*", ["clips/a.mp4", "clips/b.mp4", "clips/day 1", "clips/x[1].mp4"]),
        ("clips/**", ["clips/"]),
        ("clips/*.txt", ["clips/notes.txt"]),
        ("absent.mp4", ["absent.mp4"]),  # reported where it is read
        ("https://example.org/a.mp4?sig=*", ["https://example.org/a.mp4?sig=*"]),
    ],
)
def test_a_pattern_is_replaced_by_what_it_matches(pattern: str, paths: list[str]) -> None:
    assert slashes(expanded([pattern])) == paths


def test_a_path_of_two_patterns_is_taken_once() -> None:
    assert slashes(expanded(["clips/b*", "clips/*.mp4"])) == ["clips/b.mp4", "clips/a.mp4", "clips/x[1].mp4"]
    assert not is_pattern("clips/x[1].mp4")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("clips/*.mkv", r"clips/\*\.mkv: no file or folder matches this pattern"),
        ("clips/n*", r"clips/n\*: this pattern matches 1 files, but no video \(\.txt\)"),
    ],
)
def test_a_pattern_without_a_video_is_an_error_that_names_it(pattern: str, message: str) -> None:
    for function in (expanded, parts_of):
        with pytest.raises(ManifestError, match=message):
            function([pattern])
    with pytest.raises(ManifestError, match=message):
        VideoSet(pattern).open()


def test_commands_take_patterns(clips: Path) -> None:
    (clips / "clips" / "spans.csv").write_text("path,start,end\na.mp4,0,1\n")
    parts = parts_of(["clips/*.mp4", "clips/sp*.csv"])
    names = [str(Path(part.path).relative_to(clips / "clips")) for part in parts]
    assert names == ["a.mp4", "b.mp4", "x[1].mp4", "a.mp4"]
    assert parts[-1].end == 1.0
    assert len(parts_of(["clips/*"])) == 5  # two files in a folder
    assert len(VideoSet("clips/**/*.mp4").open()) == 4
    given = GivenPaths(["clips/*.mp4"])
    assert slashes([given.of(Prediction(parts[0].path)).path]) == ["clips/a.mp4"]
