from __future__ import annotations

import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from t3d import errors
from t3d.errors import (
    ConfigError,
    LostReaderError,
    ResumableError,
    T3DError,
    VideoError,
    WriteError,
    at_least,
    between,
    did_you_mean,
    printable,
)


def test_every_error_of_ours_is_one_family() -> None:
    family = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert len(family) >= 5
    assert all(issubclass(kind, T3DError) for kind in family)


@pytest.mark.parametrize("path", ["clips/a b.mp4", Path("clips/ü.mp4")])
def test_a_video_error_carries_path_and_reason_and_survives_a_worker(path: str | Path) -> None:
    error = VideoError(path, "is empty")
    again = pickle.loads(pickle.dumps(error))
    for one in (error, again):
        assert type(one) is VideoError
        assert str(one) == f"{path}: is empty"
        assert one.path == str(path)
        assert one.reason == "is empty"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("t3d12", "t3d121"), ("T3D121", "t3d121"), ("Densenet", "DenseNet"), ("densnet", "DenseNet")],
)
def test_the_nearest_name_is_found_whatever_its_case(name: str, nearest: str) -> None:
    assert did_you_mean(name, ["t3d121", "DenseNet", "other"]).startswith(f"did you mean {nearest!r}? ")


def test_without_a_near_name_only_the_known_ones_are_listed() -> None:
    assert did_you_mean("zzz", {"b", "a"}) == "known: a, b"
    assert did_you_mean("zzz", []) == "known: "


def test_at_most_thirty_names_are_listed() -> None:
    text = did_you_mean("zzz", (f"class{i:03d}" for i in range(101)))
    assert text.count("class") == 30
    assert text.endswith("… (101 in all)")


def test_bounds_hold_and_refuse_nan() -> None:
    at_least("x", 3, 3)
    between("x", 0, 0, 1)
    between("x", 1, 0, 1)
    for wrong in (2.9, -math.inf, math.nan):
        with pytest.raises(ConfigError, match=f"x is {wrong}; it must be at least 3"):
            at_least("x", wrong, 3)
    for wrong in (-0.1, 1.1, math.nan, math.inf):
        with pytest.raises(ConfigError, match=f"x is {wrong}; it must lie between 0 and 1"):
            between("x", wrong, 0, 1)


def test_errors_and_clip_specs_come_without_torch() -> None:
    code = "import sys, t3d.errors, t3d.io.files, t3d.clip, t3d.data.config; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("error", [WriteError.of("a.csv", OSError(28, "full")), LostReaderError("p", "r", 9)])
def test_resumable_errors_travel_between_processes(error: ResumableError) -> None:
    error.stopped_run(Path("run"), "t3d train", state="It is complete")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
    copy.same_command()
    assert str(copy).endswith(", and run the same command again")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("run\x1b[2J.mp4", r"run\x1b[2J.mp4"),
        ("a\x07b\rc\x9bd", r"a\x07b\rc\x9bd"),
        ("gnp\u202e4pm.exe", r"gnp\u202e4pm.exe"),
        ("latin\udce9.mp4", r"latin\udce9.mp4"),
        ("größe 猫\t👍\n", "größe 猫\t👍\n"),
    ],
)
def test_names_do_not_control_the_terminal(name: str, shown: str) -> None:
    assert printable(name) == shown
