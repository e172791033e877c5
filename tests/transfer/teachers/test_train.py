from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torchvision.transforms.v2.functional import to_pil_image

from t3d.errors import CheckpointError, ConfigError, DivergedError, ManifestError
from t3d.models.weights import read_tensors
from t3d.transfer.teachers import train
from t3d.transfer.teachers.config import TeacherTraining
from t3d.transfer.teachers.open import open_teacher
from t3d.transfer.teachers.train import train_teacher
from t3d.video.encode import write_video

Made = Callable[..., TeacherTraining]
COLORS = {"blue": (40, 60, 200), "green": (40, 200, 60), "red": (200, 60, 40)}


def noisy(color: tuple[int, int, int], count: int, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randint(-60, 61, (count, 3, 40, 48), generator=generator)
    return (torch.tensor(color).view(3, 1, 1) + noise).clamp(0, 255).byte()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per color with ten noisy images."""
    root = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for name, color in COLORS.items():
        (root / name).mkdir()
        for number, image in enumerate(noisy(color, 10, generator)):
            to_pil_image(image).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def made(images: Path, tmp_path: Path) -> Made:
    """Maker of a training of seconds."""
    base = {
        "images": str(images),
        "out": str(tmp_path / "teacher.safetensors"),
        "size": 32,
        "epochs": 3,
        "batch_size": 6,
        "workers": 0,
        "device": "cpu",
    }
    return lambda **changes: TeacherTraining(**(base | changes))


def test_a_teacher_of_images_knows_them_and_opens_by_its_file_alone(made: Made) -> None:
    torch.manual_seed(5)
    path, accuracy = train_teacher(made(epochs=6))
    assert accuracy.share > 0.7  # guessing gives a third
    teacher = open_teacher(str(path))
    assert (teacher.size, teacher.num_features) == (32, 512)
    generator = torch.Generator().manual_seed(1)
    features = {name: teacher(noisy(color, 4, generator)) for name, color in COLORS.items()}
    within = (features["red"] - features["red"].mean(0)).norm(dim=1).mean()
    between = (features["red"].mean(0) - features["blue"].mean(0)).norm()
    assert between > 2 * within
    assert open_teacher(str(path), size=48).size == 48
    with pytest.raises(ConfigError, match=r"leave teacher\.weights out"):
        open_teacher(str(path), weights=path)
    with safe_open(path, framework="pt") as file:
        assert '"classes": ["blue", "green", "red"]' in file.metadata()["t3d.teacher"]


@pytest.mark.long
def test_the_same_seed_gives_the_same_teacher(made: Made, tmp_path: Path) -> None:
    def trained(name: str, seed: int) -> dict[str, torch.Tensor]:
        config = made(out=str(tmp_path / f"{name}.safetensors"), seed=seed, epochs=1)
        return read_tensors(train_teacher(config)[0])[0]

    first, second, other = trained("a", 0), trained("b", 0), trained("c", 1)
    assert all(torch.equal(second[key], tensor) for key, tensor in first.items())
    assert any(not torch.equal(other[key], tensor) for key, tensor in first.items())


@pytest.mark.long
def test_frames_of_labeled_videos_will_do(made: Made, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for name, color in COLORS.items():
        for number in range(4):
            path = write_video(tmp_path / f"{name}{number}.mp4", noisy(color, 10, generator))
            rows.append((path, name))
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    _, accuracy = train_teacher(
        made(images=str(tmp_path / "list.csv"), frames=3, epochs=10, val_fraction=0.25)
    )
    assert accuracy.share > 0.7


def test_an_out_that_cannot_be_written_is_refused_before_an_image_is_read(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(train, "_open_images", lambda _: pytest.fail("read the images first"))
    with pytest.raises(ConfigError, match=rf"out: the folder {tmp_path}/file cannot be created"):
        train_teacher(made(out=str(tmp_path / "file" / "teacher.safetensors")))


def test_a_teacher_that_diverges_stops_and_writes_nothing(made: Made) -> None:
    config = made(lr=1e30)
    with pytest.raises(DivergedError, match=r"the training loss is .*lower `lr` \(now 1e\+30\)"):
        train_teacher(config)
    assert not Path(config.out).exists()


def test_images_that_a_teacher_cannot_learn_from(made: Made, tmp_path: Path, images: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'resnet10t'"):
        train_teacher(made(name="resnet10"))
    with pytest.raises(ConfigError, match=r"must end in \.safetensors"):
        made(out="teacher.pth")
    (tmp_path / "there.safetensors").touch()
    with pytest.raises(ConfigError, match=r"already exists; .*overwrite=True"):
        made(out=str(tmp_path / "there.safetensors"))
    with pytest.raises(ManifestError, match="no such"):
        train_teacher(made(images=str(tmp_path / "nowhere")))
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes((images / "red" / "0.png").read_bytes())
    with pytest.raises(ManifestError, match="a separate folder"):
        train_teacher(made(images=str(tmp_path / "flat")))
    for name in ("a", "b"):
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "x.png").write_bytes((images / "red" / "0.png").read_bytes())
    (tmp_path / "broken" / "b" / "y.png").write_bytes(b"no picture")
    with pytest.raises(ManifestError, match=r"y\.png: cannot be read"):
        train_teacher(made(images=str(tmp_path / "broken")))


def test_a_file_of_another_origin_is_not_accepted_as_a_teacher(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match=r"foreign\.safetensors.*not written by t3d teacher"):
        open_teacher(str(tmp_path / "foreign.safetensors"))
    with pytest.raises(CheckpointError, match="no such weights file"):
        open_teacher(str(tmp_path / "nowhere.safetensors"))
