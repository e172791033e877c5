"""Tables of the paper, and that of few labels, read from YAML files: rows, each an ordered list of steps.

The files are `recipes/paper/tableN.yaml` and `few-labels.yaml`. A step is a transfer, a training or a test.
`target` stands for each data set and split with accuracies in the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from t3d.errors import ConfigError, did_you_mean
from t3d.recipes import list_recipes, read_recipe
from t3d.reproduce.config import SETS

TARGET = "target"
FEW_LABELS = "few-labels"

_Kind = Literal["transfer", "train", "test"]
_STEP_PARTS = ("recipe", "data", "clip", "augment", "teacher", "pairs", "labels", "optim")
_ELSEWHERE = {
    "1": "Table 1 contains the architectures; t3d models lists them",
    "7": "Table 7 contains facts about the data sets; there is nothing to train",
}


@dataclass(frozen=True)
class Step:
    """One step of a row.

    Args:
        kind: `transfer`, `train` or `test`.
        on: Data set from `SETS`, or `target`.
        recipe: Recipe with the defaults: `NAME`, or `paper/NAME`. Empty for a test.
        changes: Options that differ from the recipe's, as nested tables.
    """

    kind: _Kind
    on: str
    recipe: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def labeled(self) -> bool:
        """True for a transfer with labels, whose student is a classifier."""
        return self.kind == "transfer" and "labels" in self.changes


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Args:
        name: Displayed name.
        net: Name of the model, as listed by `t3d models`.
        steps: Steps in order. The last one is the test.
        paper: Known accuracies of the paper in percent, by data set.
        clip: Options of the clip that differ from the recipes, in all steps.
    """

    name: str
    net: str
    steps: tuple[Step, ...]
    paper: Mapping[str, float] = field(default_factory=dict)
    clip: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """Accuracies of other methods, in percent.

    Args:
        note: Their source, and what to consider when comparing them.
        figures: Accuracy by method, by row. Rows that the table does not have are other networks.
    """

    note: str
    figures: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables, or a table of other published figures.

    Args:
        name: Name, such as `table4`.
        title: Title.
        results: Splits by data set. An accuracy is the mean over these splits.
        rows: Rows, in the order of the table.
        published: Accuracies of other methods, instead of the paper's. Needs a single data set.
    """

    name: str
    title: str
    results: Mapping[str, tuple[int, ...]]
    rows: tuple[Row, ...]
    published: Published | None = None

    @property
    def heading(self) -> str:
        """Number, if it has one, and title."""
        number = self.name.removeprefix("table")
        return f"Table {number}. {self.title}" if number.isdecimal() else self.title

    def chosen(self, names: Iterable[str]) -> tuple[Row, ...]:
        """Return the rows with these names, in the order of the table. Without names, return all rows.

        Upper and lower case are equal.

        Raises:
            ConfigError: A row does not exist.
        """
        known = {row.name.casefold(): row for row in self.rows}
        wanted = [name.casefold() for name in names]
        for name in wanted:
            if name not in known:
                raise ConfigError(
                    f"{self.name} has no row {name!r}; {did_you_mean(name, [row.name for row in self.rows])}"
                )
        return tuple(row for key, row in known.items() if not wanted or key in wanted)


def list_tables() -> list[str]:
    """Return the names of the tables that can be run, in the order of the paper.

    Example:
        >>> list_tables()
        ['table2', 'table3', 'table4', 'table5', 'table6', 'table8', 'table9', 'table10', 'few-labels']
    """
    matches = (re.fullmatch(r"table(\d+)", name) for name in list_recipes("paper"))
    return [*(f"table{number}" for number in sorted(int(match[1]) for match in matches if match)), FEW_LABELS]


def read_table(name: str) -> PaperTable:
    """Read the file of a table.

    Args:
        name: Name or number, such as `table4`, `4` or `few-labels`.

    Raises:
        ConfigError: The table does not exist, or has nothing to train.

    Example:
        >>> [row.name for row in read_table("table4").rows]
        ['ResNet3D-50', 'Inception3D', 'DenseNet3D-121', 'T3D']
    """
    number = re.sub(r"(?i)^table[ _-]?", "", name)
    if number in _ELSEWHERE:
        raise ConfigError(f"{_ELSEWHERE[number]}. Tables to reproduce: {', '.join(list_tables())}")
    few = re.sub("[ _]", "-", name.casefold()) == FEW_LABELS
    table = FEW_LABELS if few else f"table{number}"
    if table not in list_tables():
        raise ConfigError(f"no table {name!r}; {did_you_mean(name, list_tables())}")
    return parse_table(table, read_recipe(f"paper/{table}"))


def parse_table(name: str, content: Mapping[str, Any]) -> PaperTable:
    """Check the content of a table's file, and return the table.

    Args:
        name: Name of the table, for messages.
        content: Content of the file.

    Raises:
        ConfigError: An unknown name, or steps that do not form a row.
    """
    _known(content, ("title", "results", "published", "rows"), where=name)
    results = {on: tuple(splits) for on, splits in content["results"].items()}
    _known(results, SETS, where=f"results of {name}")
    rows = []
    for row, options in content["rows"].items():
        where = f"{name}, row {row}"
        _known(options, ("paper", "net", "clip", "steps"), where=where)
        paper = options.get("paper", {})
        _known(paper, results, where=f"paper of {where}")
        steps = tuple(_step(step, where) for step in options["steps"])
        kinds = [step.kind for step in steps]
        learns = any(step.kind == "train" or step.labeled for step in steps)
        if not learns or kinds.count("test") != 1 or kinds[-1] != "test" or steps[-1].on != TARGET:
            raise ConfigError(
                f"{where}: a row needs a training, or a transfer with labels, and one test, of {TARGET}, as "
                "its last step"
            )
        rows.append(Row(row, options["net"], steps, paper, options.get("clip", {})))
    return PaperTable(name, content["title"], results, tuple(rows), _published(name, content, results))


def _published(name: str, content: Mapping[str, Any], results: Mapping[str, Any]) -> Published | None:
    if "published" not in content:
        return None
    where = f"published of {name}"
    _known(content["published"], ("note", "figures"), where=where)
    if len(results) > 1:
        raise ConfigError(f"{where}: the table has {len(results)} data sets, and these figures are of one")
    return Published(**content["published"])


def _step(content: Mapping[str, Any], where: str) -> Step:
    kinds = [kind for kind in get_args(_Kind) if kind in content]
    if len(kinds) != 1:
        raise ConfigError(f"{where}: a step has one of {', '.join(get_args(_Kind))}; got {dict(content)}")
    (kind,) = kinds
    _known([content[kind]], (*SETS, TARGET), where=where)
    _known(content, (kind, *(() if kind == "test" else _STEP_PARTS)), where=where)
    if kind != "test" and "recipe" not in content:
        raise ConfigError(f"{where}: the step {kind} has no recipe")
    changes = {name: value for name, value in content.items() if name not in (kind, "recipe")}
    return Step(kind, content[kind], content.get("recipe", ""), changes)


def _known(names: Iterable[str], allowed: Iterable[str], *, where: str) -> None:
    allowed = list(allowed)
    for name in names:
        if name not in allowed:
            raise ConfigError(f"{where}: unknown name {name!r}; {did_you_mean(str(name), allowed)}")
