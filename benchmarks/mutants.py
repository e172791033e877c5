"""Mutation test: draw mutants of core modules by seed, and run the tests of each.

    python benchmarks/mutants.py OUT.jsonl                     # 160 mutants, resumes where OUT.jsonl ends
    python benchmarks/mutants.py OUT.jsonl --again             # runs survivors and timeouts again
    python benchmarks/mutants.py OUT.jsonl --only split --count 40 --seed 1

A mutant is one module with one small fault. Examples are another comparison or arithmetic operator, a
constant off by one, a negated condition, `any` for `all`, an incomplete seed, or a missing statement. It is
written to a temporary copy of the package, never to the checkout. A mutant is killed when one of its module's
tests fails, and survives when all pass. Modules take turns, so that each gets as many mutants; the same seed
draws the same mutants as long as the module does not change.

Heavy packages are imported once; each mutant runs in a fork of this process. Linux and macOS only.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import copy
import functools
import hashlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"

# Module -> the test files that ought to notice a fault in it.
TESTS = {
    "t3d/data/clips/sampling.py": ["tests/data/clips/test_sampling.py"],
    "t3d/data/clips/sampler.py": ["tests/data/clips/test_sampler.py"],
    "t3d/data/manifest/split.py": ["tests/data/manifest/test_split.py", "tests/data/manifest/test_labels.py"],
    "t3d/evaluation/scoring.py": ["tests/evaluation/test_scoring.py"],
    "t3d/evaluation/task.py": ["tests/evaluation/test_scoring.py", "tests/evaluation/test_multilabel.py"],
    "t3d/evaluation/metrics.py": ["tests/evaluation/test_scoring.py", "tests/evaluation/test_metrics.py"],
    "t3d/evaluation/multilabel.py": [
        "tests/evaluation/test_multilabel.py",
        "tests/evaluation/test_metrics.py",
    ],
    "t3d/evaluation/scores_table.py": [
        "tests/evaluation/test_scoring.py",
        "tests/evaluation/test_multilabel.py",
    ],
    "t3d/transfer/pairs.py": ["tests/transfer/test_pairs.py"],
    "t3d/transfer/objectives.py": ["tests/transfer/test_objectives.py"],
    "t3d/training/checkpoint.py": ["tests/training/test_checkpoint.py"],
    "t3d/models/ttl.py": ["tests/models/test_ttl.py", "tests/models/test_ttl_insertion.py"],
}
# Pinned values: run for every module, after its own tests, if the folder exists.
GOLDEN = "tests/golden"
# Imported before the first fork.
HEAVY = ["accelerate", "av", "pyarrow.parquet", "pytest", "torchvision.transforms.v2"]

# Operator -> replacements, one mutant each.
_OPERATORS = """\
Lt LtE Gt|LtE Lt Gt|Gt GtE Lt|GtE Gt Lt|Eq NotEq|NotEq Eq|Is IsNot|IsNot Is|In NotIn|NotIn In|And Or|
Or And|Add Sub|Sub Add|Mult Add|Div Mult|FloorDiv Mult|Mod FloorDiv|BitAnd BitOr|BitOr BitAnd|Pow Mult"""
OPERATORS = {first: others for first, *others in map(str.split, _OPERATORS.split("|"))}
_NAMES = "any all|min max|argmin argmax|minimum maximum|zeros_like ones_like|zeros ones|sum mean"
NAMES = {a: b for pair in _NAMES.split("|") for a, b in (pair.split(), pair.split()[::-1])}
Row = dict[str, Any]


@dataclass(frozen=True)
class Mutant:
    """One module with one fault; `key`, a digest of both, names it across runs."""

    module: str
    line: int
    kind: str
    before: str
    after: str
    key: str
    source: str


def changed(node: ast.AST, **fields: object) -> ast.AST:
    """A shallow copy of a node with some fields changed."""
    node = copy.copy(node)
    for name, value in fields.items():
        setattr(node, name, value)
    return node


def others(op: ast.AST) -> list[ast.AST]:
    """Return the operators that may replace an operator."""
    return [getattr(ast, name)() for name in OPERATORS.get(type(op).__name__, [])]


def faults(node: ast.AST) -> Iterator[tuple[str, ast.AST | str]]:
    """Kind and replacement (a node, or a statement's text) of each fault that a node can have."""
    match node:
        case ast.Compare(ops=ops):
            for at, op in enumerate(ops):
                for other in others(op):
                    yield "comparison", changed(node, ops=[*ops[:at], other, *ops[at + 1 :]])
        case ast.BoolOp(op=op) | ast.BinOp(op=op) | ast.AugAssign(op=op):
            yield from (("operator", changed(node, op=other)) for other in others(op))
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            yield "sign or not", operand
        case ast.Constant(value=bool(value)):
            yield "constant", ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield from (("constant", ast.Constant(value + step)) for step in (1, -1))
        case ast.Constant(value=float(value)):
            yield "constant", ast.Constant(value * 2 or 1.0)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name) as func) if name in NAMES:
            yield "name", changed(node, func=changed(func, id=NAMES[name], attr=NAMES[name]))
        case ast.Call(func=func, args=[ast.Tuple(elts=parts), *rest]) if "rng" in ast.unparse(func):
            for at in range(len(parts)):
                fewer = ast.Tuple([*parts[:at], *parts[at + 1 :]], ast.Load())
                yield "seed", changed(node, args=[fewer, *rest])
        case ast.Slice():
            ends = [name for name in ("lower", "upper") if getattr(node, name)]
            yield from (("slice", changed(node, **{end: None})) for end in ends)
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            yield "condition", test
        case ast.comprehension(ifs=ifs):
            yield from (("condition", test) for test in ifs)
        case ast.Return(value=ast.Constant(value=None)) | ast.Assign(value=ast.Name()):
            pass  # nothing changes; a plain self.x = x cannot go unnoticed
        case ast.Return(value=ast.expr()):
            yield "statement left out", "return None"
        case (
            ast.Raise() | ast.Expr(value=ast.Call()) | ast.Assign(targets=[ast.Subscript() | ast.Attribute()])
        ):
            yield "statement left out", "pass"
        case ast.Continue() | ast.Break():
            yield "jump", "break" if isinstance(node, ast.Continue) else "continue"


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes that run: no annotations, decorators, messages, f-strings or type aliases."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list", "exc", "msg"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            match node, child:
                case (ast.JoinedStr(), _) | (ast.Module(), ast.Assign(value=ast.Subscript() | ast.BinOp())):
                    continue
                case _, ast.keyword(arg="strict" | "stacklevel"):  # assertions without an effect
                    continue
                case _, ast.AST():
                    yield from walk(child)


