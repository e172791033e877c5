"""Manifests of several labels a video: read, checked, counted, divided, written."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from t3d.clip import ClipSpec
from t3d.data.catalog import open_manifest, refuse_other_targets
from t3d.data.clips.dataset import TrainClips, VideoClips, collate
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.sampler import SampleKey
from t3d.data.config import AugmentConfig
from t3d.data.index import VideoIndex
from t3d.data.inspect.audit import summarize
from t3d.data.inspect.browse import write_page
from t3d.data.manifest.labels import join_names, split_names
from t3d.data.manifest.manifest import Manifest
from t3d.errors import Failed, ManifestError
from t3d.prepare.index import index_videos
from t3d.video.encode import write_video

pytestmark = pytest.mark.usefixtures("work_here")

CSV = "path,labels,source\na.mp4,run|jump,s\nb.mp4,|,s\nc.mp4,,t\nd.mp4,swim,t\n"
JSONL = """{"path": "a.mp4", "labels": ["run", "jump"], "source": "s"}
{"path": "b.mp4", "labels": [], "source": "s"}
{"path": "c.mp4", "source": "t"}
{"path": "d.mp4", "labels": ["swim"], "source": "t"}
"""
NAMES = [{"jump", "run"}, set(), None, {"swim"}]


def read(tmp_path: Path, text: str = CSV, name: str = "clips.csv") -> Manifest:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return open_manifest(str(tmp_path / name))


def names(manifest: Manifest) -> list[set[str] | None]:
    return [
        None if entry.labels is None else {manifest.classes[label] for label in entry.labels}
        for entry in manifest
    ]


def random_manifest(seed: int, *, rows: int = 300, classes: int = 6, sources: int = 300) -> Manifest:
    """Classes apply to rows independently, the last ones rarely; some rows are unlabeled."""
    rng = np.random.default_rng(seed)
    applies = rng.random((rows, classes)) < np.linspace(0.6, 0.05, classes)
    lists = [np.flatnonzero(row).tolist() if rng.random() < 0.95 else None for row in applies]
    columns = {
        "path": [f"/v/{row}.mp4" for row in range(rows)],
        "labels": pa.array(lists, pa.list_(pa.int32())),
        "start": pa.nulls(rows, pa.float64()),
        "end": pa.nulls(rows, pa.float64()),
        "source": [f"s{source}" for source in rng.integers(sources, size=rows)],
    }
    return Manifest(tuple("ABCDEFGHIJ"[:classes]), pa.table(columns))


# --- tables -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "name"), [(CSV, "clips.csv"), (JSONL, "clips.jsonl")])
def test_no_class_differs_from_no_label(tmp_path: Path, text: str, name: str) -> None:
    manifest = read(tmp_path, text, name)
    assert manifest.targets == "multi"
    assert manifest.classes == ("jump", "run", "swim")
    assert names(manifest) == NAMES
    assert [entry.label for entry in manifest] == [None] * 4
    assert manifest[0].labels == (0, 1)  # in the order of the classes, however they were written
    assert manifest.labeled.tolist() == [True, True, False, True]
    assert manifest.class_counts() == {"jump": 1, "run": 1, "swim": 1}
    assert manifest.multi_hot().tolist() == [[1, 1, 0], [0, 0, 0], [-1, -1, -1], [0, 0, 1]]
    with pytest.raises(ManifestError, match="several labels each"):
        _ = manifest.labels


def test_one_label_a_video_stays_one(tmp_path: Path) -> None:
    manifest = read(tmp_path, "path,label\na.mp4,run|jump\nb.mp4,x\nc.mp4,\n")
    assert (manifest.targets, manifest.classes) == ("single", ("run|jump", "x"))
    assert [entry.labels for entry in manifest] == [None] * 3
    assert manifest.labeled.tolist() == [True, True, False]
    assert manifest.multi_hot().tolist() == [[1, 0], [0, 1], [-1, -1]]
    rows, labels = manifest.label_pairs()
    assert (rows.tolist(), labels.tolist()) == ([0, 1, 2], [0, 1, -1])
    assert read(tmp_path, '{"path": "a", "labels": null}\n', "a.jsonl").targets == "single"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,label,labels\na.mp4,x,y\n", "has both label and labels"),
        ("path,labels\na.mp4,x||y\n", "line 2: a class name is empty"),
        ("path,labels\na.mp4,x| |y\n", "line 2: a class name is empty"),
        ("path,labels\na.mp4,|x\nb.mp4,x|\n", "lines 2 and 3: a class name is empty"),
        ("path,labels\na.mp4,||\n", "line 2: a class name is empty"),
        ("path,labels\na.mp4,x\nb.mp4,x |y\n", "line 3: a class name has leading or trailing spaces"),
        ("path,labels\nb.mp4,x| y\n", "line 2: a class name has leading or trailing spaces"),
        ("path,labels\na.mp4,x|y\nb.mp4,x|y|x\n", "line 3: a class is named twice"),
        ("path,labels\na.mp4,e\u0301|\u00e9\n", "line 2: a class is named twice"),
        ("path,labels\na.mp4,x|y\na.mp4,x\n", r"lines 2 and 3: .*contradicting labels: 'x\|y', 'x'"),
        ("path,labels\na.mp4,x|y\na.mp4,x|y\n", "lines 2 and 3: .*more than once"),
    ],
)
def test_csv_mistakes_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ManifestError, match=says) as error:
        read(tmp_path, text)
    assert str(tmp_path / "clips.csv") in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"path": "a", "labels": "x"}\n', "line 1: labels is 'x'; it must be a list of class names"),
        ('{"path": "a", "labels": ["x", 3]}\n', "line 1: labels is .*must be a list of class names"),
        (
            '{"path": "a"}\n{"path": "b", "labels": ["x|y"]}\n',
            "line 2: labels contains a null, or a name with",
        ),
        ('{"path": "a", "labels": [null]}\n', "line 1: labels (is|holds)"),
        ('{"path": "a", "labels": ["x", ""]}\n', "line 1: a class name is empty"),
        ('{"path": "a", "labels": [""]}\n', "line 1: labels is blank"),
        ('{"path": "a", "labels": ["x", "x"]}\n', "line 1: a class is named twice"),
        ('{"path": "a", "labels": ["x"]}\n{"path": "b", "label": "x"}\n', "has both label and labels"),
    ],
)
def test_jsonl_mistakes_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        read(tmp_path, text, "clips.jsonl")


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        ([[0, 3]], "labels run from 0 to 3, but there are only 3 classes"),
        ([[-1]], "labels run from -1"),
        ([[0], [2, 1, 2]], "row 1 has a label twice"),
        ([[0, None]], "contains a null"),
    ],
)
def test_a_table_that_cannot_be(lists: list[list[int | None]], says: str) -> None:
    count = len(lists)
    columns = {
        "path": ["a"] * count,
        "labels": lists,
        "start": pa.nulls(count, pa.float64()),
        "end": pa.nulls(count, pa.float64()),
        "source": ["a"] * count,
    }
    with pytest.raises(ManifestError, match=says):
        Manifest(("x", "y", "z"), pa.table(columns))


def test_a_name_that_no_table_could_hold() -> None:
    manifest = random_manifest(0, classes=2)
    with pytest.raises(ManifestError, match=r"class name 'A\|B' contains \|"):
        manifest.with_classes(("A", "B", "A|B"))


def test_written_labels_read_back(tmp_path: Path) -> None:
    manifest = random_manifest(0).with_classes(("Ü, x", *"FEDCBA"))
    manifest.write_csv(tmp_path / "out.csv")
    again = Manifest.from_csv(tmp_path / "out.csv")
    assert names(again) == names(manifest)
    assert again.with_classes(manifest.classes) == manifest
    assert pickle.loads(pickle.dumps(manifest)) == manifest


def test_text_and_lists_of_slices() -> None:
    text = pa.array(["x", "a|b", "|", None, "c"])[1:]
    lists = split_names(text)
    assert lists.to_pylist() == [["a", "b"], [], None, ["c"]]
    assert join_names(lists[1:]).to_pylist() == ["|", None, "c"]


def test_a_list_of_youtube_videos(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids = [letter * 11 for letter in "abcd"]
    cells = ["run|jump", "|", "", "swim"]
    lines = [f"{cell},{video},10,20" for cell, video in zip(cells, ids, strict=True)]
    file = tmp_path / "k400_train.csv"  # its published list has one label per video, so it does not match
    file.write_text("\n".join(["labels,youtube_id,time_start,time_end", *lines]) + "\n")
    for video in ids[:3]:
        (tmp_path / f"{video}_000010_000020.mp4").touch()
    manifest = open_manifest(str(file), root=str(tmp_path))
    assert names(manifest) == NAMES[:3]
    assert manifest.classes == ("jump", "run")  # of those that are there
    assert manifest.missing == {"(of several labels)": 1}
    assert [entry.source for entry in manifest] == ids[:3]
    assert "3 of 4 listed videos, 2 of 3 classes" in caplog.text
    assert "published" not in caplog.text
    file.write_text(f"labels,label,youtube_id\nx,x,{ids[0]}\n")
    with pytest.raises(ManifestError, match="has both label and labels"):
        open_manifest(str(file), root=str(tmp_path))
    file.write_text(f"labels,youtube_id\nx|x,{ids[0]}\n")
    with pytest.raises(ManifestError, match="line 2: a class is named twice"):
        open_manifest(str(file), root=str(tmp_path))


# --- rows and classes -------------------------------------------------------------------------------------


def test_rows_and_classes_go_by_name(tmp_path: Path) -> None:
    manifest = read(tmp_path)
    assert names(manifest.select([3, 0, 1])) == [NAMES[3], NAMES[0], NAMES[1]]
    renamed = manifest.with_classes(("swim", "run", "none", "jump"))
    assert names(renamed) == NAMES
    assert renamed[0].labels == (1, 3)
    with pytest.raises(ManifestError, match=r"the class 'run' is not a class of the model \(jump, swim\)"):
        manifest.with_classes(("jump", "swim"))
    plain = manifest.without_labels()
    assert (plain.targets, plain.classes, plain.labels.tolist()) == ("single", (), [-1] * 4)


def test_counts_are_those_of_a_loop() -> None:
    manifest = random_manifest(1)
    hot = manifest.multi_hot()
    counts = dict.fromkeys(manifest.classes, 0)
    for row, entry in enumerate(manifest):
        for label in entry.labels or ():
            counts[manifest.classes[label]] += 1
        want = [-1] * 6 if entry.labels is None else [int(k in entry.labels) for k in range(6)]
        assert hot[row].tolist() == want
    assert manifest.class_counts() == counts


# --- parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_split_keeps_sources_whole_and_each_class_near_its_share(seed: int) -> None:
    manifest = random_manifest(seed, sources=60)
    rest, held = manifest.split_by_source(0.25, seed=seed)
    assert len(rest) + len(held) == 300
    assert not set(rest.sources()) & set(held.sources())
    counts, shares = manifest.class_counts(), held.class_counts()
    for name, count in counts.items():
        assert abs(shares[name] - 0.25 * count) <= max(2, 0.1 * count), name
    assert abs(len(held) - 75) <= 15
    order = np.random.default_rng(seed).permutation(300)
    _, mixed = manifest.select(order).split_by_source(0.25, seed=seed)
    assert {entry.path for entry in mixed} == {entry.path for entry in held}


def test_a_class_of_one_source_stays_in_training_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "".join(f"{i}.mp4,common{'|rare' if i == 3 else ''}\n" for i in range(10))
    rest, held = read(tmp_path, f"path,labels\n{rows}").split_by_source(0.3, seed=0)
    assert (rest.class_counts()["rare"], held.class_counts()["rare"]) == (1, 0)
    assert "the held-out part has no 'rare'" in caplog.text


def test_one_source_cannot_be_divided(tmp_path: Path) -> None:
    manifest = read(tmp_path, "path,labels,source\na.mp4,x,s\nb.mp4,x|y,s\n")
    with pytest.raises(
        ManifestError, match=r"class 'x' \(like 1 more\) has videos of one group only \('s'\)"
    ):
        manifest.split_by_source(0.5, seed=0)


@pytest.mark.parametrize("seed", range(3))
def test_a_smaller_share_of_labels_is_part_of_a_larger_one(seed: int) -> None:
    manifest = random_manifest(seed, sources=150)
    before: set[Path] = set()
    for fraction in (0.02, 0.1, 0.5, 1.0):
        part = manifest.label_subset(fraction, seed=seed)
        paths = {entry.path for entry in part}
        assert before <= paths
        before = paths
        assert all(part.class_counts().values())
        assert not set(part.sources()) & {entry.source for entry in manifest if entry.path not in paths}
        if fraction >= 0.1:  # below, the classes that would have none bring more
            assert abs(len(part) - fraction * 300) <= 6
    other = manifest.label_subset(0.1, seed=seed + 1)
    assert {entry.path for entry in other} != {entry.path for entry in manifest.label_subset(0.1, seed=seed)}


def test_mixed_kinds_of_labels_are_refused(tmp_path: Path) -> None:
    several, one = read(tmp_path), read(tmp_path, "path,label\na.mp4,x\n", "one.csv")
    refuse_other_targets(several, "multi", name="a", other="b")
    refuse_other_targets(one.without_labels(), "multi", name="a", other="b")
    with pytest.raises(ManifestError, match=r"a has several labels .*, but b is for one label"):
        refuse_other_targets(several, "single", name="a", other="b")
    with pytest.raises(ManifestError, match=r"a has one label .*, but b is for several labels"):
        refuse_other_targets(one, "multi", name="a", other="b")


# --- files ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four gray videos, and lists of them with several labels each."""
    root = tmp_path_factory.mktemp("films")
    for number, name in enumerate("abcd"):
        write_video(root / f"{name}.mp4", torch.full((6, 3, 32, 40), 40 * number, dtype=torch.uint8))
    (root / "clips.csv").write_text(CSV)
    return root


