from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from t3d.cli.main import main
from t3d.data.catalog import open_manifest, roots_of
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, ManifestError


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder per class; the readers look at names only."""
    for name in ("Jump/v_Jump_g01_c01", "Jump/v_Jump_g02_c01", "Run/v_Run_g01_c01"):
        path = tmp_path / "videos" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "videos"


def rows(manifest: Manifest) -> list[tuple[str, str | None]]:
    return sorted(
        (entry.path.name, None if entry.label is None else manifest.classes[entry.label])
        for entry in manifest
    )


ALL = [("v_Jump_g01_c01.mp4", "Jump"), ("v_Jump_g02_c01.mp4", "Jump"), ("v_Run_g01_c01.mp4", "Run")]


@pytest.mark.parametrize("kind", ["folder", "csv", "CSV", "jsonl", "txt"])
def test_every_form_gives_the_same_videos(tmp_path: Path, videos: Path, kind: str) -> None:
    listed = [(f"{label}/{name}", label) for name, label in ALL]
    text = {
        "csv": "path,label\n" + "".join(f"{path},{label}\n" for path, label in listed),
        "jsonl": "".join(json.dumps({"path": path, "label": label}) + "\n" for path, label in listed),
        "txt": "".join(path.replace(".mp4", ".avi") + "\n" for path, _ in listed),
    }
    name = videos
    if kind != "folder":
        name = tmp_path / f"list.{kind}"
        name.write_text(text[kind.lower()])
    manifest = open_manifest(str(name), root=None if kind == "folder" else str(videos))
    assert rows(manifest) == ALL
    assert manifest.classes == ("Jump", "Run")


@pytest.mark.parametrize("kind", ["txt", "jsonl", "labels", "folder"])
@pytest.mark.situation(
    "Lists and folders",
    "Class numbers, and a class file somewhere else",
    "`--classes FILE` in all commands that read labels",
)
def test_a_given_class_file_names_the_numbers_of_any_list(tmp_path: Path, kind: str) -> None:
    text = {
        "txt": "a.mp4 1\nb.mp4 0\n",
        "jsonl": '{"path": "a.mp4", "label": 1}\n{"path": "b.mp4", "label": 0}\n',
        "labels": "path,labels\na.mp4,1\nb.mp4,0\n",
    }
    for label, name in ((1, "a"), (0, "b")):
        (tmp_path / "set" / str(label)).mkdir(parents=True)
        (tmp_path / "set" / str(label) / f"{name}.mp4").touch()
    given = tmp_path / "set"
    if kind != "folder":
        given = given / f"list.{kind.replace('labels', 'csv')}"
        given.write_text(text[kind])
    (given.parent / "classes.txt").write_text("wrong\nfile\n")  # would be used without the option
    file = tmp_path / "names.txt"
    file.write_text("swim\nrun\njump\n")
    manifest = open_manifest(str(given), classes=str(file))
    assert manifest.classes == ("run", "swim")
    assert dict(zip(["a", "b"], manifest.label_column.text().to_pylist(), strict=True)) == (
        {"a": "run", "b": "swim"} if kind != "folder" else {"a": "swim", "b": "run"}
    )


def test_classes_that_have_names_keep_them_and_equal_names_become_one_class(tmp_path: Path) -> None:
    table, file = tmp_path / "list.csv", tmp_path / "names.csv"
    table.write_text("path,label\na.mp4,run\nb.mp4,jump\n")
    file.write_text("id,name\n3,run\n7,jump\n8,run\n")
    assert open_manifest(str(table), classes=str(file)).classes == ("jump", "run")
    table.write_text("path,label\na.mp4,3\nb.mp4,7\nc.mp4,8\n")
    manifest = open_manifest(str(table), classes=str(file))
    assert (manifest.classes, manifest.labels.tolist()) == (("jump", "run"), [1, 0, 1])


@pytest.mark.parametrize(
    ("labels", "content", "says"),
    [
        (
            ("0", "2"),
            "x\ny\n",
            "names classes 0 to 1, and .*list.csv has the class 2; its lines have no numbers",
        ),
        (("0", "2"), "0 x\n", "names class 0 only, and .*list.csv has the class 2$"),
        (("0", "run"), "x\ny\n", "the class 'run' is neither a number nor a name in the class file"),
        (("0", "1"), None, "the class file cannot be read .No such file"),
        (("0", "1"), "{", "is not a class file"),
    ],
)
def test_a_class_file_that_does_not_fit_is_refused(
    tmp_path: Path, labels: tuple[str, str], content: str | None, says: str
) -> None:
    table, file = tmp_path / "list.csv", tmp_path / ("names.json" if content == "{" else "names.txt")
    table.write_text("path,label\n" + "".join(f"{label}.mp4,{label}\n" for label in labels))
    if content is not None:
        file.write_text(content)
    with pytest.raises(ManifestError, match=says):
        open_manifest(str(table), classes=str(file))


def test_a_list_is_not_its_own_class_file(tmp_path: Path) -> None:
    table = tmp_path / "list.txt"
    table.write_text("a.mp4 0\nb.mp4 1\n")
    with pytest.raises(ManifestError, match="`classes` is the list itself"):
        open_manifest(str(table), classes=str(table))


def test_numbers_for_a_model_with_names_lead_to_the_class_file(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.mp4 0\nb.mp4 1\n")
    with pytest.raises(
        ManifestError, match=r"class numbers '0', '1', but .*names \(jump, run\); .*`classes`"
    ):
        open_manifest(str(tmp_path / "list.txt")).with_classes(["jump", "run"])


def test_without_videos_a_table_stands_in_its_own_folder(videos: Path) -> None:
    (videos / "list.csv").write_text("path\nJump/v_Jump_g01_c01.mp4\n")
    (entry,) = open_manifest(str(videos / "list.csv"))
    assert entry.path == videos / "Jump" / "v_Jump_g01_c01.mp4"
    assert entry.label is None


def test_a_root_for_a_folder_of_videos_is_refused(videos: Path, tmp_path: Path) -> None:
    message = f"`root` is {tmp_path}, but {videos} would not use it: the videos of a folder are found in it"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        open_manifest(str(videos), root=str(tmp_path))


def test_lists_share_a_root_that_one_of_them_uses(videos: Path, tmp_path: Path) -> None:
    table, root = str(tmp_path / "list.csv"), str(tmp_path)
    assert roots_of(root, str(videos), table) == [None, root]
    assert roots_of(None, str(videos), table) == [None, None]
    with pytest.raises(ConfigError, match=f"{re.escape(str(videos))} and {re.escape(root)} would not use it"):
        roots_of(root, str(videos), root)


@pytest.mark.parametrize(
    "words",
    [
        "train --videos VIDEOS --root ROOT --out o",
        "train --videos VIDEOS --val VIDEOS --root ROOT --out o",
        "transfer --videos VIDEOS --root ROOT --out o --teacher resnet18 --teacher.weights random",
        "data check VIDEOS --root ROOT",
        "data split VIDEOS --root ROOT --out o",
        "prepare index VIDEOS --root ROOT --out i.parquet",
        "prepare transcode VIDEOS --root ROOT --unlabeled --out o",
    ],
)
def test_a_command_never_ignores_a_root(
    videos: Path,
    tmp_path: Path,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    given = [word.replace("VIDEOS", str(videos)).replace("ROOT", str(tmp_path)) for word in words.split()]
    assert main(given) == 2
    assert f"--root is {tmp_path}, but {videos}" in capsys.readouterr().err
    assert not list((tmp_path / "work").iterdir())


def test_a_split_list_needs_the_folder_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "trainlist01.txt").write_text("Jump/v_Jump_g01_c01.avi\n")
    with pytest.raises(ManifestError, match=r"give their folder as `root`"):
        open_manifest(str(tmp_path / "trainlist01.txt"))


def test_a_source_pattern_serves_for_a_folder(videos: Path) -> None:
    assert open_manifest(str(videos), source_pattern=r"_(g\d+)_").sources() == ["g01", "g02"]


@pytest.mark.parametrize("kind", ["txt", "hmdb51", "kinetics"])
def test_official_lists_give_their_videos(tmp_path: Path, kind: str) -> None:
    name, text, clips = {
        "txt": ("/trainlist01.txt", "Jump/v_Jump_g01_c01.avi\n", ["v_Jump_g01_c01"]),
        "hmdb51": (":train1", "A_B_Jump_f_cm_np1_fr_med_0.avi 1 \n", ["A_B_Jump_f_cm_np1_fr_med_0"]),
        "kinetics": (
            "/train.csv",
            "label,youtube_id,time_start,time_end,split\nJump,-aaaaaaaaa_,3,13,train\n",
            ["-aaaaaaaaa__000003_000013"],
        ),
    }[kind]
    for clip in clips:
        (tmp_path / "videos").mkdir(exist_ok=True)
        (tmp_path / "videos" / f"{clip}.mp4").touch()
    (tmp_path / (name[1:] if name[0] == "/" else "Jump_test_split1.txt")).write_text(text)
    manifest = open_manifest(f"{tmp_path}{name}", root=str(tmp_path / "videos"))
    assert rows(manifest) == [(f"{clip}.mp4", "Jump") for clip in clips]
    with pytest.raises(ManifestError, match=r"give their folder as `root`"):
        open_manifest(f"{tmp_path}{name}")

    patterned = open_manifest(f"{tmp_path}{name}", root=str(tmp_path / "videos"), source_pattern="^(Jump/.)")
    assert patterned.sources() == [f"Jump/{clips[0][0]}"]


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_a_source_pattern_is_never_ignored(tmp_path: Path, videos: Path, name: str) -> None:
    (tmp_path / name).write_text("whatever")
    with pytest.raises(ConfigError, match=r"source_pattern is for a folder or an official list"):
        open_manifest(str(tmp_path / name), root=str(videos), source_pattern="(x)")


def test_a_single_video_is_not_a_list(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(
        ManifestError, match=r"a\.mp4: a single video; give a folder of class folders, a table"
    ):
        open_manifest(str(tmp_path / "a.mp4"))


def test_missing_and_unknown_lists_are_errors(tmp_path: Path) -> None:
    (tmp_path / "list.xlsx").touch()
    with pytest.raises(ManifestError, match=r"absent\.csv: no such file or folder"):
        open_manifest(str(tmp_path / "absent.csv"))
    with pytest.raises(
        ManifestError,
        match=r"ending is '\.xlsx'; use \.csv, \.tsv, \.txt, .* \(a table\), \.jsonl, \.parquet",
    ):
        open_manifest(str(tmp_path / "list.xlsx"))
