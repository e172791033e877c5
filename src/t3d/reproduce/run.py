"""Implementation of `t3d reproduce`: check the options, run the rows of a table, write the result."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from t3d.device import Compute
from t3d.errors import ConfigError, ResumableError, StoppedError, T3DError
from t3d.evaluation.config import Reading, TestConfig
from t3d.evaluation.run_test import run_test
from t3d.io.files import atomic_path
from t3d.io.locks import alone_in
from t3d.progress import Bar, progress
from t3d.report.result import write_result
from t3d.reproduce.config import SETS, Choices
from t3d.reproduce.plan import measure_rate, plan_lines
from t3d.reproduce.result import ResultRow, figure, write_table
from t3d.reproduce.runs import Run, Trial, open_sets, sets_of, trials_of
from t3d.reproduce.signals import noticed_signals
from t3d.reproduce.tables import PaperTable, Row, read_table
from t3d.training.errors import InterruptedRunError
from t3d.training.run import train
from t3d.transfer.config import TransferConfig
from t3d.transfer.run import transfer
from t3d.transfer.teachers.normalization import chosen
from t3d.transfer.teachers.open import open_teacher


def plan(name: str, choices: Choices, *, rows: Iterable[str] = (), rate: float | None = None) -> str:
    """Return the plan of a table: its runs and their cost. Nothing is written.

    Args:
        name: Name or number of the table, such as `table4` or `4`.
        choices: Options of the runs. Without its videos, a data set is planned with the published counts.
        rows: Names of rows. Default: all rows.
        rate: Training speed of the device in GFLOP/s. None measures this machine for some seconds.

    Raises:
        ConfigError: The table or a row does not exist, or an option is invalid.
        ManifestError: A data set cannot be read or is incomplete.
    """
    if rate is not None and not rate > 0:
        raise ConfigError(f"rate is {rate}; it must be above 0, in GFLOP/s, such as 100000")
    table = read_table(name)
    chosen = table.chosen(rows)
    splits = open_sets(table, chosen, choices)
    trials = [trials_of(table, row, splits, choices) for row in chosen]
    lines = plan_lines(table, trials, rate=measure_rate() if rate is None else rate)
    missing = [SETS[on] for on in sets_of(table, chosen) if on not in choices.sets]
    counted = f"Planned with the published number of videos: {', '.join(missing)}.\n" if missing else ""
    return "\n".join(lines) + "\n" + counted


def reproduce(name: str, choices: Choices, *, rows: Iterable[str] = ()) -> tuple[Path, Path]:
    """Run or resume a table. Finished runs and tests are skipped.

    Args:
        name: Name or number of the table, such as `table4` or `4`.
        choices: Options of the runs.
        rows: Names of rows. Default: all rows.

    Returns:
        Paths of the result as JSON and as Markdown. Both contain every row of the table. Rows without a
        result are empty.

    Raises:
        ConfigError: The table or a row does not exist, a data set is not given, an option is invalid, or
            another run is writing to `choices.out`.
        ManifestError: A data set cannot be read or is incomplete.
        StoppedError: A signal stopped a run, which saved its state.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("a table runs in one process; start it without torchrun or accelerate launch")
    table = read_table(name)
    chosen = table.chosen(rows)
    _refuse_missing(table, chosen, choices)
    possible = tuple(row for row in table.rows if set(sets_of(table, (row,))) <= set(choices.sets))
    splits = open_sets(table, possible, choices)
    trials = {row.name: trials_of(table, row, splits, choices) for row in chosen}
    _check_teacher(trials.values(), choices)
    for row in possible:  # another command may have run these rows
        if row not in chosen:
            with suppress(T3DError):  # then no command can have run the row
                trials[row.name] = trials_of(table, row, splits, choices)
    choices.out.mkdir(parents=True, exist_ok=True)
    with alone_in(choices.out):
        files = _write(table, trials, choices)
        with _overall_progress(table, [trial for row in chosen for trial in trials[row.name]]) as bar:
            for row in chosen:
                print(f"\n{table.name}, row {row.name}", flush=True)
                for trial in trials[row.name]:
                    _run_trial(trial, choices, bar)
                files = _write(table, trials, choices)
    return files


