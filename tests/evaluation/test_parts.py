"""Time spans in `t3d predict` and `t3d test`: the same tables, the same parts, the same scores."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
import torch

from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.errors import ConfigError, ManifestError
from t3d.evaluation.bulk import listed_videos
from t3d.evaluation.config import PredictConfig
from t3d.evaluation.parts import Part, is_list, parts_of
from t3d.evaluation.predictor import Predictor
from t3d.evaluation.scoring import IN_PROCESS
from t3d.models.registry import create_model
from t3d.models.weights import save_model
from t3d.video.encode import write_video

COMPUTE = ["--workers", "0", "--precision", "fp32"]
TABLE = "path,label,start,end\nfilms/a.mp4,x,0,1\nfilms/a.mp4,y,1,\nfilms/b.mp4,x,,\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, two films at 10 frames per second, and a table of spans of them."""
    root = tmp_path_factory.mktemp("home")
    torch.manual_seed(1)
    model = create_model("densenet3d_tiny", num_classes=2)
    torch.nn.init.normal_(model.get_classifier().weight, std=1.0)
    spec = ClipSpec(num_frames=4, stride=1, size=32, resize=32, tail="pad")
    save_model(
        model, root / "w.safetensors", card=ModelCard("densenet3d_tiny", classes=("x", "y"), clip=spec)
    )
    (root / "films").mkdir()
    for at, name in enumerate("ab"):
        frames = torch.randint(0, 256, (20, 3, 32, 32), generator=torch.Generator().manual_seed(at))
        write_video(root / "films" / f"{name}.mp4", frames.to(torch.uint8), fps=10)
    (root / "list.csv").write_text(TABLE)
    return root


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.situation(
    "Lists and folders",
    "Predictions for parts of videos (`start`, `end`)",
    "Same tables in `t3d test` and `t3d predict`",
)
def test_predict_and_test_read_the_same_table(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, table = str(home / "w.safetensors"), str(home / "list.csv")
    assert main(["test", weights, table, "--out", str(tmp_path / "out"), *COMPUTE]) == 0
    with (tmp_path / "out" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    a, b = str(home / "films/a.mp4"), str(home / "films/b.mp4")
    spans = [(row["path"], row["start"], row["end"], row["clips"]) for row in rows]
    assert spans == [(a, "0.0", "1.0", "3"), (a, "1.0", "", "3"), (b, "", "", "5")]
    capsys.readouterr()
    assert main(["predict", weights, table, "--json", "--top", "2", *COMPUTE]) == 0
    lines = printed(capsys)
    assert [{name: line.get(name, "-") for name in ("path", "start", "end", "clips")} for line in lines] == [
        {"path": a, "start": 0.0, "end": 1.0, "clips": 3},
        {"path": a, "start": 1.0, "end": None, "clips": 3},
        {"path": b, "start": "-", "end": "-", "clips": 5},
    ]
    for line, row in zip(lines, rows, strict=True):
        assert line["classes"] == pytest.approx({name: float(row[name]) for name in "xy"}, abs=1e-6)


def test_the_clips_of_a_video_have_times_and_scores(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, table = str(home / "w.safetensors"), str(home / "list.csv")
    assert main(["predict", weights, table, "--json", "--per-clip", *COMPUTE]) == 0
    first, second, third = printed(capsys)
    times = [[(clip["start"], clip["end"]) for clip in line["per_clip"]] for line in (first, second, third)]  # type: ignore[attr-defined]
    assert times[0] == [(0.0, 0.4), (0.4, 0.8), (0.8, 1.0)]
    assert times[1] == [(1.0, 1.4), (1.4, 1.8), (1.8, 2.0)]
    assert times[2][-1] == (1.6, 2.0)
    for line in (first, second, third):
        clips = line["per_clip"]
        assert isinstance(clips, list)
        mean = {name: sum(clip["classes"][name] for clip in clips) / len(clips) for name in "xy"}
        assert line["classes"] == pytest.approx(mean, abs=1e-12)
    assert main(["predict", weights, table, "--per-clip", "--top", "1", *COMPUTE]) == 0
    text = capsys.readouterr().out.splitlines()
    assert text[0].startswith(f"{home}/films/a.mp4 from 0 s to 1 s\t")
    assert text[1].startswith("  0.000 to 0.400 s\t")
    assert len(text) == 3 + 11


def test_whole_files_of_a_list_score_as_files_do(home: Path, tmp_path: Path) -> None:
    predictor = Predictor(home / "w.safetensors", compute=IN_PROCESS)
    files = sorted((home / "films").iterdir())
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{file}\n" for file in files))
    parts = parts_of([str(listed)])
    assert parts == [Part(str(file)) for file in files]
    assert list(predictor.many(parts)) == list(predictor.many(files))


def test_a_file_of_predictions_resumes_by_span(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "all.jsonl")
    words = ["predict", str(home / "w.safetensors"), str(home / "list.csv"), "--out", out, *COMPUTE]
    assert main(words) == 0
    lines = Path(out).read_text().splitlines()
    Path(out).write_text("".join(f"{line}\n" for line in (lines[0], lines[2])))
    assert main(words) == 0
    assert "3 videos; 1 predicted now, 2 earlier" in capsys.readouterr().out
    assert sorted(Path(out).read_text().splitlines()) != []
    assert {json.loads(line).get("start") for line in Path(out).read_text().splitlines()} == {0.0, 1.0, None}
    assert main([*words, "--per-clip"]) == 2
    assert "holds predictions without the scores of each clip" in capsys.readouterr().err


def test_names_stand_for_files_folders_and_lists(home: Path, tmp_path: Path) -> None:
    a, b, table = (str(home / name) for name in ("films/a.mp4", "films/b.mp4", "list.csv"))
    spans = [Part(a, 0.0, 1.0), Part(a, 1.0, None), Part(b)]
    assert parts_of([b, table, str(home / "films")]) == [Part(b), *spans, Part(a), Part(b)]
    (tmp_path / "list.tsv").write_text("file\nfilms/a.mp4\n")
    assert parts_of([str(tmp_path / "list.tsv")], root=str(home)) == [Part(a)]
    assert listed_videos(PredictConfig("m", (table,))) == spans
    with pytest.raises(ConfigError, match=r"`root` is x, but .*a\.mp4 would not use it"):
        parts_of([a], root="x")
    with pytest.raises(ManifestError, match="no videos given: name at least one file, folder or list"):
        parts_of([])
    names = ("a.csv", "a.mp4", "i.parquet", str(tmp_path))
    assert [is_list(name) for name in names] == [True, False, True, False]


@pytest.mark.situation(
    "Lists and folders",
    "A subfolder without read permission",
    "Reported, the rest is classified, exit status 1",
)
def test_a_folder_that_cannot_be_read_is_reported_and_the_rest_classified(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "a.mp4").symlink_to(home / "films/a.mp4")
    scandir = os.scandir

    def refuses(path: str) -> object:
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuses)
    assert main(["predict", str(home / "w.safetensors"), str(tmp_path), "--json", *COMPUTE]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert f"t3d: {tmp_path}/secret: cannot be listed (Permission denied)" in err
