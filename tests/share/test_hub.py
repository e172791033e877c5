"""Models from the Hub: download, cache, offline, and what a repository may contain."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import t3d
from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.errors import CheckpointError, FetchError
from t3d.io.hub import HubName, hub_name, local_folder
from t3d.models.tensor_files import write_tensors
from t3d.models.weights import load_model
from t3d.models.weights_file import weights_file
from t3d.runtime.formats import exported_format
from t3d.runtime.load import model_file, read_model_card
from t3d.training.config import ModelConfig
from t3d.training.initial import check_initial

NAME = "hf-hub:org/net"


@pytest.fixture
def files(run: Path) -> dict[str, bytes]:
    """Files of a repository with a model."""
    return {"model.safetensors": (run / "last.safetensors").read_bytes(), "config.json": b"{}"}


def test_a_model_is_downloaded_once_and_loads_offline(
    hub, files: dict[str, bytes], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put("org/net", files)
    loaded, card = t3d.load(NAME)
    assert card.classes == read_model_card(run).classes
    expected, _ = load_model(run)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    requests = len(hub.asked)
    assert model_file(NAME).read_bytes() == files["model.safetensors"]
    assert len(hub.asked) == requests  # one process asks once
    local_folder.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert read_model_card(NAME) == card
    assert len(hub.asked) == requests
    assert Path(constants.HF_HUB_CACHE) in weights_file(NAME).parents
    local_folder.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.server.shutdown()
    hub.server.server_close()
    assert read_model_card(NAME) == card  # the Hub cannot be reached


def test_weights_from_the_hub_start_a_training(hub, files: dict[str, bytes]) -> None:
    hub.put("org/net", files)
    check_initial(ModelConfig("t3d_tiny", init=NAME))
    with pytest.raises(CheckpointError, match=r"model\.init: hf-hub:org/net has the weights of t3d_tiny"):
        check_initial(ModelConfig("t3d121", init=NAME))


def test_a_revision_is_a_branch_or_a_commit(hub, files: dict[str, bytes]) -> None:
    repo = hub.put("org/net", {"README.md": b""})
    sha = repo.commit(files, branch="v1")
    assert weights_file(f"{NAME}@v1").read_bytes() == files["model.safetensors"]
    assert weights_file(f"{NAME}@{sha}").parent.name == sha
    with pytest.raises(CheckpointError, match=r"net@v2: the repository has no branch, tag or commit v2"):
        weights_file(f"{NAME}@v2")


def test_a_private_repository_needs_a_token(
    hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put("org/net", files, private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        CheckpointError, match=r"hf-hub:org/net: there is no such repository, or it is private"
    ):
        weights_file(NAME)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert weights_file(NAME).is_file()


@pytest.mark.parametrize(
    ("facts", "message"),
    [({"gated": True}, "access to this model must be requested"), (None, "there is no such repository")],
)
def test_repositories_that_may_not_be_read(hub, facts: dict[str, bool] | None, message: str) -> None:
    if facts is not None:
        hub.put("org/net", {}, **facts)
    with pytest.raises(CheckpointError, match=message) as caught:
        t3d.load(NAME)
    assert hub.token not in str(caught.value)


def test_without_network(hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(FetchError, match=r"127.0.0.1:\d+ cannot be reached .*the model is not in the cache"):
        weights_file(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FetchError, match="HF_HUB_OFFLINE is set, and the model is not in the cache"):
        weights_file(NAME)


def test_a_server_error_is_reported(hub, files: dict[str, bytes]) -> None:
    hub.put("org/net", files)
    hub.faults["/api/models/org/net"] = [500] * 50
    with pytest.raises(FetchError, match=r"answered with an error \(500\): the server has a fault"):
        weights_file(NAME)


def test_a_server_that_is_not_a_hub(hub) -> None:
    hub.faults["/api/models/org/net"] = [200] * 50  # JSON, but of another program
    with pytest.raises(FetchError, match=r"hf-hub:org/net: the transfer failed: .*check HF_ENDPOINT"):
        weights_file(NAME)


def test_a_download_that_stops_midway_is_repeated_by_the_next_call(hub, files: dict[str, bytes]) -> None:
    hub.put("org/net", files)
    hub.faults["/resolve/"] = [503] * 50
    with pytest.raises(FetchError, match="hf-hub:org/net"):
        weights_file(NAME)
    hub.faults.clear()
    assert weights_file(NAME).read_bytes() == files["model.safetensors"]


def test_a_repository_without_a_model_of_t3d(hub) -> None:
    hub.put("org/net", {"pytorch_model.bin": b"\x80\x04K\x01.", "README.md": b"", "../evil.py": b"1"})
    with pytest.raises(
        CheckpointError,
        match=r"no model of T3D .*it has pytorch_model.bin, .*pickled weights are never loaded",
    ):
        t3d.load(NAME)
    assert not [path for _, path in hub.asked if "pytorch_model" in path or "evil" in path]


def test_hostile_files_are_not_requested(hub, files: dict[str, bytes], tmp_path: Path) -> None:
    others = {
        "../../evil.safetensors": b"",
        "sub/model.safetensors": b"",
        "setup.py": b"",
        "README.md": b"x" * 1_000_000,
    }
    hub.put("org/net", files | others)
    folder = local_folder(NAME)
    assert sorted(file.name for file in folder.iterdir()) == sorted(files)
    assert not list(tmp_path.rglob("evil*"))


def test_weights_of_another_program_or_damaged(hub, tmp_path: Path) -> None:
    write_tensors({"w": torch.zeros(2)}, tmp_path / "w.safetensors", metadata={})
    hub.put("org/net", {"model.safetensors": (tmp_path / "w.safetensors").read_bytes()})
    with pytest.raises(CheckpointError, match="was not written by t3d"):
        t3d.load(NAME, runtime="torch")
    local_folder.cache_clear()
    hub.put("org/net", {"model.safetensors": b"\xff" * 100})
    with pytest.raises(CheckpointError, match="the file is damaged or incomplete"):
        t3d.load(NAME, runtime="torch")


def test_a_huge_card_is_refused(hub, tmp_path: Path) -> None:
    card = json.loads(ModelCard("t3d_tiny", classes=("a",)).to_json()) | {
        "provenance": {"x": "y" * (5 << 20)}
    }
    write_tensors({"w": torch.zeros(1)}, tmp_path / "w.safetensors", metadata={"t3d.card": json.dumps(card)})
    hub.put("org/net", {"model.safetensors": (tmp_path / "w.safetensors").read_bytes()})
    with pytest.raises(CheckpointError, match=r"the model card has 5,.* characters"):
        read_model_card(NAME)


@pytest.mark.parametrize(
    "name",
    [
        "hf-hub:",
        "hf-hub:net",
        "hf-hub:a/b/c",
        "hf-hub://org/net",
        "hf-hub:org/..",
        "hf-hub:../net",
        "hf-hub:org/net@",
        "hf-hub:org/net@../../x",
        "hf-hub:org/a--b",
        "hf-hub:org/net@\x1b[31m",
    ],
)
def test_malformed_names(hub, name: str) -> None:
    with pytest.raises(CheckpointError, match="not the name of a model on the Hub; use hf-hub:ORG") as caught:
        t3d.load(name)
    assert "\x1b" not in str(caught.value)
    assert not hub.asked


def test_names() -> None:
    assert hub_name("hf-hub:org/net.onnx") == HubName("org/net.onnx", None)
    assert str(hub_name("hf-hub:org/net@refs/pr/1")) == "hf-hub:org/net@refs/pr/1"
    assert exported_format("hf-hub:org/net.onnx") is None


def test_the_command_line(hub, files: dict[str, bytes], tmp_path: Path, capsys) -> None:
    hub.put("org/net", files)
    t3d_error = main(["export", NAME])
    assert t3d_error == 2
    assert "hf-hub:org/net is in a cache that other programs share; choose --out" in capsys.readouterr().err
    assert main(["predict", "hf-hub:org/other", str(tmp_path / "a.mp4")]) == 2
    assert "t3d: hf-hub:org/other: there is no such repository" in capsys.readouterr().err


def test_a_hub_that_never_answers_is_not_waited_for(hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.url == constants.ENDPOINT  # with an empty cache
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr("t3d.io.hub._ANSWER", 0.3)
        with pytest.raises(FetchError, match="cannot be reached, and the model is not in the cache"):
            local_folder("hf-hub:me/silent")