def _overall_progress(table: PaperTable, trials: Sequence[Trial]) -> AbstractContextManager[Bar]:
    """Show how many runs of the chosen rows are finished. Rows that share a run count it once."""
    runs = {run.folder.path for trial in trials for run in trial.runs}
    todo = {
        run.folder.path
        for trial in trials
        if not trial.metrics.exists()
        for run in trial.runs
        if not run.mark.exists()
    }
    return progress(f"Running {table.name}", len(runs), unit="runs", done=len(runs) - len(todo))


def _refuse_missing(table: PaperTable, rows: tuple[Row, ...], choices: Choices) -> None:
    missing = [on for on in sets_of(table, rows) if on not in choices.sets]
    if missing:
        raise ConfigError(
            f"{table.name} needs {', '.join(SETS[on] for on in missing)}: set "
            + ", ".join(f"`data.{on}`" for on in missing)
            + " to their folders (see docs/project/reproduce.md). A plan needs none"
        )


def _check_teacher(trials: Iterable[Sequence[Trial]], choices: Choices) -> None:
    """Open each teacher, so that a missing one is reported before other rows train for days."""
    todo = [run for row in trials for trial in row for run in trial.runs if not run.mark.exists()]
    configs = (run.config for run in todo)
    values = chosen(choices.teacher_normalize, None, None)
    for name in sorted({config.teacher.name for config in configs if isinstance(config, TransferConfig)}):
        open_teacher(name, weights=choices.teacher_weights, normalization=values)


def _run_trial(trial: Trial, choices: Choices, bar: Bar) -> None:
    if trial.metrics.exists():
        print(f"{trial.on} split {trial.split} is done: {trial.folder}", flush=True)
        return
    for run in trial.runs:
        _run(run, trial.row, bar)
    trial.test.write()
    outcome = run_test(
        TestConfig(
            str(trial.runs[-1].folder.last),
            trial.test.name,
            reading=Reading(trial.test.root, trial.test.index, choices.cache),
            compute=Compute(precision=choices.precision, workers=choices.workers),
        )
    )
    write_result(outcome, trial.folder)
    print(f"{trial.on} split {trial.split}: {outcome.single.headline()}", flush=True)


def _run(run: Run, row: str, bar: Bar) -> None:
    if run.mark.exists():
        return
    print(f"Run {bar.done + 1:.0f} of {bar.total:.0f}: {run.kind} on {run.on}", flush=True)
    run.part.write()
    resume = run.folder.config.exists()
    stopped = f"stopped by a signal in row {row}; run the same command again to resume"
    try:
        with noticed_signals() as noticed:
            if isinstance(run.config, TransferConfig):
                transfer(run.config, resume=resume)
            else:
                train(run.config, resume=resume)
    except InterruptedRunError as error:
        raise StoppedError(stopped, error.signal) from error
    except ResumableError as error:
        error.same_command()
        raise
    with atomic_path(run.mark) as temporary:
        temporary.write_text("t3d reproduce\n", encoding="utf-8")
    bar.advance()
    if noticed:
        raise StoppedError(stopped, noticed[0])


def _write(table: PaperTable, trials: Mapping[str, tuple[Trial, ...]], choices: Choices) -> tuple[Path, Path]:
    """Write the table with all results so far."""
    rows = []
    for row in table.rows:
        of_row = trials.get(row.name, ())
        figures = {
            on: figure(row.paper.get(on), [trial for trial in of_row if trial.on == on], scale=choices.scale)
            for on in table.results
        }
        rows.append(ResultRow(row.name, of_row[0].runs[-1].config.model.name if of_row else row.net, figures))
    return write_table(choices.out, table, rows, scale=choices.scale)
