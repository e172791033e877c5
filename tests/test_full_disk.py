"""Every file that the project writes, on a full disk: an error with its name, and nothing half-written.

A limit of 0 bytes on the size of files stands for a full disk: every write fails, as at ENOSPC.
"""

from __future__ import annotations

import ast
import resource
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

import t3d
from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.data.config import DataConfig
from t3d.data.inspect.browse import write_page
from t3d.data.manifest.manifest import Manifest
from t3d.data.split_lists import write_lists
from t3d.data.synthetic.scene import SyntheticSpec
from t3d.data.synthetic.videos import write_synthetic
from t3d.errors import WriteError
from t3d.evaluation.run_test import TestResult
from t3d.evaluation.scores import Scores
from t3d.evaluation.scores_table import write_scores
from t3d.evaluation.task import measure
from t3d.io.archives import extract_archive
from t3d.io.fetch import fetch
from t3d.io.files import content_digest
from t3d.io.journal import Journal
from t3d.io.shard_cache import FOLDER, local_copy
from t3d.models.weights import write_tensors
from t3d.prepare.examine import examine
from t3d.prepare.index import JOURNAL, write_index
from t3d.prepare.out_folder import claim
from t3d.prepare.pack import Packed, ShardTask, write_shard
from t3d.prepare.rewrite import Task, TranscodeSpec, stage
from t3d.report.plots import loss_figure, save_figure
from t3d.report.result import write_result
from t3d.reproduce.result import write_table
from t3d.reproduce.tables import read_table
from t3d.training.config import TrainConfig
from t3d.training.run_folder import RunFolder
from t3d.transfer.feature_table import FeatureTable, write_features
from t3d.video.encode import write_video

