import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from t3d.data.listing import OTHER_ENDINGS, VIDEO_ENDINGS, is_video
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ManifestError
from t3d.video.encode import write_video


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def small(**columns):
    base = {
        "path": ["/v/a.mp4", "/v/b.mp4", "/v/c.mp4", "/v/d.mp4"],
        "label": [1, 0, None, 1],
        "start": [None, 0.5, None, None],
        "end": [None, 2.5, None, None],
        "source": ["x", "y", "x", "z"],
    }
    return pa.table({**base, **columns})


# --- from_folder -----------------------------------------------------------------------------------------


def slow_folder(root):
    """Read a folder per class by os.walk, file by file."""
    videos = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in files:
            if not file.startswith(".") and Path(file).suffix.lower() in VIDEO_ENDINGS:
                path = Path(folder) / file
                videos.append((str(path), path.relative_to(root).parts[0]))
    return sorted(videos)


def test_folder_per_class(tmp_path):
    touch(
        tmp_path,
        *(
            "jump/b.MP4",
            "jump/a 1.mp4",
            "jump/deep/er/c.WebM",
            "Tai Chi/x.avi",
            "прыжок/клип.mkv",
            "Run/v.tar.mov",
        ),
        *(
            "Jump rope/notes.txt",
            "Jump rope/y.ts",
            "Jump rope/noending",
            "jump/.hidden.mp4",
            "jump/.git/z.mp4",
        ),
        *("README.md", ".DS_Store"),
    )
    manifest = Manifest.from_folder(tmp_path)
    assert manifest.classes == ("jump", "Jump rope", "Run", "Tai Chi", "прыжок")
    assert sorted((str(e.path), manifest.classes[e.label]) for e in manifest) == slow_folder(tmp_path)
    assert [e.path.name for e in manifest][:3] == ["a 1.mp4", "b.MP4", "c.WebM"]
    assert manifest.skipped == {"hidden": 3, ".txt": 1, "no ending": 1, ".md": 1}
    assert manifest.class_counts() == {"jump": 3, "Jump rope": 1, "Run": 1, "Tai Chi": 1, "прыжок": 1}
    assert manifest[0].source == "jump/a 1"
    assert manifest[0].start is manifest[0].end is None


def test_folder_order_does_not_depend_on_the_disk(tmp_path):
    names = [f"{c}/{i}.mp4" for c in "baC" for i in (10, 9, 1)]
    one, two = touch(tmp_path / "one", *names), touch(tmp_path / "two", *reversed(names))
    listed = [[str(e.path.relative_to(root)) for e in Manifest.from_folder(root)] for root in (one, two)]
    assert listed[0] == listed[1]


def test_folder_sources(tmp_path):
    touch(tmp_path, "Punch/v_Punch_g02_c01.mp4", "Punch/v_Punch_g02_c02.mp4", "Run/Run_3_1.mp4")
    assert Manifest.from_folder(tmp_path).sources() == ["Punch_g02", "Run/Run_3_1"]
    pattern = r"_g?(\d+)_c?\d+$"
    assert Manifest.from_folder(tmp_path, source_pattern=pattern).sources() == ["02", "3"]
    with pytest.raises(ManifestError, match=r"2 of the 3 paths.*no match in Run/Run_3_1"):
        Manifest.from_folder(tmp_path, source_pattern=r"_g(\d+)")


def test_folder_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path, "elsewhere/a.mp4", "set/Run/b.mp4")
    root = tmp_path / "set"
    (root / "Jump").symlink_to(tmp_path / "elsewhere")
    (root / "Run" / "back").symlink_to(root / "Run")
    (root / "Run" / "lost.mp4").symlink_to(tmp_path / "nowhere.mp4")
    manifest = Manifest.from_folder(root)
    assert [str(e.path) for e in manifest] == [f"{root}/Jump/a.mp4", f"{root}/Run/b.mp4"]
    assert manifest.skipped == {"folder listed before": 1, "broken link": 1}


@pytest.mark.situation(
    "Lists and folders",
    "Folders that link to each other",
    "Each folder is searched once",
)
def test_folders_linked_to_each_other_are_searched_once(tmp_path):
    touch(tmp_path, "set/Run/b.mp4", "set/Jump/sub/a.mp4")
    root = tmp_path / "set"
    for name in ("Jump", "Run"):
        for number in range(3):
            (root / name / f"0{number}").symlink_to(root)
            (root / name / f"1{number}").symlink_to(root / "Jump")
    (root / "A class").symlink_to(root / "Jump")  # would list the videos of Jump under two labels
    manifest = Manifest.from_folder(root)
    assert [str(e.path) for e in manifest] == [f"{root}/Jump/sub/a.mp4", f"{root}/Run/b.mp4"]
    assert manifest.classes == ("Jump", "Run")
    assert manifest.skipped == {"folder listed before": 13}
    assert len(Manifest.from_files([root])) == 2


