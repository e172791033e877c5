"""Tables of the paper, read from YAML files: rows, each an ordered list of steps.

The files are `recipes/paper/tableN.yaml`. A step is a transfer, a training or a test. `target` stands for
each data set and split with accuracies in the table.
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

_Kind = Literal["transfer", "train", "test"]
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
class PaperTable:
    """One of the paper's tables.

    Args:
        name: Name, such as `table4`.
        title: Title.
        results: Splits by data set. An accuracy is the mean over these splits.
        rows: Rows, in the order of the table.
    """

    name: str
    title: str
    results: Mapping[str, tuple[int, ...]]
    rows: tuple[Row, ...]

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
    """Return the names of the tables that can be reproduced, in the order of the paper.

    Example:
        >>> list_tables()
        ['table2', 'table3', 'table4', 'table5', 'table6', 'table8', 'table9', 'table10']
    """
    matches = (re.fullmatch(r"table(\d+)", name) for name in list_recipes("paper"))
    return [f"table{number}" for number in sorted(int(match[1]) for match in matches if match)]


def read_table(name: str) -> PaperTable:
    """Read the file of a table.

    Args:
        name: Name or number, such as `table4` or `4`.

    Raises:
        ConfigError: The table does not exist, or has nothing to train.

    Example:
        >>> [row.name for row in read_table("table4").rows]
        ['ResNet3D-50', 'Inception3D', 'DenseNet3D-121', 'T3D']
    """
    number = re.sub(r"(?i)^table[ _-]?", "", name)
    if number in _ELSEWHERE:
        raise ConfigError(f"{_ELSEWHERE[number]}. Tables to reproduce: {', '.join(list_tables())}")
    if f"table{number}" not in list_tables():
        raise ConfigError(f"no table {name!r}; {did_you_mean(name, list_tables())}")
    return parse_table(f"table{number}", read_recipe(f"paper/table{number}"))


def parse_table(name: str, content: Mapping[str, Any]) -> PaperTable:
    """Check the content of a table's file, and return the table.

    Args:
        name: Name of the table, for messages.
        content: Content of the file.

    Raises:
        ConfigError: An unknown name, or steps that do not form a row.
    """
    _known(content, ("title", "results", "rows"), where=name)
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
        if "train" not in kinds or kinds.index("test") != len(kinds) - 1 or steps[-1].on != TARGET:
            raise ConfigError(f"{where}: a row needs a training, and one test, of {TARGET}, as its last step")
        rows.append(Row(row, options["net"], steps, paper, options.get("clip", {})))
    return PaperTable(name, content["title"], results, tuple(rows))


def _step(content: Mapping[str, Any], where: str) -> Step:
    kinds = [kind for kind in get_args(_Kind) if kind in content]
    if len(kinds) != 1:
        raise ConfigError(f"{where}: a step has one of {', '.join(get_args(_Kind))}; got {dict(content)}")
    (kind,) = kinds
    _known([content[kind]], (*SETS, TARGET), where=where)
    parts = () if kind == "test" else ("recipe", "data", "clip", "augment", "teacher", "pairs", "optim")
    _known(content, (kind, *parts), where=where)
    if kind != "test" and "recipe" not in content:
        raise ConfigError(f"{where}: the step {kind} has no recipe")
    changes = {name: value for name, value in content.items() if name not in (kind, "recipe")}
    return Step(kind, content[kind], content.get("recipe", ""), changes)


def _known(names: Iterable[str], allowed: Iterable[str], *, where: str) -> None:
    allowed = list(allowed)
    for name in names:
        if name not in allowed:
            raise ConfigError(f"{where}: unknown name {name!r}; {did_you_mean(str(name), allowed)}")
