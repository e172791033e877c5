"""The words behind `t3d reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from t3d.errors import ConfigError

# As in t3d.reproduce.tables.SETS, which would import torch's friends before help is shown.
_SETS = ("ucf101", "hmdb51", "kinetics", "youtube8m")


def fill_reproduce(sub: ArgumentParser) -> None:
    """The options of `t3d reproduce`."""
    sub.add_argument("table", help="one of the paper's tables: table2 … table6, table8, table9, table10")
    sub.add_argument("--row", nargs="+", default=[], help="only these rows; --plan shows their names")
    for name in _SETS:
        what = "videos" if name == "youtube8m" else "folder with official lists and videos"
        sub.add_argument(f"--data.{name}", type=str | None, help=f"{what}; small scale: any videos")
        sub.add_argument(f"--videos.{name}", type=str | None, help="folder that the files of lists lie in")
        sub.add_argument(f"--index.{name}", type=str | None, help="what t3d prepare index wrote about them")
    sub.add_argument(
        "--plan", action="store_true", help="say what would be run and what it costs; run nothing"
    )
    sub.add_argument(
        "--rate", type=float | None, help="of the plan: GFLOP/s in training; else it is measured"
    )
    sub.add_argument(
        "--scale", type=Literal["paper", "small"], default="paper", help="small: the whole chain in minutes"
    )
    sub.add_argument("--out", help="folder for runs and the table; again, to go on where a run ended")
    sub.add_argument("--teacher", default="torchvision:densenet121", help="2D net of transfers")
    sub.add_argument("--teacher_weights", type=str | None, help=".safetensors file for the teacher")
    sub.add_argument("--partial", action="store_true", help="accept lists of which videos are missing")
    sub.add_argument("--seed", type=NonNegativeInt, default=0, help="every random draw follows from it")
    sub.add_argument("--workers", type=NonNegativeInt, default=2, help="processes that read videos")
    sub.add_argument("--cache", type=str | None, help="folder for decoded frames")
    sub.add_argument("--precision", type=Literal["auto", "fp32", "bf16"], default="auto", help="of the nets")
    sub.add_argument(
        "--grad_accum_steps", type=PositiveInt, default=1, help="passes of a step, to save memory"
    )
    sub.add_argument(
        "--grad_checkpointing", action="store_true", help="recompute parts of nets, to save memory"
    )


def run_reproduce(chosen: Namespace) -> int:
    """Plan or run a table, and show the result."""
    from t3d.reproduce.run import plan, reproduce
    from t3d.reproduce.runs import Choices
    from t3d.reproduce.sets import given_sets

    if not chosen.plan and not chosen.out:
        raise ConfigError("out is missing: say where runs and the table shall be, as --out FOLDER")
    if chosen.rate is not None and not chosen.plan:
        raise ConfigError("--rate belongs to --plan")
    choices = Choices(
        out=Path(chosen.out or "reproduce"),
        sets=given_sets(vars(chosen.data), vars(chosen.videos), vars(chosen.index)),
        scale=chosen.scale,
        teacher=chosen.teacher,
        teacher_weights=chosen.teacher_weights,
        partial=chosen.partial,
        seed=int(chosen.seed),
        workers=int(chosen.workers),
        cache=chosen.cache,
        precision=chosen.precision,
        grad_accum_steps=int(chosen.grad_accum_steps),
        grad_checkpointing=chosen.grad_checkpointing,
    )
    if chosen.plan:
        print(plan(chosen.table, choices, rows=chosen.row, rate=chosen.rate), end="")
        return 0
    written = reproduce(chosen.table, choices, rows=chosen.row)
    print("\n" + written[1].read_text(encoding="utf-8"))
    print(f"{written[1]}, {written[0]}")
    return 0