def test_class_folders_linked_to_each_other_keep_their_own_videos(tmp_path):
    touch(tmp_path, "x/x.mp4", "y/y.mp4")
    for one, two in ("xy", "yx"):
        for number in range(4):
            (tmp_path / one / f"link{number}").symlink_to(tmp_path / two)
    manifest = Manifest.from_folder(tmp_path)
    assert [(e.path.name, manifest.classes[e.label]) for e in manifest] == [("x.mp4", "x"), ("y.mp4", "y")]
    assert [str(e.path) for e in Manifest.from_files([tmp_path / "x"])] == [
        f"{tmp_path}/x/link0/y.mp4",
        f"{tmp_path}/x/x.mp4",
    ]


def test_what_is_passed_over_is_said(tmp_path, caplog):
    Manifest.from_folder(touch(tmp_path, "Run/b.mp4", "Run/c.txt", "Run/d.txt", "Run/.e"))
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: passed over 2 .txt, 1 hidden"]


def test_a_folder_that_cannot_be_read_is_named_or_an_error(tmp_path, monkeypatch):
    touch(tmp_path, "a.mp4", "secret/b.mp4", "sub/c.mp4")
    scandir = os.scandir

    def refuses(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuses)
    unreadable = []
    manifest = Manifest.from_files([tmp_path], unreadable=unreadable)
    assert [e.path.name for e in manifest] == ["a.mp4", "c.mp4"]
    assert list(map(str, unreadable)) == [f"{tmp_path}/secret: cannot be listed (Permission denied)"]
    with pytest.raises(ManifestError, match=r"secret: cannot be listed \(Permission denied\)"):
        Manifest.from_files([tmp_path])
    with pytest.raises(ManifestError, match=r"secret: cannot be listed"):
        Manifest.from_files([tmp_path / "secret"], unreadable=[])


# --- files with unknown endings ----------------------------------------------------------------------------


@pytest.mark.situation(
    "Lists and folders",
    "Videos with unusual endings, or none",
    "Found by content; what is passed over is reported",
)
def test_a_file_with_an_unknown_ending_is_a_video_by_its_content(tmp_path, numbered_frames, caplog):
    touch(tmp_path, "Run/known.QT", "Run/notes.md", "Run/empty.xyz", "Run/none")
    clip = write_video(tmp_path / "clip.mp4", numbered_frames(4)).read_bytes()
    for name in ("Run/clip.xyz", "Run/clip", "Run/clip.mp4.1", "Run/clip.webp", "Jump/b.foo"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(clip)
    (tmp_path / "Run/text.xyz").write_text("#EXTM3U\nother.mp4\n")
    (tmp_path / "clip.mp4").unlink()
    manifest = Manifest.from_folder(tmp_path)
    expected = ["b.foo", "clip", "clip.mp4.1", "clip.xyz", "known.QT"]  # .webp is a picture, not opened
    assert [e.path.name for e in manifest] == expected
    assert manifest.skipped == {".md": 1, ".xyz": 2, "no ending": 1, ".webp": 1}
    assert caplog.messages == [
        f"{tmp_path}: took 1 .1, 1 .foo, 1 .xyz, 1 no ending by content; "
        "passed over 1 .md, 1 .webp, 2 .xyz, 1 no ending"
    ]
    assert len(Manifest.from_files([tmp_path])) == 5


def test_an_ending_without_any_video_is_probed_twenty_times(tmp_path, monkeypatch):
    touch(tmp_path, "Run/a.mp4", *(f"Run/{number:03}.bin" for number in range(50)), "Run/b.dat")
    probed = []
    monkeypatch.setattr("t3d.video.probe.holds_video", lambda path: bool(probed.append(path.name)))
    assert Manifest.from_folder(tmp_path).skipped == {".bin": 50, ".dat": 1}
    assert probed == [*(f"{number:03}.bin" for number in range(20)), "b.dat"]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            [".hidden/a.mp4", "notes.txt"],
            r"no class folder and no video in it \(passed over: 1 .txt, 1 hidden\)",
        ),
        (["a.mp4"], r"1 video is directly in this folder \(first 'a.mp4'\), and it has no class folders"),
        (
            ["a.mp4", "Jump/b.mp4"],
            r"1 video is directly in this folder \(first 'a.mp4'\), next to its class folders",
        ),
        (
            ["Jump/b.mp4", "Run/c.txt", "Sit/d/e.txt"],
            r"2 of 3 class folders hold no video: 'Run', 'Sit' \(passed over: 2 .txt",
        ),
        (["train/Jump/a.mp4", "Val/Jump/b.mp4"], r"'train', 'Val' look like parts of a data set.*train$"),
    ],
)
def test_folder_mistakes_are_named(tmp_path, names, says):
    with pytest.raises(ManifestError, match=says) as error:
        Manifest.from_folder(touch(tmp_path, *names))
    assert str(tmp_path) in str(error.value)


