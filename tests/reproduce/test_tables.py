from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

import t3d
from t3d.errors import ConfigError
from t3d.models.registry import create_model
from t3d.recipes import read_recipe
from t3d.reproduce.config import Choices
from t3d.reproduce.runs import open_sets, trials_of
from t3d.reproduce.tables import list_tables, parse_table, read_table
from t3d.training.config import TrainConfig
from t3d.transfer.config import TransferConfig

# The complete list of the paper's figures; any other figure in a file is invented.
KNOWN = {
    ("table4", "ResNet3D-50"): {"ucf101": 59.2},
    ("table4", "Inception3D"): {"ucf101": 69.5},
    ("table4", "DenseNet3D-121"): {"ucf101": 69.1},
    ("table4", "T3D"): {"ucf101": 71.4},
    ("table10", "T3D"): {"ucf101": 90.3},
    ("table10", "T3D+Transfer"): {"ucf101": 91.7},
    ("table10", "T3D+TSN"): {"ucf101": 93.2},
}
ROWS = {
    "table2": 2,
    "table3": 2,
    "table4": 4,
    "table5": 4,
    "table6": 4,
    "table8": 6,
    "table9": 6,
    "table10": 7,
    "few-labels": 4,
}
# The complete list of figures of other methods, from arXiv:2501.01245.
PUBLISHED = {
    "ResNet3D-18-5-percent": {"FixMatch for video": 27.1, "VideoSSL": 32.4, "LTG": 44.8},
    "ResNet3D-18-10-percent": {"VideoSSL": 42.0, "LTG": 62.4},
    "ViT-B-5-percent": {"SeFAR": 77.6},
    "ViT-B-10-percent": {"SeFAR": 87.0},
}


def test_every_table_has_its_rows_and_no_figure_that_is_not_known() -> None:
    assert list_tables() == list(ROWS)
    tables = [read_table(name) for name in ROWS]
    assert {table.name: len(table.rows) for table in tables} == ROWS
    assert {
        (table.name, row.name): dict(row.paper) for table in tables for row in table.rows if row.paper
    } == KNOWN
    assert [
        (table.name, dict(table.published.figures)) for table in tables if table.published is not None
    ] == [("few-labels", PUBLISHED)]
    assert [table.name for table in tables if "hmdb51" in table.results] == ["table10"]
    assert dict(read_table("10").results) == {"ucf101": (1, 2, 3), "hmdb51": (1, 2, 3)}


def test_every_recipe_file_is_package_data() -> None:
    files = {path.name for path in (Path(t3d.__file__).parent / "recipes" / "paper").iterdir()}
    assert files == {f"{name}.yaml" for name in ROWS} | {
        "finetune.yaml",
        "small.yaml",
        "task-transfer.yaml",
    }
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert '"recipes/paper/*.yaml"' in project.read_text()


@cache
def scored(name: str, options: str, frames: int, size: int) -> torch.Size:
    """The shape of what a net of 11 classes gives for one clip; rows share nets, each is tried once."""
    with torch.device("meta"):
        net = create_model(name, num_classes=11, options=json.loads(options)).eval()
        return net(torch.zeros(1, 3, frames, size, size)).shape


@pytest.mark.parametrize("scale", ["paper", "small"])
@pytest.mark.parametrize("name", list(ROWS))
def test_every_row_makes_configs_whose_nets_take_their_clips(name: str, scale: str, tmp_path: Path) -> None:
    table = read_table(name)
    choices = Choices(out=tmp_path, scale=scale)  # type: ignore[arg-type]
    splits = open_sets(table, table.rows, choices)
    for row in table.rows:
        trials = trials_of(table, row, splits, choices)
        assert [(trial.on, trial.split) for trial in trials] == [
            (on, split) for on, numbers in table.results.items() for split in numbers
        ]
        for trial in trials:
            assert [run.kind for run in trial.runs] == [step.kind for step in row.steps[:-1]]
            inits = [run.config.model.init for run in trial.runs]
            assert inits == [None, *(str(run.folder.last) for run in trial.runs[:-1])]
            last = trial.runs[-1].config  # a classifier
            assert isinstance(last, TrainConfig) or last.labels.videos
            assert len({run.config.model.name for run in trial.runs}) == 1
            assert len({run.config.clip.size for run in trial.runs}) == 1
        config = trials[0].runs[-1].config
        options = json.dumps(config.model.options, sort_keys=True)
        assert scored(config.model.name, options, config.clip.num_frames, config.clip.size) == (1, 11)
    assert not list(tmp_path.iterdir())


