from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from t3d import errors
from t3d.errors import (
    ConfigError,
    FetchError,
    LostReaderError,
    OtherProcessError,
    ResumableError,
    StoppedError,
    T3DError,
    VideoError,
    WriteError,
    at_least,
    between,
    did_you_mean,
    printable_lines,
)
from t3d.training.errors import InterruptedRunError, RunExistsError, WrongCommandError


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


SEVERAL_ARGUMENTS = (
    VideoError("a.mp4", "is empty"),
    FetchError("https://x/y", "not found"),
    ResumableError("a.bin: cannot be written", "Free some space on the disk"),
    StoppedError("stopped", 15),
    OtherProcessError("no videos", 15),
    InterruptedRunError(Path("runs/a"), 2, "t3d train", state="it had not taken a step yet"),
    RunExistsError(Path("runs/a"), "t3d train"),
    WrongCommandError(Path("runs/a"), "t3d train", asked="t3d transfer"),
)


@pytest.mark.parametrize("error", SEVERAL_ARGUMENTS, ids=lambda error: type(error).__name__)
def test_errors_with_several_arguments_are_pickled_and_copied(error: T3DError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


def test_every_error_with_several_arguments_is_tested() -> None:
    def below(kind: type[T3DError]) -> set[type[T3DError]]:
        return {kind}.union(*map(below, kind.__subclasses__()))

    own = {
        kind for kind in below(T3DError) if "__init__" in vars(kind) and kind.__module__.startswith("t3d.")
    }
    assert own == {type(error) for error in SEVERAL_ARGUMENTS}


class Broken(Dataset[int]):
    def __init__(self, error: T3DError) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, row: int) -> int:
        raise self.error


@pytest.mark.parametrize("error", SEVERAL_ARGUMENTS[:3], ids=lambda error: type(error).__name__)
def test_a_worker_of_torchs_own_loader_passes_on_type_and_message(error: T3DError) -> None:
    loader = iter(DataLoader(Broken(error), num_workers=1))
    caught: T3DError | None = None
    try:
        next(loader)
    except T3DError as raised:
        caught = raised.with_traceback(
            None
        )  # which would keep the loader, whose late end takes 5 s per worker
    del loader
    assert type(caught) is type(error)
    text = str(caught)
    assert str(error) in text
    assert not text.endswith(": ")


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
        with pytest.raises(ConfigError, match=f"x is {wrong}; it must be between 0 and 1"):
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
        ("größe 猫\t👍\n", "größe 猫\\t👍\n"),
    ],
)
def test_names_do_not_control_the_terminal(name: str, shown: str) -> None:
    assert printable_lines(name) == shown
