"""A URL where a file or folder is expected is refused by one sentence with the URL as it was given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import t3d
from t3d.cli.main import main
from t3d.data.catalog import open_index, open_manifest
from t3d.data.manifest.manifest import Manifest
from t3d.errors import CheckpointError, ConfigError, ManifestError, T3DError
from t3d.io.files import writable_folder
from t3d.models.convert import import_torch_file
from t3d.models.weights import load_backbone, load_model, read_tensors
from t3d.models.weights_header import read_card
from t3d.transfer.teachers.open import open_teacher

URL = "https://example.org/sets/a"
SENTENCE = "this is a URL; download it first with `t3d prepare download`"


@pytest.mark.parametrize(
    ("opened", "call", "error"),
    [
        ("a", Manifest.from_folder, ManifestError),
        ("a.csv", open_manifest, ManifestError),
        ("a", open_manifest, ManifestError),
        ("a.parquet", open_index, ManifestError),
        ("a.safetensors", load_model, CheckpointError),
        ("a.safetensors", read_card, CheckpointError),
        ("a.safetensors", read_tensors, CheckpointError),
        ("a.safetensors", lambda name: load_backbone(t3d.create_model("t3d_tiny"), name), CheckpointError),
        ("a.safetensors", t3d.Predictor, CheckpointError),
        ("a.pth", import_torch_file, CheckpointError),
        ("a.onnx", open_teacher, CheckpointError),
        ("a.safetensors", open_teacher, CheckpointError),
        ("w.safetensors", lambda name: open_teacher("resnet18", weights=name), CheckpointError),
        ("out", lambda name: writable_folder(name, name="out"), ConfigError),
    ],
)
def test_a_url_is_refused_as_it_was_given(
    opened: str, call: Callable[[str], object], error: type[T3DError]
) -> None:
    name = f"{URL}/{opened}"
    with pytest.raises(error) as caught:
        call(name)
    assert str(caught.value).startswith(f"{name}: {SENTENCE}")


def test_a_url_of_another_kind_in_a_table_is_refused_with_its_line(tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("path,label\na.mp4,run\nrtsp://example.org/b.mp4,run\n")
    with pytest.raises(ManifestError, match=r"list\.csv, line 3: videos are read from http://, https://, s3"):
        open_manifest(str(table))


@pytest.mark.parametrize(
    "words",
    [
        "train --videos URL --out o",
        "train --videos v --out URL",
        "train --videos v --out o --init URL.safetensors",
        "train --resume URL",
        "train --config URL.yaml",
        "transfer --videos URL --out o --teacher resnet18",
        "test URL v",
        "predict URL v.mp4",
        "probe URL URL --teacher resnet18",
        "data check URL.csv",
        "data browse URL.csv --out page.html",
        "prepare index URL --out i.parquet",
        "convert URL.pth w.safetensors --model t3d_tiny --inflate mean",
        "teacher URL --out t.safetensors",
    ],
)
def test_a_command_refuses_a_url(
    words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([word.replace("URL", URL) for word in words.split()]) == 2
    out, err = capsys.readouterr()
    assert URL in err
    assert SENTENCE in err
    assert len(err.splitlines()) <= 2
    assert out == ""
    assert list(tmp_path.iterdir()) == []
