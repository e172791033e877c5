"""Share a model: files of a folder, uploads to a Hub, and the model card."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants

import t3d
from t3d.card import CARD_KEY
from t3d.cli.main import main
from t3d.device import Compute
from t3d.errors import CheckpointError, ConfigError, PushError
from t3d.export.config import ExportConfig
from t3d.export.run import export_model
from t3d.models.tensor_files import write_tensors
from t3d.models.weights import load_model, read_tensors
from t3d.runtime.load import load, read_model_card
from t3d.share.config import ShareConfig
from t3d.share.push import push_model
from t3d.video.encode import write_video

CLASSES = ("left | <b>", "right")  # as in conftest.py


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with exported files of both formats."""
    folder = tmp_path_factory.mktemp("private exported") / "run"
    shutil.copytree(run, folder)
    for form in ("openvino", "onnx"):
        export_model(ExportConfig(str(folder), format=form))
    return folder


def share(run: Path, to: Path | str, **options) -> Path:
    """Share a run; returns the folder."""
    push_model(ShareConfig(str(run), str(to), license="mit", test=str(run / "test"), **options))
    return Path(to)


@pytest.mark.long
def test_a_folder_computes_the_same_and_names_no_path(exported: Path, tmp_path: Path) -> None:
    folder = share(exported, tmp_path / "net")
    names = [
        "README.md",
        "config.json",
        "model.bin",
        "model.onnx",
        "model.safetensors",
        "model.xml",
        "result.json",
    ]
    assert sorted(file.name for file in folder.iterdir()) == names
    for file in folder.iterdir():
        content = file.read_bytes()
        assert b"private" not in content, file.name
        assert b"/home/me" not in content, file.name
        assert b"site-packages" not in content, file.name  # source lines of torch
        assert str(Path(t3d.__file__).parent).encode() not in content, file.name
    card = read_model_card(folder)
    assert card is not None
    assert card.provenance == {"trained_on": "train.csv", "videos": 5, "fused": [{"model": "other"}]}
    before, after = (
        read_tensors(exported / "last.safetensors")[0],
        read_tensors(folder / "model.safetensors")[0],
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    clips = torch.rand(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        reference = load_model(exported)[0](clips)
        for runtime in ("openvino", "onnx"):  # raises if the file is not an export of these weights
            model, stored = load(folder, runtime=runtime)
            assert stored == card
            torch.testing.assert_close(model(clips), reference, rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_a_file_without_paths_is_copied_as_it_is(exported: Path, tmp_path: Path) -> None:
    folder = share(exported, tmp_path / "net")
    again = tmp_path / "again"
    push_model(ShareConfig(str(folder), str(again), license="mit"))
    for name in ("model.safetensors", "model.xml", "model.onnx", "model.bin"):
        assert (folder / name).read_bytes() == (again / name).read_bytes()


@pytest.mark.long
def test_exports_of_other_weights_are_left_out(exported: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(exported, run)
    tensors, card = read_tensors(run / "last.safetensors")
    assert card is not None
    changed = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    write_tensors(changed, run / "last.safetensors", metadata={CARD_KEY: card})
    result = push_model(ShareConfig(str(run), str(tmp_path / "net"), license="mit"))
    assert list(result.files) == ["README.md", "config.json", "model.safetensors"]
    assert len(result.left_out) == 2
    assert "last.xml is not an export of these weights" in result.left_out[0]


def test_the_model_card(run: Path, tmp_path: Path) -> None:
    text = (share(run, tmp_path / "net", about="Birds.") / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    front = yaml.safe_load(head)
    assert front["license"] == "mit"
    assert front["pipeline_tag"] == "video-classification"
    assert front["library_name"] == "t3d"
    metrics = front["model-index"][0]["results"][0]["metrics"]
    assert [each["value"] for each in metrics] == [0.75, 0.7]
    for part in (
        "Birds.",
        "| videos | 75.0% | 60–86% | 30 of 40 |",
        "| clips | 70.0% | 58–80% | 80 clips |",
        r"| always answering “left \| \<b\>” | 55.0% | | |",
        "Measured on 40 test videos of 20 groups, such as recordings. 1 more could not be read.",
        "On average 2.0 clips per video.",
        "the probabilities were not calibrated. The mean log loss of the test videos is 0.600 nats.",
        "- training: 5 videos of 3 groups",
        r"| left \| \<b\> | 3 |",
        "| trained on | train.csv |",
        "t3d predict net video.mp4",
        "The weights: mit.",
        "made with `t3d train`",
    ):
        assert part in body
    assert "<b>" not in body.replace(r"\<b\>", "")
    assert "secret" not in (tmp_path / "net" / "result.json").read_text()


def test_a_folder_is_a_model(run: Path, tmp_path: Path) -> None:
    folder = share(run, tmp_path / "net")
    loaded, card = t3d.load(folder)
    assert card.classes == CLASSES
    expected = load_model(run)[0].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_what_is_not_known_is_said(run: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    shutil.copyfile(run / "last.safetensors", weights)
    push_model(ShareConfig(str(weights), str(tmp_path / "net"), license="other"))
    text = (tmp_path / "net" / "README.md").read_text()
    assert "Not measured: no result of a test was included." in text
    assert "Not known: the weights were shared without the lists of videos of their run." in text
    assert "Its accuracy is not known." in text
    assert "model-index" not in text


def test_a_result_with_several_labels(run: Path, tmp_path: Path) -> None:
    figures = {"videos": 9, "bad": 0, "groups": 9, "video_map": 0.5, "interval": [0.4, 0.6], "chance": 0.2}
    figures |= {"clip_map": 0.45, "loss": 0.3, "per_class": {"right": 0.5}}
    (tmp_path / "metrics.json").write_text(json.dumps(figures))
    push_model(
        ShareConfig(str(run), str(tmp_path / "net"), license="mit", test=str(tmp_path / "metrics.json"))
    )
    text = (tmp_path / "net" / "README.md").read_text()
    assert "| videos | 50.0% | 40–60% |  |" in text
    assert "| random scores, about | 20.0% | | |" in text


@pytest.mark.long
def test_an_upload_arrives_whole_and_predicts(
    hub, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--license", "mit", "--private", "--test", str(exported / "test")]
    assert main(["push", str(exported), "hf-hub:me/net", *options]) == 0
    out = capsys.readouterr()
    assert "t3d predict hf-hub:me/net VIDEO" in out.out
    assert hub.token not in out.out + out.err
    repo = hub.repos["me/net"]
    assert repo.private
    local = share(exported, tmp_path / "net")
    for file in local.iterdir():
        if file.suffix != ".md":
            assert repo.files()[file.name] == file.read_bytes(), file.name
    assert b"t3d predict hf-hub:me/net video.mp4" in repo.files()["README.md"]
    video = tmp_path / "a.mp4"
    write_video(video, torch.randint(0, 255, (10, 3, 32, 32), dtype=torch.uint8))
    compute = Compute(precision="fp32", workers=0)
    expected = t3d.load(exported, runtime="torch", compute=compute).predict(str(video))
    for runtime in ("torch", "openvino"):
        prediction = t3d.load("hf-hub:me/net", runtime=runtime, compute=compute).predict(str(video))
        assert prediction.probs == pytest.approx(expected.probs, abs=1e-4)
    # A new process, with the variables of huggingface_hub alone, and without torch.
    program = (
        "import sys; sys.modules['torch'] = None; from t3d.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    place = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": hub.token}
    for runtime, more in {"openvino": {}, "auto": {"HF_HUB_OFFLINE": "1", "HF_TOKEN": ""}}.items():
        words = ["predict", "hf-hub:me/net", str(video), "--runtime", runtime, "--json"]
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            env=os.environ | place | more,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert expected.label in done.stdout
    assert (tmp_path / "home" / "hub").is_dir()


def test_a_second_upload_replaces_and_deletes_only_its_own_files(hub, run: Path) -> None:
    share(run, "hf-hub:me/net@v1")
    repo = hub.repos["me/net"]
    repo.commit(repo.files("v1") | {"mine.txt": b"kept", "model.xml": b"old", "model.bin": b"old"}, "v1")
    share(run, "hf-hub:me/net@v1")
    assert sorted(repo.files("v1")) == [
        ".gitattributes",
        "README.md",
        "config.json",
        "mine.txt",
        "model.safetensors",
        "result.json",
    ]
    assert list(repo.files("main")) == [".gitattributes"]
    commits = len(repo.commits)
    share(run, "hf-hub:me/net@v1")  # nothing has changed
    assert len(repo.commits) == commits


@pytest.mark.parametrize("part", ["/objects/", "/commit/", "/preupload/", "/info/lfs/", "/repos/create"])
def test_a_failed_upload_changes_nothing_and_can_be_repeated(hub, run: Path, part: str) -> None:
    hub.faults[part] = [500] * 50
    with pytest.raises(PushError, match=r"hf-hub:me/net: .*[rR]un the same command again") as caught:
        share(run, "hf-hub:me/net")
    assert hub.token not in str(caught.value)
    assert all(list(repo.files()) == [".gitattributes"] for repo in hub.repos.values())
    hub.faults.clear()
    share(run, "hf-hub:me/net")
    assert "model.safetensors" in hub.repos["me/net"].files()


def test_weights_alone_need_torch(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t3d.runtime.load.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="PyTorch is not installed, and no exported file of these weights"):
        load(run)


def test_an_interrupted_upload_changes_nothing_and_can_be_repeated(
    hub, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["push", str(run), "hf-hub:me/net", "--license", "mit"]
    answer = hub.answer

    def interrupting(method: str, path: str, *rest):
        if path.startswith("/objects/"):
            os.kill(os.getpid(), signal.SIGINT)
        return answer(method, path, *rest)

    monkeypatch.setattr(hub, "answer", interrupting)
    assert main(words) == 128 + signal.SIGINT
    assert (
        "SIGINT stopped the command; hf-hub:me/net has all of the new files or none"
        in capsys.readouterr().err
    )
    assert list(hub.repos["me/net"].files()) == [".gitattributes"]
    monkeypatch.setattr(hub, "answer", answer)
    assert main(words) == 0
    assert "model.safetensors" in hub.repos["me/net"].files()


def test_uploads_that_are_refused(hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.invalid = '"license" must be one of [...]'
    with pytest.raises(PushError, match=r"Invalid metadata in README\.md\. - \"license\" must be"):
        share(run, "hf-hub:me/net")
    hub.invalid = ""
    hub.faults["/commit/"] = [403]
    with pytest.raises(PushError, match=r"refuses access \(403\): the server has a fault"):
        share(run, "hf-hub:me/net")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises((PushError, CheckpointError), match=r"hf auth login") as caught:
        share(run, "hf-hub:me/net")
    assert "hf_wrong" not in str(caught.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="uploading needs a token"):
        share(run, "hf-hub:me/net")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PushError, match="HF_HUB_OFFLINE is set"):
        share(run, "hf-hub:me/net")


def test_folders_that_are_not_replaced(run: Path, tmp_path: Path) -> None:
    folder = share(run, tmp_path / "net")
    with pytest.raises(ConfigError, match="net already exists; choose another folder, or set `overwrite`"):
        share(run, folder)
    share(run, folder, overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").touch()
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="has files that t3d push did not write"):
            share(run, tmp_path / "other", overwrite=overwrite)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file or a link"):
        share(run, tmp_path / "file")


def test_models_that_cannot_be_shared(run: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "run"
    shutil.copytree(run, unfinished)
    (unfinished / "last.safetensors").rename(unfinished / "checkpoint.safetensors")
    with pytest.raises(CheckpointError, match="not finished"):
        share(unfinished, tmp_path / "net")
    with pytest.raises(ConfigError, match="is an exported file"):
        push_model(ShareConfig(str(run / "last.xml"), str(tmp_path / "net"), license="mit"))
    with pytest.raises(ConfigError, match=r"config\.yaml: not JSON"):
        push_model(ShareConfig(str(run), str(tmp_path / "net"), license="mit", test=str(run / "config.yaml")))
    (tmp_path / "other.json").write_text('{"videos": 3}')
    with pytest.raises(ConfigError, match="not the result of a test; give the folder"):
        push_model(
            ShareConfig(str(run), str(tmp_path / "net"), license="mit", test=str(tmp_path / "other.json"))
        )
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("push w net", "missing: --license TEXT"),
        ("push w hf-hub:net --license mit", "TARGET is hf-hub:net: not the name of a model on the Hub"),
        ("push w https://host/me/net --license mit", "TARGET is https://host/me/net; it must be a folder"),
        ("push w net --license Apache", "--license is 'Apache'; it must be an identifier of the Hub"),
        ("push absent.safetensors net --license mit", "absent.safetensors: no such run folder or weights"),
    ],
)
def test_mistakes(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "changed", [{"video_top1": "x"}, {"video_top1": float("nan")}, {"interval": [0]}, {"majority": 1}]
)
def test_figures_that_cannot_be_are_refused(run: Path, tmp_path: Path, changed: dict[str, object]) -> None:
    figures = json.loads((run / "test" / "metrics.json").read_text()) | changed
    (tmp_path / "metrics.json").write_text(json.dumps(figures))
    config = ShareConfig(str(run), str(tmp_path / "net"), license="mit", test=str(tmp_path))
    with pytest.raises(ConfigError, match="not the result of a test"):
        push_model(config)