def test_the_paper_s_protocol_is_what_runs(tmp_path: Path) -> None:
    table = read_table("table4")
    choices = Choices(out=tmp_path)
    (trial,) = trials_of(table, table.rows[-1], open_sets(table, table.rows, choices), choices)
    config = trial.runs[0].config
    assert isinstance(config, TrainConfig)
    assert (config.model.name, config.model.init) == ("t3d121", None)
    assert (config.clip.num_frames, config.clip.stride, config.clip.size, config.clip.resize) == (
        32,
        2,
        224,
        256,
    )
    optim = config.optim
    assert (optim.name, optim.lr, optim.momentum, optim.weight_decay) == ("sgd", 0.1, 0.9, 1e-4)
    assert (optim.batch_size, optim.epochs, optim.schedule, optim.gamma) == (64, 200, "plateau", 0.1)
    assert (config.augment.crop, config.augment.flip) == ("five", 0.5)


def test_transfer_goes_before_half_of_kinetics_and_the_target(tmp_path: Path) -> None:
    table = read_table("table8")
    choices = Choices(out=tmp_path, teacher="torchvision:resnet18")
    (row,) = table.chosen(["t3d-ft-transfer"])
    (trial,) = trials_of(table, row, open_sets(table, table.rows, choices), choices)
    first, half, last = (run.config for run in trial.runs)
    assert isinstance(first, TransferConfig)
    assert (first.pairs.objective, first.pairs.negatives, first.teacher.frames) == ("match", "one", 32)
    assert first.teacher.name == "torchvision:resnet18"
    assert (first.optim.batch_size, first.optim.epochs, first.optim.schedule) == (32, 150, "step")
    assert isinstance(half, TrainConfig)
    assert isinstance(last, TrainConfig)
    assert (half.data.label_fraction, last.data.label_fraction) == (0.5, 1.0)


def test_few_labels_are_a_share_of_the_target_s_own_list(tmp_path: Path) -> None:
    table = read_table("Few_labels")
    choices = Choices(out=tmp_path)
    splits = open_sets(table, table.rows, choices)
    trials = [trials_of(table, row, splits, choices)[0] for row in table.rows]
    shares = []
    for trial in trials:
        (config,) = (run.config for run in trial.runs)
        assert isinstance(config, TransferConfig)
        assert config.data.videos == config.labels.videos == splits["ucf101"][0].train.name
        assert (config.teacher.name, config.teacher.cache) == ("lite0", str(tmp_path / "features"))
        shares.append((config.model.name, config.labels.fraction))
    assert shares == [(net, share) for net in ("resnet3d18", "t3d121") for share in (0.05, 0.1)]
    assert len({trial.folder for trial in trials}) == 4
    (other,) = trials_of(table, table.rows[0], splits, Choices(out=tmp_path, teacher="torchvision:resnet18"))
    config = other.runs[0].config
    assert isinstance(config, TransferConfig)
    assert config.teacher.name == "torchvision:resnet18"


def test_the_folder_of_a_transfer_with_labels_does_not_depend_on_where_the_list_is(tmp_path: Path) -> None:
    table = read_table("few-labels")
    choices = Choices(out=tmp_path)
    (split,) = open_sets(table, table.rows, choices)["ucf101"]
    moved = replace(split, train=replace(split.train, name="elsewhere/trainlist01.txt"))
    one, other = (trials_of(table, table.rows[0], {"ucf101": (each,)}, choices)[0] for each in (split, moved))
    assert one.folder == other.folder


def test_segments_come_with_the_target_alone(tmp_path: Path) -> None:
    table = read_table("table10")
    choices = Choices(out=tmp_path)
    splits = open_sets(table, table.rows, choices)
    plain, tsn = (trials_of(table, row, splits, choices) for row in table.chosen(["T3D", "T3D+TSN"]))
    assert [run.config.clip.segments for run in tsn[0].runs] == [1, 3]
    assert {trial.runs[0].config.out for trial in plain + tsn} == {
        plain[0].runs[0].config.out
    }  # trained once
    assert len({trial.runs[1].config.out for trial in plain + tsn}) == 12