def test_an_index_carries_them(films: Path, tmp_path: Path) -> None:
    manifest = Manifest.from_csv(films / "clips.csv")
    out = tmp_path / "index.parquet"
    index_videos(manifest, out, workers=1)
    assert Manifest.from_index(out) == manifest
    table = pyarrow.parquet.read_table(out)
    assert [row and set(row) for row in table["labels"].to_pylist()] == [{"jump", "run"}, [], None, {"swim"}]
    assert table["label"].null_count == 4

    # An index from before there was such a column is read, and completed.
    old = tmp_path / "old.parquet"
    pyarrow.parquet.write_table(table.drop(["labels"]), old)
    assert Manifest.from_index(old) == manifest.without_labels()
    facts = VideoIndex.read(old).facts(films / "a.mp4")
    assert facts is not None
    assert len(facts.table.pts) == 6
    assert index_videos(manifest, old, workers=1).examined == 0
    assert Manifest.from_index(old) == manifest


def test_a_list_is_counted_and_shown(films: Path, tmp_path: Path) -> None:
    manifest = Manifest.from_csv(films / "clips.csv")
    summary = summarize(manifest)
    assert (summary.videos, summary.unlabeled, summary.none) == (4, 1, 1)
    assert summary.classes == {"jump": 1, "run": 1, "swim": 1}
    page = write_page(tmp_path / "page.html", {"clips": manifest}).read_text(encoding="utf-8")
    for title in ("jump", "run", "swim", "without a label", "no class applies"):
        assert page.count(f">{title}") >= 1, title
    assert page.count("jump, run · group s") == 2  # once below each of its classes


def test_clips_bring_their_labels(films: Path) -> None:
    manifest = Manifest.from_csv(films / "clips.csv")
    spec = ClipSpec(num_frames=4, stride=1, size=32, resize=32)
    store = FrameStore(spec)
    clips = TrainClips(manifest, spec, store=store, augment=AugmentConfig(), seed=0)
    batch = collate([Failed("x", "y", 9), *(clips[SampleKey(0, row)] for row in (3, 0, 1))])
    assert batch.labels.dtype == torch.float32
    assert batch.labels.tolist() == [[0, 0, 1], [1, 1, 0], [0, 0, 0]]
    streamed = collate(list(VideoClips(manifest, spec, store=store)))
    assert streamed.labels[[0, 1, 3]].tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert streamed.labels[2].isnan().all()


def test_json_names_what_csv_names(tmp_path: Path) -> None:
    manifest = random_manifest(4, rows=50)
    lines = [
        json.dumps(
            {
                "path": str(entry.path),
                "source": entry.source,
                "labels": None if several is None else sorted(several),
            }
        )
        for entry, several in zip(manifest, names(manifest), strict=True)
    ]
    again = read(tmp_path, "\n".join(lines), "again.jsonl")
    assert names(again) == names(manifest)
