from __future__ import annotations

import json
from pathlib import Path

import pytest

from t3d.cli.main import main
from t3d.data.catalog import open_manifest, open_videos
from t3d.data.manifest.manifest import Manifest
from t3d.data.moved import find_missing, with_found
from t3d.errors import ManifestError

CLIPS = [f"{name}/{number}.mp4" for name in ("jump", "run") for number in range(1, 4)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """`videos` with clips of two classes, an empty folder for lists, and a folder with other files."""
    for clip in CLIPS:
        path = tmp_path / "data/videos" / clip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(clip.encode())
    (tmp_path / "data/lists").mkdir()
    (tmp_path / "data/backup").mkdir()
    (tmp_path / "data/backup/1.mp4").touch()  # one name of many, somewhere else
    return tmp_path / "data"


def listed(table: Path, paths: list[str]) -> Path:
    table.write_text("path,label\n" + "".join(f"{path},{CLIPS[i][:3]}\n" for i, path in enumerate(paths)))
    return table


CASES = {
    "absolute": ("list.csv", "/old/disk/{}", "/old/disk", "videos", False),
    "windows": ("list.csv", "C:\\Users\\me\\{}", "C:\\Users\\me", "videos", False),
    "folder above": ("lists/list.csv", "videos/{}", "{base}/lists", "", True),
    "folder beside": ("lists/list.csv", "{}", "{base}/lists", "videos", True),
}


@pytest.mark.parametrize("case", CASES)
def test_moved_files_are_found(case: str, home: Path) -> None:
    name, form, old, new, root = CASES[case]
    paths = [form.format(clip) for clip in CLIPS]
    if "\\" in form:
        paths = [path.replace("/", "\\") for path in paths]
    table = listed(home / name, paths)
    videos = Manifest.from_csv(table)
    missing = find_missing(videos, list_folder=str(table.parent))
    assert missing is not None
    assert (len(missing.paths), missing.files, missing.count) == (6, 6, 6)
    assert missing.old == old.format(base=home)
    assert missing.new == str(home / new)
    assert missing.root is root
    fixed = with_found(videos, missing)
    assert fixed.table["path"].to_pylist() == [str(home / "videos" / clip) for clip in CLIPS]
    assert fixed.labels.tolist() == videos.labels.tolist()
    assert len(fixed.sources()) == 6
    if root:
        assert Manifest.from_csv(table, root=missing.new).table["path"] == fixed.table["path"]


def test_backslashes_of_a_windows_list_are_read_as_slashes(home: Path) -> None:
    table = listed(home / "list.csv", [f"videos/{clip}".replace("/", "\\") for clip in CLIPS])
    assert find_missing(Manifest.from_csv(table), list_folder=str(home)) is None


def test_a_list_whose_files_exist_is_fine(home: Path) -> None:
    table = listed(home / "list.csv", [f"videos/{clip}" for clip in CLIPS])
    assert find_missing(Manifest.from_csv(table), list_folder=str(home)) is None


def test_some_missing_files_are_found_and_others_are_not(home: Path) -> None:
    paths = ["videos/jump/1.mp4", "/old/jump/2.mp4", "/old/run/1.mp4", "/old/run/gone.mp4"]
    videos = Manifest.from_csv(listed(home / "list.csv", paths))
    missing = find_missing(videos, list_folder=str(home))
    assert missing is not None
    assert missing.paths == ("/old/jump/2.mp4", "/old/run/1.mp4", "/old/run/gone.mp4")
    assert (missing.files, missing.count, missing.old, missing.new) == (4, 2, "/old", str(home / "videos"))
    fixed = with_found(videos, missing).table["path"].to_pylist()
    assert fixed == [
        *(str(home / "videos" / clip) for clip in ("jump/1.mp4", "jump/2.mp4", "run/1.mp4")),
        "/old/run/gone.mp4",
    ]


def test_a_few_equal_file_names_prove_nothing(home: Path) -> None:
    paths = ["/old/elsewhere/1.mp4", *(f"/old/elsewhere/other{number}.mp4" for number in range(5))]
    missing = find_missing(Manifest.from_csv(listed(home / "list.csv", paths)), list_folder=str(home))
    assert missing is not None
    assert (missing.new, missing.count) == (None, 0)


def test_the_root_is_searched(home: Path, tmp_path: Path) -> None:
    (tmp_path / "far/away").mkdir(parents=True)
    table = listed(tmp_path / "far/away/list.csv", [f"/old/{clip}" for clip in CLIPS])
    videos = Manifest.from_csv(table)
    missing = find_missing(videos, list_folder=str(table.parent))
    assert missing is not None
    assert (missing.new, missing.count) == (None, 0)
    assert "no files of these names are below" in str(missing)
    missing = find_missing(videos, list_folder=str(table.parent), root=str(home))
    assert missing is not None
    assert (missing.new, missing.count) == (str(home / "videos"), 6)


def test_a_search_ends(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t3d.data.moved._SEARCHED", 3)
    videos = Manifest.from_csv(listed(home / "list.csv", [f"/old/{clip}" for clip in CLIPS]))
    missing = find_missing(videos, list_folder=str(home))
    assert missing is not None
    assert missing.count == 0


def test_groups_of_a_corrected_list_are_those_of_its_column(home: Path) -> None:
    table = home / "list.csv"
    table.write_text("path,source\n/old/jump/1.mp4,tape\n/old/jump/2.mp4,tape\n/old/run/1.mp4,\n")
    videos = Manifest.from_csv(table)
    missing = find_missing(videos, list_folder=str(home))
    assert missing is not None
    sources = with_found(videos, missing).table["source"].to_pylist()
    assert sources == ["tape", "tape", str(home / "videos/run/1")]


# --- runs and the command ---------------------------------------------------------------------------------


def test_a_run_is_refused_before_it_starts(home: Path) -> None:
    table = listed(home / "list.csv", [f"/old/{clip}" for clip in CLIPS])
    assert len(open_manifest(str(table))) == 6
    with pytest.raises(ManifestError) as error:
        open_videos(str(table))
    assert str(error.value) == (
        f"{table}: 6 of 6 files are missing, first /old/jump/1.mp4; 6 of them are below {home}/videos, where "
        f"the list has /old. `t3d data check {table}` can write a corrected list"
    )
    for path, hint in (
        ("none/0.mp4", "If they moved, give their folder as `root`"),
        ("/old/0.mp4", "Correct the paths in the list"),
    ):
        listed(table, [path])
        with pytest.raises(ManifestError) as error:
            open_videos(str(table))
        assert "no files of these names are below" in str(error.value)
        assert str(error.value).endswith(f". {hint}")
    listed(table, ["videos/jump/1.mp4", *(f"/old/{clip}" for clip in CLIPS[1:])])
    assert len(open_videos(str(table))) == 6  # one exists: the run says which it cannot read


@pytest.mark.parametrize("command", ["train", "test", "probe", "transfer"])
def test_every_run_refuses_a_list_of_missing_files(
    command: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = str(listed(home / "list.csv", [f"/old/{clip}" for clip in CLIPS]))
    out = ["--out", str(tmp_path / "out")]
    if command == "test":
        from t3d.card import ModelCard
        from t3d.clip import ClipSpec
        from t3d.models.registry import create_model
        from t3d.models.weights import save_model

        model = tmp_path / "weights.safetensors"
        card = ModelCard("t3d_tiny", {}, classes=("jum", "run"), clip=ClipSpec(num_frames=4, size=16))
        save_model(create_model("t3d_tiny", num_classes=2), model, card=card)
        words = ["test", str(model), table]
    elif command == "probe":
        words = ["probe", table, table, "--teacher", "efficientnet_lite0"]
    else:
        words = [command, "--videos", table, *out]
        words += ["--teacher", "efficientnet_lite0"] if command == "transfer" else []
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"6 of 6 files are missing, first /old/jump/1.mp4; 6 of them are below {home}/videos" in error


def test_check_reports_missing_files_and_corrects_the_list(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = str(listed(home / "list.csv", [f"/old/{clip}" for clip in CLIPS]))
    assert main(["data", "check", table]) == 1
    output = capsys.readouterr().out
    assert "6 files are missing:\n  /old/jump/1.mp4\n" in output
    assert output.endswith(
        f"  6 of them are below {home}/videos\n"
        "  The list has /old instead\n"
        "  Write a corrected list with --write-fixed FILE.csv\n"
    )
    fixed = str(home / "fixed.csv")
    assert main(["data", "check", table, "--write-fixed", fixed, "--json"]) == 0
    output, errors = capsys.readouterr()
    assert errors == f"Wrote {fixed}: 6 paths corrected; all its files exist\n"
    report = json.loads(output)["lists"][table]["missing_files"]
    assert (report["old"], report["new"], report["count"]) == ("/old", f"{home}/videos", 6)
    assert main(["data", "check", fixed]) == 0
    assert "files are missing" not in capsys.readouterr().out
    assert Path(fixed).read_text().splitlines()[1].startswith('"videos/jump/1.mp4","jum"')
    assert main(["data", "check", table, "--write-fixed", fixed]) == 2
    assert "already exists" in capsys.readouterr().err
    assert main(["data", "check", fixed, "--write-fixed", str(home / "other.csv")]) == 2
    assert "is not written: no file is missing" in capsys.readouterr().err
    assert main(["data", "check", table, fixed, "--write-fixed", str(home / "other.csv")]) == 2
    assert "--write-fixed corrects one list; got 2 lists" in capsys.readouterr().err


def test_check_proposes_a_root_for_relative_paths(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = str(listed(home / "lists/list.csv", CLIPS))
    assert main(["data", "check", table]) == 1
    assert f"if its paths are relative, use --root {home}/videos" in capsys.readouterr().out
    assert main(["data", "check", table, "--root", f"{home}/videos"]) == 0


def test_a_corrected_list_reports_what_remains(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = str(listed(home / "list.csv", ["/old/jump/1.mp4", "/old/jump/2.mp4", "/old/jump/gone.mp4"]))
    fixed = str(home / "fixed.csv")
    assert main(["data", "check", table, "--write-fixed", fixed]) == 1
    output, errors = capsys.readouterr()
    assert errors == (
        f"Wrote {fixed}: 2 paths corrected; 1 file is still missing, first /old/jump/gone.mp4\n"
    )
    assert "2 of them are below" in output
    assert "--write-fixed" not in output  # it was just given


@pytest.mark.parametrize("folder", ["/", "{home}/..", "{home}/../.."])
def test_whole_disks_are_not_searched(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "homes/me"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("os.walk", lambda top: pytest.fail(f"searched {top}"))
    table = listed(tmp_path / "list.csv", [f"/old/{clip}" for clip in CLIPS])
    where = folder.format(home=home)
    missing = find_missing(Manifest.from_csv(table), list_folder=where)
    assert missing is not None
    assert (missing.searched, missing.new) == ((), None)
    assert str(missing) == "6 of 6 files are missing, first /old/jump/1.mp4"


def test_mounted_disks_are_not_searched(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = Manifest.from_csv(listed(home / "list.csv", [f"/old/{clip}" for clip in CLIPS]))
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) in (home.parent, home / "videos"))
    missing = find_missing(videos, list_folder=str(home))
    assert missing is not None
    assert (missing.searched, missing.new) == ((str(home),), None)


def test_split_refuses_a_list_of_missing_files(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = str(listed(home / "list.csv", [f"/old/{clip}" for clip in CLIPS]))
    out = home / "out"
    assert main(["data", "split", table, "--out", str(out)]) == 2
    assert f"6 of 6 files are missing, first /old/jump/1.mp4; 6 of them are below {home}/videos" in (
        capsys.readouterr().err
    )
    assert not out.exists()
    listed(home / "list.csv", [*(f"videos/{clip}" for clip in CLIPS[1:]), "/old/run/4.mp4"])
    assert main(["data", "split", table, "--out", str(out)]) == 2
    assert "1 of 6 files is missing" in capsys.readouterr().err