def mutants_of(module: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its text, each once."""
    text = (SOURCE / module).read_bytes()
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    mutants: dict[str, Mutant] = {}
    for node in walk(ast.parse(text)):
        for kind, new in faults(node):
            place = new if kind == "condition" else node  # the condition itself is replaced
            assert isinstance(place, ast.expr | ast.stmt)
            begin = starts[place.lineno - 1] + place.col_offset
            end = starts[(place.end_lineno or 0) - 1] + (place.end_col_offset or 0)
            after = new if isinstance(new, str) else ast.unparse(new)
            if kind == "condition":
                after = f"not ({after})"
            if isinstance(place, ast.expr) and not isinstance(place, ast.Slice):
                after = f"({after})"
            source = (text[:begin] + after.encode() + text[end:]).decode()
            key = hashlib.sha256(f"{module}\n{source}".encode()).hexdigest()[:16]
            mutants.setdefault(
                key, Mutant(module, place.lineno, kind, ast.unparse(place), after, key, source)
            )
    return list(mutants.values())


def draw(modules: list[str], count: int, seed: int) -> list[Mutant]:
    """Draw mutants from the modules in turn, until there are enough or none are left."""
    piles = [mutants_of(module) for module in modules]
    for module, pile in zip(modules, piles, strict=True):
        random.Random(f"{seed} {module}").shuffle(pile)
    turns = [pile[at] for at in range(max(map(len, piles))) for pile in piles if at < len(pile)]
    return turns[:count]


def run_tests(package: Path, module: str, log: Path) -> None:
    """Run the tests of a module against a copy of the package; this process ends with pytest's status."""
    os.setsid()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    sys.path.insert(0, str(package))
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
    tests = [package / module, *TESTS[module], *([GOLDEN] if (ROOT / GOLDEN).is_dir() else [])]
    options = ["-xq", "--tb=line", "-pno:cacheprovider", f"--rootdir={ROOT}", "-cpyproject.toml"]
    options += [f"--basetemp={log.parent / 'tmp'}"]
    sys.exit(int(import_module("pytest").main([*options, *map(str, tests)])))


def outcome(package: Path, module: str, source: str, timeout: float) -> tuple[str, str]:
    """Return `killed`, `survived` or `timeout`, and the test that failed."""
    target, log = package / module, package.parent / "log"
    for stale in (target.parent / "__pycache__").glob(f"{target.stem}.*.pyc"):
        stale.unlink()
    target.write_text(source, encoding="utf-8")
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(package, module, log))
    process.start()
    process.join(timeout)
    status = process.exitcode
    assert process.pid is not None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the tests with whatever they started
    process.join()
    shutil.copyfile(SOURCE / module, target)
    log_text = log.read_text(encoding="utf-8", errors="replace")
    if status is None or status == 0:
        return ("timeout" if status is None else "survived"), ""
    if status > 2:  # no test failed: pytest could not run them
        raise SystemExit(f"pytest left with status {status} for {module}:\n{log_text[-2000:]}")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", log_text, re.MULTILINE)
    return "killed", failed[1] if failed else f"status {status}"