def test_folder_absent_or_a_file(tmp_path):
    with pytest.raises(ManifestError, match="cannot be listed"):
        Manifest.from_folder(tmp_path / "absent")
    with pytest.raises(ManifestError, match="cannot be listed"):
        Manifest.from_folder(touch(tmp_path, "a.mp4") / "a.mp4")


def test_classes_may_be_called_train_if_videos_are_in_them(tmp_path):
    touch(tmp_path, "train/a.mp4", "test/b.mp4")
    assert Manifest.from_folder(tmp_path).classes == ("test", "train")


def test_a_name_that_is_not_a_string(tmp_path):
    try:
        touch(tmp_path, os.fsdecode(b"Jump/\xff.mp4"))
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only UTF-8 names")
    with pytest.raises(ManifestError, match="not valid UTF-8"):
        Manifest.from_folder(tmp_path)


def test_endings():
    assert not VIDEO_ENDINGS & OTHER_ENDINGS
    assert all(is_video(f"a.b{ending.upper()}") for ending in (".mp4", ".avi", ".y4m", ".3gp", ".mjpeg"))
    assert not any(is_video(name) for name in ("mp4", "a.mp4.txt", "a.jpg", "a.", ""))


# --- from_files ------------------------------------------------------------------------------------------


def test_files_and_folders_without_labels(tmp_path, monkeypatch):
    touch(tmp_path, "set/b.mp4", "set/sub/a.mp4", "set/notes.txt", "one.dat")
    monkeypatch.chdir(tmp_path)
    manifest = Manifest.from_files(["one.dat", "set", tmp_path / "absent.mp4"])
    assert [str(e.path.relative_to(tmp_path)) for e in manifest] == [
        *("one.dat", "set/b.mp4", "set/sub/a.mp4", "absent.mp4"),
    ]
    assert manifest.table["source"].to_pylist() == ["one", "set/b", "set/sub/a", "absent"]
    assert manifest.classes == ()
    assert manifest.labels.tolist() == [-1] * 4
    assert manifest[0].label is None
    assert manifest.skipped == {".txt": 1}
    assert [e.path.is_file() for e in manifest] == [True, True, True, False]
    assert Manifest.from_files("one.dat")[0].path == tmp_path / "one.dat"


def test_files_of_one_folder_have_sources_that_move_with_it(tmp_path):
    one, two = touch(tmp_path / "one", "x/a.mp4", "b.mp4"), touch(tmp_path / "two", "x/a.mp4", "b.mp4")
    assert Manifest.from_files([one]).sources() == Manifest.from_files([two]).sources() == ["b", "x/a"]


def test_no_files(tmp_path):
    with pytest.raises(ManifestError, match="no videos given"):
        Manifest.from_files([])
    with pytest.raises(ManifestError, match=r"no video in this folder \(passed over: 1 .txt\)"):
        Manifest.from_files([touch(tmp_path, "a.txt")])


# --- the table itself ------------------------------------------------------------------------------------


def test_rows_and_their_values():
    manifest = Manifest(("Jump", "Run"), small())
    assert len(manifest) == 4
    assert [e.label for e in manifest] == [1, 0, None, 1]
    assert manifest[-1] == manifest[3]
    assert (manifest[1].start, manifest[1].end, manifest[1].source) == (0.5, 2.5, "y")
    assert manifest.labels.dtype == np.int64
    assert manifest.labels.tolist() == [1, 0, -1, 1]
    assert manifest.class_counts() == {"Jump": 1, "Run": 2}
    assert manifest.sources() == ["x", "y", "z"]
    assert repr(manifest) == "Manifest(4 videos, 2 classes, 3 sources)"
    for i in (4, -5):
        with pytest.raises(IndexError, match="4 rows"):
            manifest[i]


def test_immutable():
    manifest = Manifest(("Jump", "Run"), small())
    with pytest.raises(AttributeError):
        manifest.classes = ()
    manifest.labels[:] = 0  # a copy
    assert manifest.labels.tolist() == [1, 0, -1, 1]


