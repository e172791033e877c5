"""From signatures to options and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from t3d.cli.options import REQUIRED, Option, Spelling, call, options_of
from t3d.cli.parser import Given, UsageError, in_options, parse, read_words


@dataclass(frozen=True)
class Machine:
    """A value object.

    Args:
        kind: Sort of machine.
        cores: Number of cores,
            over two lines.
    """

    kind: Literal["none", "many"] = "none"
    cores: int = 2


@dataclass(frozen=True)
class Optim:
    """A section.

    Args:
        lr: Learning rate.
        nesterov: Use Nesterov momentum.
    """

    lr: float = 0.1
    nesterov: bool = True


@dataclass(frozen=True)
class Base:
    """Options.

    Args:
        source: Input file.
        machine: Where to compute.
    """

    source: str
    machine: Machine = field(default_factory=lambda: Machine(cores=4))


@dataclass(frozen=True)
class Config(Base):
    """More options.

    Args:
        optim: How to learn.
    """

    optim: Optim = field(default_factory=Optim)


def library(data: object, *, seed: int = 0, progress: object = None) -> None:
    """Do the work.

    Args:
        data: Anything.
        seed: Seed of the draw.
        progress: Callback.
    """


SEEN: dict[str, Any] = {}


@Spelling(
    short={"--lr": "optim.lr"},
    metavars={"names": "NAME"},
    forwards=f"{__name__}:library",
    hidden=("progress",),
)
def command(  # noqa: D417 (a value object has docs of its own)
    config: Config,
    names: list[str] | None = None,
    *,
    out: str,
    roots: dict[Literal["a", "b"], str] = {},  # noqa: B006 (read only)
    size: tuple[int, int] = (3, 4),
    extra: dict[str, Any] = {},  # noqa: B006 (read only)
    **options: Any,
) -> int:
    """Do it.

    Args:
        names: Names to show.
        out: Output file.
        roots: Folder of a set.
        size: Height and width.
        extra: Anything else.
    """
    SEEN.clear()
    SEEN.update(config=config, names=names, out=out, roots=roots, size=size, extra=extra, options=options)
    return 7


OPTIONS = options_of(command)


def read(*words: str) -> list[Given]:
    return read_words(words, OPTIONS, lambda _: ())


def run(*words: str) -> dict[str, Any]:
    assert call(command, OPTIONS, parse(OPTIONS, read(*words))) == 7
    return SEEN


def option(key: str) -> Option:
    (match,) = [each for each in OPTIONS if each.key == key]
    return match


def test_the_signature_is_the_definition() -> None:
    keys = ["source", "machine", "cores", "optim.lr", "optim.nesterov", "names", "out", "roots.a", "roots.b"]
    assert [each.key for each in OPTIONS] == [*keys, "size", "extra", "seed"]
    assert [each.key for each in OPTIONS if each.positional] == ["source", "names"]
    assert [each.key for each in OPTIONS if each.default is REQUIRED] == ["source", "out"]
    assert (option("cores").default, option("cores").help) == (4, "Number of cores, over two lines.")
    assert (option("machine").choices, option("machine").default) == (("none", "many"), "none")
    assert (option("optim.lr").flag, option("optim.lr").full) == ("--lr", "--optim.lr")
    assert (option("optim.nesterov").off, option("optim.nesterov").shown_default) == (
        "--optim.no-nesterov",
        "on",
    )
    assert (option("seed").default, option("seed").help) == (0, "Seed of the draw.")
    assert option("size").shown_default == "3 4"


def test_values_are_passed_by_the_signature() -> None:
    seen = run("in.txt", "--out", "o")
    assert seen["config"] == Config("in.txt")
    assert (seen["names"], seen["roots"], seen["size"], seen["extra"]) == (None, {}, (3, 4), {})
    assert seen["options"] == {"seed": 0}
    words = ["--machine", "many", "--cores=3", "--lr", "-2e-1", "--optim.no-nesterov", "--seed", "5"]
    words += ["--roots.b", "x", "--size", "5", "6", "--extra.key", "3", "--out", "null.txt"]
    seen = run("in.txt", *words)
    assert seen["config"] == Config("in.txt", Machine("many", 3), Optim(-0.2, nesterov=False))
    assert (seen["roots"], seen["size"], seen["extra"]) == ({"b": "x"}, (5, 6), {"key": 3})
    assert (seen["out"], seen["options"]) == ("null.txt", {"seed": 5})


def test_words_without_a_name_may_stand_anywhere() -> None:
    for words in (
        ["a", "b", "--out", "o", "true"],
        ["--out", "o", "a", "b", "true"],
        ["a", "--out=o", "b", "true"],
    ):
        seen = run(*words)
        assert (seen["config"].source, seen["names"], seen["out"]) == ("a", ["b", "true"], "o")
    seen = run("--out", "o", "--", "--a", "-b")
    assert (seen["config"].source, seen["names"]) == ("--a", ["-b"])


def test_the_last_word_wins() -> None:
    seen = run("a", "--out", "o", "--lr", "1", "--optim.lr", "2", "--optim.no-nesterov", "--optim.nesterov")
    assert seen["config"].optim == Optim(2.0, nesterov=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "missing: SOURCE, --out PATH"),
        ("a", "missing: --out PATH"),
        ("a --out o --lr", "--lr needs a value: --lr X"),
        ("a --out o --cores x", "--cores is 'x'; it must be a whole number"),
        ("a --out o --machine man", "--machine is 'man'; did you mean 'many'?"),
        ("a --out o --size 1", r"--size is '\[1\]'; it must be 2 numbers"),
        ("a --out o --optim.nesterov=3", "--optim.nesterov is '3'; it must be true or false"),
        (
            "a --out o --optim.momentum 3",
            "unknown option --optim.momentum; options of optim: --lr, --optim.nes",
        ),
        ("a --out o --core 3", "unknown option --core; did you mean --cores?"),
        ("--source a", "unknown option --source; give SOURCE without a name"),
        ("a --out o --engine ray", "unknown option --engine$"),
        ("a --out o --decoder pyav", "unknown option --decoder: PyAV decodes all videos"),
    ],
)
def test_mistakes(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(*words.split())


@pytest.mark.parametrize("name", ["🎬.mp4", 'a"b\\ud83c.mp4', "Fu\u00dfball\t\x7f.mp4", "null", "[x]"])
def test_names_of_files_are_kept_as_they_are(name: str) -> None:
    assert run("x.mp4", name, "plain", "--out", "o")["names"] == [name, "plain"]


def test_too_many_words() -> None:
    plain = [each for each in OPTIONS if each.key != "names"]
    with pytest.raises(UsageError, match=r"unexpected argument 'b'$"):
        read_words(["a", "b"], plain, lambda _: ())
    with pytest.raises(UsageError, match=r"unexpected argument 'true'; --optim.nesterov takes no value"):
        read_words(["a", "--optim.nesterov", "true"], plain, lambda _: ())


def test_an_option_of_another_command_is_found() -> None:
    with pytest.raises(UsageError, match="unknown option --quagga; it belongs to t3d zoo"):
        read_words(["--quagga", "1"], OPTIONS, lambda key: ["zoo"] if key == "quagga" else [])


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("cores is 0; it must be at least 1", "--cores is 0; it must be at least 1"),
        ("optim.lr is 0, with optim.nesterov", "--lr is 0, with --optim.nesterov"),
        ("source is missing", "SOURCE is missing"),
        ("x.csv: set `out`, or optim.lr", "x.csv: set --out, or --lr"),
        ("set seed=True", "set --seed"),
        ("the cores of data/optim.lr are out", "the cores of data/optim.lr are out"),
        ("optim.lrs, no_optim.lr", "optim.lrs, no_optim.lr"),
    ],
)
def test_a_librarys_message_names_options(message: str, shown: str) -> None:
    assert in_options(message, OPTIONS) == shown


def test_the_last_word_of_a_key_is_enough_if_unique() -> None:
    one, other = (Option(key, str, "") for key in ("data.source_pattern", "pairs.source_pattern"))
    message = "name sources more finely (source_pattern)"
    assert in_options(message, [one]) == "name sources more finely (--data.source-pattern)"
    assert in_options(message, [one, other]) == message


def test_a_last_word_without_underscore_stands_for_a_key_in_backticks() -> None:
    one, other = (
        Option(key, str, "", short=short) for key, short in (("data.root", "--root"), ("x.root", ""))
    )
    assert in_options("`root` is a; the root", [one]) == "--root is a; the root"
    assert in_options("`root` is a", [one, other]) == "`root` is a"


def test_a_message_names_an_option_as_it_was_typed() -> None:
    given = read("a", "--out", "o", "--optim.lr", "3")
    assert in_options("optim.lr is 3", OPTIONS, given) == "--optim.lr is 3"
