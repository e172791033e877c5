from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from t3d.errors import ConfigError, T3DError
from t3d.io.journal import Journal, read_journal, whole_lines


def write(path: Path, *numbers: int) -> None:
    with Journal(path) as journal:
        for number in numbers:
            journal.add({"number": number})


def numbers(path: Path) -> list[int]:
    return [record["number"] for record in read_journal(path)]


def test_records_are_lines_of_json_that_add_up(tmp_path: Path) -> None:
    path = tmp_path / "new" / "all.jsonl"
    with Journal(path) as journal:
        journal.add({"path": "/v/坐\n.mp4", "probs": [0.5, None]})
        assert path.read_text(encoding="utf-8") == '{"path": "/v/坐\\n.mp4", "probs": [0.5, null]}\n'
    write(path, 1)
    assert list(read_journal(path))[1] == {"number": 1}
    assert list(path.parent.iterdir()) == [path]


def test_no_journal_has_no_records(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path / "none")) == []
    assert whole_lines(tmp_path / "none") == b""


@pytest.mark.parametrize("size", [0, 1, 12, 200_000])
def test_a_line_that_was_being_written_is_passed_over_and_then_cut_off(tmp_path: Path, size: int) -> None:
    path = tmp_path / "j"
    write(path, 1, 2)
    whole = path.read_bytes()
    torn = b'{"number": 3' + b" " * size
    path.write_bytes(whole + torn)
    assert numbers(path) == [1, 2]
    assert whole_lines(path) == whole
    with Journal(path) as journal:
        assert [record["number"] for record in journal.records()] == [1, 2]
        assert path.read_bytes() == whole + torn, "nothing changes until something is added"
        journal.add({"number": 4})
    assert path.read_bytes() == whole + b'{"number": 4}\n'


def test_a_file_of_one_torn_line_starts_again(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b'{"num')
    write(tmp_path / "j", 7)
    assert numbers(tmp_path / "j") == [7]


@pytest.mark.parametrize("content", [b"path,label\n", b"[1]\n", b'{"a": 1\n{"b": 2}\n', b"no line at all"])
def test_a_file_that_is_not_a_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"j, line 1: not a JSON object"), Journal(path) as journal:
        list(journal.records())
    assert path.read_bytes() == content


def test_records_are_removed_and_the_others_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"number":1}\n{"number": 2}\n{  "number": 3 }\n{"number": 4')
    with Journal(path) as journal:
        journal.keep(lambda record: record["number"] != 2)
        assert path.read_bytes() == b'{"number":1}\n{  "number": 3 }\n'
        journal.add({"number": 5})
    assert numbers(path) == [1, 3, 5]


def test_one_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.keep(lambda _: True)  # another file has the name now
        command = [sys.executable, "-c", _ADD, str(path)]
        other = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "ConfigError: another run is writing to" in other.stderr
        journal.add({"number": 1})
    subprocess.run([*command], input="", check=True)
    assert numbers(path)[:3] == [1, 0, 1]


_ADD = """
import itertools, sys
from t3d.io.journal import Journal
with Journal(sys.argv[1]) as journal:
    for number in range(3) if len(sys.argv) == 2 else itertools.count():
        journal.add({"number": number, "filler": "x" * 5000})
        print(number, flush=True)
"""


def test_a_process_killed_in_the_middle_loses_nothing_that_it_added(tmp_path: Path) -> None:
    path = tmp_path / "j"
    run = subprocess.Popen([sys.executable, "-c", _ADD, str(path), "on"], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    while int(run.stdout.readline()) < 50:
        pass
    run.send_signal(signal.SIGKILL)
    printed = run.communicate()[0].split()
    last = int(printed[-1]) if printed else 50
    seen = numbers(path)
    assert seen == list(range(len(seen)))
    assert len(seen) > last
    write(path, -1)
    assert numbers(path) == [*seen, -1]
    assert list(tmp_path.iterdir()) == [path]


_FILL = """
import resource, sys
from t3d.errors import T3DError
from t3d.io.journal import Journal
sys.dont_write_bytecode = True  # Python 3.11 does not notice that the limit cuts a compiled file off
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
with Journal(sys.argv[1]) as journal:
    for number in range(100):
        try:
            journal.add({"number": number, "filler": "x" * 300})
        except T3DError as error:
            print(error)
            break
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    journal.add({"number": -1})
"""


def test_a_disk_that_fills_up_is_an_error_and_written_lines_stay(tmp_path: Path) -> None:
    path = tmp_path / "j"
    run = subprocess.run([sys.executable, "-c", _FILL, str(path)], capture_output=True, text=True, check=True)
    assert f"{path}: cannot be written: File too large. Raise the limit" in run.stdout
    lines = path.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["number"] for line in lines] == [*range(len(lines) - 1), -1]
    assert 9_000 < len(b"".join(lines[:-1])) <= 10_000


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"
    write(path, 1)
    before = path.read_bytes()
    with (
        Journal(path) as journal,
        open("/dev/full", "wb", buffering=0) as full,  # noqa: PTH123
        monkeypatch.context() as patched,
    ):
        patched.setattr(journal, "_file", full)
        patched.setattr(journal, "_whole", True)
        with pytest.raises(T3DError, match=r"j: cannot be written: No space left on device"):
            journal.add({"number": 2})
    assert path.read_bytes() == before
    assert numbers(path) == [1]
    assert os.listdir(tmp_path) == ["j"]  # noqa: PTH208