def seconds_without_fault(package: Path, module: str) -> float:
    """Return the duration of a module's tests, which must pass."""
    begin = time.monotonic()
    status, by = outcome(package, module, (SOURCE / module).read_text(encoding="utf-8"), 600)
    if status != "survived":
        raise SystemExit(f"the tests of {module} fail without any fault: {by or status}")
    return time.monotonic() - begin


def read_results(path: Path) -> dict[str, Row]:
    """Return the last result of each mutant, and remove an incomplete last line."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        path.write_text(text, encoding="utf-8")
    return {row["key"]: row for row in map(json.loads, text.splitlines())}


def report(rows: list[Row]) -> None:
    """Print the counts of each module, then every mutant that was not killed."""
    print(f"\n{'module':30} {'killed':>8} {'survived':>8} {'timeout':>8} {'seconds':>8}")
    for module in [*dict.fromkeys(row["module"] for row in rows), "all"]:
        mine = [row for row in rows if module in (row["module"], "all")]
        counts = Counter(row["status"] for row in mine)
        counts["seconds"] = round(sum(row["seconds"] for row in mine))
        print(f"{module:30}", *(f"{counts[name]:8}" for name in ("killed", "survived", "timeout", "seconds")))
    for row in rows:
        if row["status"] != "killed":
            print(f"\n{row['status']}: {row['module']}:{row['line']} ({row['kind']})")
            print(f"  - {row['before']}\n  + {row['after']}")


def main() -> None:
    """Draw mutants, run those without a result, and report all."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("out", type=Path, help="JSONL file with one line per mutant")
    parser.add_argument("--count", type=int, default=160, help="mutants to draw (default: 160)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default: 0)")
    parser.add_argument("--only", default="", help="draw from modules whose path contains this text")
    parser.add_argument("--again", action="store_true", help="run survivors and timeouts again")
    options = parser.parse_args()
    modules = [module for module in TESTS if options.only in module]
    if not modules:
        parser.error(f"--only is {options.only}; it must be part of one of {', '.join(TESTS)}")
    drawn = draw(modules, options.count, options.seed)
    results = read_results(options.out)
    done = {key for key, row in results.items() if row["status"] == "killed" or not options.again}
    for name in HEAVY:
        import_module(name)
    with tempfile.TemporaryDirectory() as folder, options.out.open("a", encoding="utf-8") as file:
        package = Path(folder) / "src"
        shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        compileall.compile_dir(package, quiet=1)
        seconds = functools.cache(functools.partial(seconds_without_fault, package))
        for number, mutant in enumerate(drawn, 1):
            if mutant.key in done:
                continue
            timeout = 20 + 5 * seconds(mutant.module)
            begin = time.monotonic()
            status, by = outcome(package, mutant.module, mutant.source, timeout)
            row = {name: value for name, value in asdict(mutant).items() if name != "source"}
            row |= {"status": status, "by": by, "seconds": round(time.monotonic() - begin, 1)}
            results[mutant.key] = row
            print(json.dumps(row, ensure_ascii=False), file=file, flush=True)
            print(f"{number}/{len(drawn)} {status:8} {mutant.module}:{mutant.line} {mutant.kind}", flush=True)
    report([results[mutant.key] for mutant in drawn])


if __name__ == "__main__":
    main()
