from __future__ import annotations

import re
from pathlib import Path

import pytest

from t3d.errors import ConfigError
from t3d.reproduce.config import Choices
from t3d.reproduce.plan import measure_rate, run_cost, teacher_macs
from t3d.reproduce.plan import test_cost as cost_of_test
from t3d.reproduce.run import plan
from t3d.reproduce.runs import open_sets, trials_of
from t3d.reproduce.tables import read_table


def test_the_cost_of_a_row_by_hand(tmp_path: Path) -> None:
    table = read_table("table4")
    choices = Choices(out=tmp_path)
    (trial,) = trials_of(table, table.rows[2], open_sets(table, table.rows, choices), choices)
    cost = run_cost(trial.runs[0])
    # DenseNet3D-121: 62.5 GMAC. 9,537 videos less a tenth are 8,583: 134 whole batches of 64, 200 times.
    steps = 134 * 200
    assert cost.steps == steps
    assert cost.macs / 1e9 == pytest.approx(62.5, abs=0.05)
    by_hand = 2 * 62.5e9 * (3 * steps * 64 + 954 * 200)
    assert cost.flops == pytest.approx(by_hand, rel=1e-3)
    # 11.66 M parameters with 400 classes, less 1,024 weights and a bias for each of 299; two weights files,
    # and a checkpoint with one momentum and the best weights.
    parameters = 11.66e6 - 299 * 1025
    assert cost.disk == pytest.approx(4 * parameters * 5, rel=2e-3)
    assert cost_of_test(trial).flops == pytest.approx(2 * 62.5e9 * 3783, rel=1e-3)


def test_the_cost_of_a_teacher_is_that_of_its_frames(tmp_path: Path) -> None:
    assert teacher_macs("torchvision:squeezenet1_1") / 1e9 == pytest.approx(
        0.349 - 512 * 1000 * 13**2 / 1e9, abs=0.001
    )  # torchvision's figure, less the classifier
    table = read_table("table8")
    (row,) = table.chosen(["DenseNet3D-Transfer"])
    choices = Choices(out=tmp_path, teacher="torchvision:squeezenet1_1")
    (trial,) = trials_of(table, row, open_sets(table, (row,), choices), choices)
    cost = run_cost(trial.runs[0])
    clips, held_out = 450_000 // 32 * 32 * 150, 50_000 * 150
    macs = cost.macs * (3 * clips + held_out) + teacher_macs(choices.teacher) * 32 * (clips + held_out)
    assert cost.flops == pytest.approx(2 * macs)


def test_features_that_are_stored_are_computed_once(tmp_path: Path) -> None:
    table = read_table("few-labels")
    choices = Choices(out=tmp_path, teacher="torchvision:squeezenet1_1")
    (trial,) = trials_of(table, table.rows[0], open_sets(table, table.rows, choices), choices)
    cost = run_cost(trial.runs[0])
    # 9,537 videos less a twentieth are 9,060: 141 whole batches of 64, 200 times; 477 in every tenth epoch.
    clips, held_out = 141 * 64 * 200, 477 * 20
    teacher = teacher_macs("torchvision:squeezenet1_1") * 8 * 9_537  # every 8th of 64 frames
    assert cost.flops == pytest.approx(2 * (cost.macs * (3 * clips + held_out) + teacher))
    text = plan("few-labels", choices, rows=["T3D-10-percent"], rate=1000.0)
    assert "transfer on UCF101 split 1 with 10% of the labels, teacher torchvision:squeezenet1_1:" in text
    assert "Remaining: 1 run(s) and 1 test(s)" in text


def test_a_plan_says_each_row_and_counts_shared_runs_once(tmp_path: Path) -> None:
    choices = Choices(out=tmp_path / "out", scale="small")
    text = plan("table10", choices, rows=["T3D", "T3D+TSN"], rate=1000.0)
    t3d, tsn = text.split("\n\n")[1:3]
    assert t3d.startswith("T3D: t3d_tiny, clips of 8 frames of 64 × 64, stride 8\n")
    assert "2 epochs of 152 videos" in t3d  # a few of Kinetics, of which a twentieth is held out
    assert t3d.count("train on Kinetics-400") == 1
    assert [int(n) for n in re.findall(r"train on UCF101 split (\d)", t3d)] == [1, 2, 3]
    assert [int(n) for n in re.findall(r"test on HMDB51 split (\d)", t3d)] == [1, 2, 3]
    assert "in 3 segments" in tsn.splitlines()[0]
    assert re.search(r"train on Kinetics-400.*\(the same run as above\)", tsn)
    assert "Remaining: 13 run(s) and 12 test(s)," in text
    assert "Planned with the published number of videos: UCF101, HMDB51, Kinetics-400." in text
    assert not (tmp_path / "out").exists()


def test_half_the_rate_is_twice_the_time(tmp_path: Path) -> None:
    hours = []
    for rate in (1000.0, 500.0):
        text = plan("2", Choices(out=tmp_path), rows=["T3D-121"], rate=rate)
        hours.append(float(re.findall(r"and 1 test\(s\), ([\d.,]+) h at", text)[0].replace(",", "")))
    assert hours[1] == pytest.approx(2 * hours[0], rel=0.01)
    # 244.1 GMAC at 1,000 GFLOP/s.
    assert hours[0] == pytest.approx(
        2 * 244.1 * (3 * 134 * 64 * 200 + 954 * 200 + 3783) / 1000 / 3600, rel=0.01
    )


def test_a_rate_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rate is 0"):
        plan("2", Choices(out=tmp_path), rate=0.0)


@pytest.mark.slow
def test_the_rate_of_this_machine_is_a_rate() -> None:
    assert 0.1 < measure_rate(0.5) < 1e7
