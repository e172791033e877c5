from __future__ import annotations

from pathlib import Path

import pytest

from t3d.data.manifest.manifest import Manifest
from t3d.errors import ManifestError


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("filename,class", "rename 'filename' to 'path' and 'class' to 'label'"),
        ("File Name,Category", "rename 'File Name' to 'path' and 'Category' to 'label'"),
        (
            "videoPath,target,group",
            "rename 'videoPath' to 'path' and 'target' to 'label' and 'group' to 'source'",
        ),
        ("path,action,fps", "rename 'action' to 'label', and remove 'fps'"),
        (" path,label", "rename ' path' to 'path'"),
        ("Path,Label", "rename 'Path' to 'path' and 'Label' to 'label'"),
        (
            "clip,tags,t_start,t_end",
            "rename 'clip' to 'path' and 'tags' to 'labels' and 't_start' to 'start'",
        ),
        ("path;label", "columns must be separated by commas, not by semicolons"),
        ("path\tlabel", "columns must be separated by commas, not by tabs"),
        (
            "jump/a.mp4,jump",
            "line 1 looks like a row, so the names are missing; add a first line such as path,label",
        ),
        ("path,lable", "did you mean 'label'"),
        ("path,fps", "known: end, label"),
        ("filename,path,label", "; remove 'filename'"),
        ("class,video,path,fps", "rename 'class' to 'label', and remove 'video', 'fps'"),
    ],
)
def test_the_columns_to_rename_are_named(header: str, hint: str, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text(f"{header}\n" + ",".join(["a"] * (header.count(",") + 1)) + "\n")
    with pytest.raises(ManifestError) as error:
        Manifest.from_csv(table)
    assert f"{table}, line 1: unknown column" in str(error.value)
    assert hint in str(error.value)


def test_one_column_is_not_two(tmp_path: Path) -> None:
    """Two names for the path: one is renamed, the other must go."""
    table = tmp_path / "list.csv"
    table.write_text("filename,video_id,label\na.mp4,7,jump\n")
    with pytest.raises(ManifestError, match=r"rename 'filename' to 'path', and remove 'video_id'"):
        Manifest.from_csv(table)


def test_fields_of_json_lines_too(tmp_path: Path) -> None:
    table = tmp_path / "list.jsonl"
    table.write_text('{"filename": "a.mp4", "class": "jump"}\n')
    with pytest.raises(ManifestError, match=r"line 1: unknown field 'filename'; rename 'filename' to 'path'"):
        Manifest.from_jsonl(table)
