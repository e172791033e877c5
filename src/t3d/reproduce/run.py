"""Implementation of `t3d reproduce`: check the options, run the rows of a table, write the result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
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
from t3d.reproduce.processes import AllProcesses
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

    Under torchrun, every process calls this function. Only the main process writes.

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
        OtherProcessError: Another process failed. It raises its own error.
    """
    processes = AllProcesses()
    with processes.agreed():
        table = read_table(name)
        chosen = table.chosen(rows)
        _refuse_missing(table, chosen, choices)
        possible = tuple(row for row in table.rows if set(sets_of(table, (row,))) <= set(choices.sets))
        splits = open_sets(table, possible, choices)
        trials = {row.name: trials_of(table, row, splits, choices) for row in chosen}
        _check_batches(trials.values(), processes)
    processes.on_main(lambda: _check_teacher(trials.values(), choices))
    for row in possible:  # another command may have run these rows
        if row not in chosen:
            with suppress(T3DError):  # then no command can have run the row
                trials[row.name] = trials_of(table, row, splits, choices)
    _refuse_other_videos([trial for row in chosen for trial in trials[row.name]], processes)
    with ExitStack() as held:
        processes.on_main(lambda: _lock(choices.out, held))
        files = processes.on_main(lambda: _write(table, trials, choices))
        with _overall_progress(table, [trial for row in chosen for trial in trials[row.name]]) as bar:
            for row in chosen:
                processes.say(f"\n{table.name}, row {row.name}")
                for trial in trials[row.name]:
                    _run_trial(trial, choices, bar, processes)
                files = processes.on_main(lambda: _write(table, trials, choices))
        processes.finish()
    return files


def _lock(out: Path, held: ExitStack) -> None:
    out.mkdir(parents=True, exist_ok=True)
    held.enter_context(alone_in(out))


def _check_batches(trials: Iterable[Sequence[Trial]], processes: AllProcesses) -> None:
    for run in (run for row in trials for trial in row for run in trial.runs):
        optim = run.config.optim
        where = f"{run.kind} on {run.on}"
        processes.refuse_batch(optim.batch_size, optim.grad_accum_steps, where=where)


def _refuse_other_videos(trials: Sequence[Trial], processes: AllProcesses) -> None:
    """Raise an error if a process does not find the same videos as the main process."""
    mine = [str(trial.folder) for trial in trials]
    others = processes.on_main(lambda: mine)
    with processes.agreed():
        if mine != others:
            raise ConfigError(
                f"process {processes.rank} finds other videos than the main process; every machine needs the "
                "same data sets, in folders of the same names"
            )


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


def _run_trial(trial: Trial, choices: Choices, bar: Bar, processes: AllProcesses) -> None:
    if processes.on_main(trial.metrics.exists):
        processes.say(f"{trial.on} split {trial.split} is done: {trial.folder}")
        return
    for run in trial.runs:
        _run(run, trial.row, bar, processes)
    processes.on_main(trial.test.write)
    with processes.together():
        outcome = run_test(
            TestConfig(
                str(trial.runs[-1].folder.last),
                trial.test.name,
                reading=Reading(trial.test.root, trial.test.index, choices.cache),
                compute=Compute(precision=choices.precision, workers=choices.workers),
            ),
            processes=processes.scoring,
        )
    processes.on_main(lambda: write_result(outcome, trial.folder))
    processes.say(f"{trial.on} split {trial.split}: {outcome.single.headline()}")


def _run(run: Run, row: str, bar: Bar, processes: AllProcesses) -> None:
    if processes.on_main(run.mark.exists):
        return
    processes.say(f"Run {bar.done + 1:.0f} of {bar.total:.0f}: {run.kind} on {run.on}")
    processes.on_main(run.part.write)
    resume = processes.on_main(run.folder.config.exists)
    stopped = f"stopped by a signal in row {row}; run the same command again to resume"
    with processes.together():
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
    processes.on_main(lambda: _mark(run))
    bar.advance()
    with processes.agreed():
        if noticed:
            raise StoppedError(stopped, noticed[0])


def _mark(run: Run) -> None:
    with atomic_path(run.mark) as temporary:
        temporary.write_text("t3d reproduce\n", encoding="utf-8")


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