def test_only_changes_that_affect_results_change_the_folder(tmp_path: Path) -> None:
    table = read_table("table4")

    def folder(**changes: object) -> str:
        choices = Choices(out=tmp_path, **changes)  # type: ignore[arg-type]
        return Path(
            trials_of(table, table.rows[0], open_sets(table, table.rows, choices), choices)[0].folder
        ).parent.name

    same = [folder(), folder(workers=7), folder(cache="c"), folder(grad_checkpointing="blocks")]
    others = [folder(seed=1), folder(precision="fp32"), folder(grad_accum_steps=2), folder(scale="small")]
    assert len(set(same)) == 1
    assert len({*same, *others}) == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("7", "Table 7 contains facts about the data sets"),
        ("table1", "Table 1 contains the architectures"),
        ("tabel4", "did you mean 'table4'?"),
        ("11", "no table '11'"),
        ("../table4", "no table"),
    ],
)
def test_an_unknown_table_is_an_error(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        read_table(name)


def test_rows_are_named_in_any_case_and_come_in_the_table_s_order() -> None:
    table = read_table("TABLE4")
    assert [row.name for row in table.chosen(["t3d", "RESNET3D-50"])] == ["ResNet3D-50", "T3D"]
    with pytest.raises(ConfigError, match="table4 has no row 't3d1'; did you mean 'T3D'"):
        table.chosen(["t3d1"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("title: x\nrowss: {}", "unknown name 'rowss'; did you mean 'rows'"),
        ("results: {ucf: [1]}", "unknown name 'ucf'; did you mean 'ucf101'"),
        ("rows: {a: {net: n, stepz: []}}", "row a: unknown name 'stepz'; did you mean 'steps'"),
        ("rows: {a: {net: n, paper: {hmdb51: 3}, steps: []}}", "unknown name 'hmdb51'"),
        (
            "rows: {a: {net: n, steps: [{train: target, test: target}]}}",
            "a step has one of transfer, train, test",
        ),
        ("rows: {a: {net: n, steps: [{train: target}]}}", "the step train has no recipe"),
        ("rows: {a: {net: n, steps: [{train: tarket, recipe: paper}]}}", "did you mean 'target'"),
        ("rows: {a: {net: n, steps: [{train: target, recipe: paper, optin: {}}]}}", "did you mean 'optim'"),
        (
            "rows: {a: {net: n, steps: [{train: target, recipe: paper}]}}",
            "a row needs a training, or a transfer with labels, and one test",
        ),
        (
            "rows: {a: {net: n, steps: [{test: target}, {train: target, recipe: paper}]}}",
            "a row needs a training, or a transfer with labels, and one test",
        ),
        ("rows: {a: {net: n, steps: [{test: target}]}}", "a row needs a training, or a transfer with labels"),
        (
            "rows: {a: {net: n, steps: [{transfer: target, recipe: transfer-paper}, {test: target}]}}",
            "a row needs a training, or a transfer with labels",
        ),
        (
            "results: {ucf101: [1], hmdb51: [1]}\npublished: {note: x, figures: {}}",
            "the table has 2 data sets, and these figures are of one",
        ),
    ],
)
def test_a_mistake_in_a_file_is_an_error(change: str, message: str) -> None:
    content = copy.deepcopy(read_recipe("paper/table4")) | yaml.safe_load(change)
    with pytest.raises(ConfigError) as error:
        parse_table("table4", content)
    assert message in str(error.value)


def test_a_clip_that_does_not_fit_its_network_is_an_error_with_the_row(tmp_path: Path) -> None:
    content = read_recipe("paper/table5")
    content["rows"]["T3D-at-112"]["clip"] = {"size": 28, "resize": 28}
    table = parse_table("table5", content)
    choices = Choices(out=tmp_path)
    (row,) = table.chosen(["T3D-at-112"])
    with pytest.raises(ConfigError, match=r"T3D-at-112, train on ucf101: .*at least 1 frames of 29 × 29"):
        trials_of(table, row, open_sets(table, table.rows, choices), choices)


def test_a_misspelled_option_of_a_step_is_an_error_with_the_row(tmp_path: Path) -> None:
    content = read_recipe("paper/table4")
    content["rows"]["T3D"]["steps"][0]["optim"] = {"epoch": 3}
    table = parse_table("table4", content)
    choices = Choices(out=tmp_path)
    with pytest.raises(ConfigError, match=r"T3D, train on ucf101: .*epoch"):
        trials_of(table, table.rows[-1], open_sets(table, table.rows, choices), choices)