@pytest.mark.parametrize(
    ("classes", "columns", "says"),
    [
        (("Jump",), {}, "labels run from 0 to 1, but there are only 1 classes"),
        (("Jump", "Jump"), {}, "class names must differ"),
        (("Jump", ""), {}, "class names must differ"),
        (("Jump", "Run"), {"path": ["a", None, "b", "c"]}, "with a path and a source in every row"),
        (("Jump", "Run"), {"frames": [1, 2, 3, 4]}, "columns are path string, label int32"),
        (("Jump", "Run"), {"start": ["a", "b", "c", "d"]}, "columns are path string"),
    ],
)
def test_a_table_that_cannot_be(classes, columns, says):
    with pytest.raises(ManifestError, match=says):
        Manifest(classes, small(**columns))


def test_select():
    manifest = Manifest(("Jump", "Run"), small())
    assert [e.path.name for e in manifest.select([3, 0, 0, -2])] == ["d.mp4", "a.mp4", "a.mp4", "c.mp4"]
    assert manifest.select(manifest.labels == 1) == manifest.select([0, 3])
    assert manifest.select([3]).classes == ("Jump", "Run")
    assert len(manifest.select([])) == 0
    with pytest.raises(IndexError):
        manifest.select([4])
    with pytest.raises(IndexError):
        manifest.select(np.array([True]))


def test_with_classes_goes_by_name():
    manifest = Manifest(("Jump", "Run"), small())
    other = manifest.with_classes(("Walk", "Run", "Sit", "Jump"))
    names = [None if e.label is None else other.classes[e.label] for e in other]
    assert names == ["Run", "Jump", None, "Run"]
    assert other.with_classes(("Jump", "Run")) == manifest
    assert manifest.select([0, 2]).with_classes(("Run",)).labels.tolist() == [0, -1]
    with pytest.raises(
        ManifestError,
        match=r"the class 'Jump' is not a class of the model \(jump, Run\); did you mean 'jump'",
    ):
        manifest.with_classes(("jump", "Run"))


def test_split_by_source_of_a_manifest(tmp_path):
    touch(
        tmp_path,
        *(
            f"{c}/v_{c}_g{g:02d}_c{i:02d}.mp4"
            for c in ("A", "B")
            for g in range(10)
            for i in range(g % 3 + 1)
        ),
    )
    manifest = Manifest.from_folder(tmp_path)
    rest, held = manifest.split_by_source(0.3, seed=1)
    assert rest.classes == held.classes == ("A", "B")
    assert not set(rest.sources()) & set(held.sources())
    paths = [[e.path for e in part] for part in (rest, held)]
    assert sorted(paths[0] + paths[1]) == sorted(e.path for e in manifest)
    assert paths[0] == sorted(paths[0])
    again = manifest.select(np.random.default_rng(0).permutation(len(manifest))).split_by_source(0.3, seed=1)
    assert again[1].sources() == held.sources()


def test_pickle_is_about_as_large_as_the_table():
    num = 200_000
    table = pa.table(
        {
            "path": [f"/videos/class {i % 400}/clip {i}.mp4" for i in range(num)],
            "label": pa.array(np.arange(num) % 400, pa.int32()),
            "start": pa.nulls(num, pa.float64()),
            "end": pa.nulls(num, pa.float64()),
            "source": [f"film {i // 10}" for i in range(num)],
        }
    )
    manifest = Manifest(tuple(f"class {i}" for i in range(400)), table)
    stored = pickle.dumps(manifest)
    assert len(stored) < 1.05 * table.nbytes
    assert len(stored) < 75 * num
    back = pickle.loads(stored)
    assert back == manifest
    assert back[199_999] == manifest[-1]
    assert len(pickle.dumps(manifest.select([5]))) < 20_000  # a part does not drag the whole along


# --- real clips ------------------------------------------------------------------------------------------


@pytest.mark.real
def test_real_folders(real_data):
    hockey = [Manifest.from_folder(real_data / "hockey_fights" / part) for part in ("train", "valid", "test")]
    assert [len(part) for part in hockey] == [800, 100, 100]
    assert hockey[0].classes == ("fight", "no_fight")
    assert hockey[0].split_by_source(0.1, seed=0)[1].class_counts() == {"fight": 40, "no_fight": 40}
    with pytest.raises(ManifestError, match="look like parts of a data set"):
        Manifest.from_folder(real_data / "hockey_fights")

    scenes = r"_(\d+)_\d+$"
    dark = Manifest.from_folder(real_data / "arid6" / "train", source_pattern=scenes)
    assert (len(dark), len(dark.sources())) == (150, 11)
    rest, held = dark.split_by_source(0.2, seed=0)
    assert min(rest.class_counts().values()) > 0
    assert min(held.class_counts().values()) > 0
    with pytest.raises(ManifestError, match=r"none of the 96 paths.*such as Jump/24"):
        Manifest.from_folder(real_data / "arid6" / "val", source_pattern=scenes)
    assert Manifest.from_folder(real_data / "arid6" / "val").classes == dark.classes