FRAMES = torch.randint(0, 256, (8, 3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
Writer = Callable[[Path, Path], object]


@contextmanager
def full_disk() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    with zipfile.ZipFile(folder / "lists.zip", "w") as archive:
        archive.writestr("one.txt", "content")
    for name in ("shards.json", "index.parquet"):
        (folder / name).write_text("content")
    return write_video(folder / "a.mp4", FRAMES)


def _result() -> TestResult:
    scores = Scores(
        classes=("a", "b"),
        clip_probs=np.array([[0.9, 0.1]]),
        clip_video=np.array([0]),
        video_probs=np.array([[0.9, 0.1]]),
        labels=np.array([0]),
        paths=("a.mp4",),
        bad=(),
    )
    return TestResult(measure(scores), scores)


def _features() -> FeatureTable:
    texts, numbers = np.array(["a"] * 3), np.zeros(3)
    return FeatureTable(
        np.zeros((3, 2), np.float32), texts, texts, texts, numbers, numbers, *[np.arange(3)] * 2
    )


def _manifest(video: Path) -> Manifest:
    return Manifest.from_files([video])


def _start_run(video: Path, out: Path) -> None:
    config = TrainConfig(out=str(out), data=DataConfig(train="a.csv"))
    RunFolder(out).start(config, _manifest(video), None, [])


def _cache(video: Path, out: Path) -> None:
    store = FrameStore(ClipSpec(num_frames=4, size=32, resize=32), cache=str(out))
    store.prepare(video)


def _index(video: Path, out: Path) -> None:
    write_index(out, _manifest(video), pa.Table.from_pylist([examine(str(video))], schema=JOURNAL))


def _shard(video: Path, out: Path) -> None:
    write_shard(ShardTask(str(out), (Packed(str(video), "000000000-a", content_digest(video), "{}"),)))


def _transcode(video: Path, out: Path) -> None:
    task = Task(str(video), str(out), "a.mp4", "a.mp4")
    stage(task, spec=TranscodeSpec(short_side=32), max_megapixels=40)


def _journal(video: Path, out: Path) -> None:
    with Journal(out) as journal:
        journal.add(examine(str(video)))


def _remote_shards(video: Path, out: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(out))
        local_copy((video.parent / "index.parquet").as_uri())


WRITERS: dict[str, Writer] = {
    "weights.safetensors": lambda _, out: write_tensors({"a": torch.zeros(9)}, out, metadata={}),
    "run": _start_run,
    "bad.csv": lambda _, out: RunFolder(out.parent).add_bad({"a.mp4": "is empty"}),
    "log.jsonl": _journal,
    "index.parquet": _index,
    "000000.tar": _shard,
    "small.mp4": _transcode,
    "frames": _cache,
    "scores.csv": lambda _, out: write_scores(_result().scores, out),
    "features.npz": lambda _, out: write_features(out, [_features()], key="", rows=3, length=2),
    "features.parquet": lambda _, out: write_features(out, [_features()], key="", rows=3, length=2),
    "results": lambda _, out: write_result(_result(), out),
    "curves.png": lambda _, out: save_figure(loss_figure([{"kind": "train", "step": 1, "loss": 1.0}]), out),
    "browse.html": lambda video, out: write_page(out, {"videos": _manifest(video)}),
    "lists": lambda video, out: write_lists({"train": _manifest(video)}, out, overwrite=False),
    "list.csv": lambda video, out: _manifest(video).write_csv(out),
    "transcode.json": lambda _, out: claim(out, {"short_side": 32}, hints={}),
    "tables": lambda _, out: write_table(out, read_table("4"), [], scale="small"),
    "motion": lambda _, out: write_synthetic(out, SyntheticSpec(train=1, val=0, test=0, frames=8), workers=1),
    "downloaded.txt": lambda video, out: fetch((video.parent / "index.parquet").as_uri(), out),
    "unpacked": lambda video, out: extract_archive(video.parent / "lists.zip", out),
    "shards": _remote_shards,
    "video.mp4": lambda _, out: write_video(out, FRAMES),
}


@pytest.mark.situation(
    "Machines and disks",
    "The disk is full",
    "The error names the file; the earlier file is unchanged",
)
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_an_error_with_the_name_of_the_file(name: str, video: Path, tmp_path: Path) -> None:
    out = tmp_path / name
    with pytest.raises(WriteError) as caught, full_disk():
        WRITERS[name](video, out)
    message = str(caught.value)
    assert message.startswith(str(out))
    assert "cannot be written: File too large. Raise the limit" in message
    assert "run the same command again" in message
    assert ".part" not in message
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size]
    assert left == []


@pytest.mark.parametrize("name", ["weights.safetensors", "scores.csv", "curves.png", "list.csv", "video.mp4"])
def test_a_full_disk_leaves_the_earlier_file(name: str, video: Path, tmp_path: Path) -> None:
    out = tmp_path / name
    out.write_text("earlier")
    with pytest.raises(WriteError), full_disk():
        WRITERS[name](video, out)
    assert out.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_without_write_permission_is_named_as_such(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "touch", _denied)
        with pytest.raises(WriteError, match=r"a\.csv: cannot be written: Permission denied\. Check"):
            write_scores(_result().scores, tmp_path / "a.csv")


def _denied(path: Path, **__: object) -> None:
    raise PermissionError(13, "Permission denied", str(path))


# --- completeness ----------------------------------------------------------------------------------------

# Functions that write outside such a block, with the reason.
_GUARDED = {
    "io/files.py": {"atomic_path"},
    "cli/main.py": {"_open_standard_streams"},  # /dev/null
    "io/fetch.py": {"_download", "_write_note"},  # in `writing`, see `fetch`
    "io/archives.py": {"_extract"},  # in the atomic folder of `extract_archive`
    "io/journal.py": {"keep", "_open", "add"},  # in `writing`
    "data/clips/frames.py": {"_write"},  # in the atomic path of `prepare`
    "evaluation/pictures.py": {"inline_svg"},  # into memory
    "export/trace.py": {"_stream_errors", "write_torch"},  # in `writing`, see `named_at_the_end`
    "video/sound.py": {"not_in"},  # into memory
    "bench/child.py": {"_forget_peak", "_main"},  # /proc
    "serve/inside.py": {"_be_modest"},  # /proc
    "reproduce/run.py": {"_write"},  # calls another function of this name
}
_WRITING_CALLS = {"write_text", "write_bytes", "save_file", "write_table", "savefig", "touch"}


def test_every_write_is_guarded() -> None:
    """Files are written within `atomic_path`, `atomic_folder` or `writing`, which name the file in errors."""
    package = Path(t3d.__file__).parent
    unguarded = []
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).as_posix()
        for function, line in _writes(ast.parse(file.read_text(encoding="utf-8"))):
            if function not in _GUARDED.get(name, set()):
                unguarded.append(f"{name}:{line} in {function}")
    assert unguarded == []


def _writes(node: ast.AST, function: str = "", guarded: bool = False) -> Iterator[tuple[str, int]]:
    """Yield (function, line) of every call outside a guarded block that writes a file."""
    for child in ast.iter_child_nodes(node):
        inner, safe = function, guarded
        if isinstance(child, ast.FunctionDef):
            inner, safe = child.name, False
        if isinstance(child, ast.With):
            calls = [ast.unparse(item.context_expr) for item in child.items]
            safe = guarded or any(
                call.split("(")[0] in ("atomic_path", "atomic_folder", "writing") for call in calls
            )
        if isinstance(child, ast.Call) and _is_write(child) and not guarded:
            yield function, child.lineno
        yield from _writes(child, inner, safe)


def _is_write(call: ast.Call) -> bool:
    name = ast.unparse(call.func).rpartition(".")[2]
    if name == "open":
        modes = [each.value for each in call.args if isinstance(each, ast.Constant)]
        return any(isinstance(mode, str) and set(mode) & set("wax+") and len(mode) <= 3 for mode in modes)
    return name in _WRITING_CALLS
