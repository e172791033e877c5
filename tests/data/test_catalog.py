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
