"""YAML files of options that are not what they should be: one sentence, and memory and stack stay small."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from t3d.errors import ConfigError
from t3d.io.yaml_file import read_yaml

BOMB = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + n, 98 + n, b", ".join([b"*%c" % (97 + n)] * 9)) for n in range(8)
)
ODD: dict[str, tuple[bytes, str]] = {
    "utf-16": ("seed: 1".encode("utf-16"), "not UTF-8 text"),
    "latin-1": ("out: runs/größe".encode("latin-1"), "not UTF-8 text .*; save it as UTF-8"),
    "binary": (bytes(range(256)), "not UTF-8 text"),
    "zeros": (b"seed: 1\0", "not YAML: unacceptable character"),
    "large": (b"#" * (1 << 20), "larger than 262,144 bytes"),
    "bomb": (BOMB, r"has [\d,]+ values, counting those of aliases; at most 20,000"),
    "nested": (b"[" * 100_000, "nested more than 20 levels deep"),
    "nested a little": (b"[" * 30 + b"]" * 30, "nested more than 20 levels deep"),
    "cycle": (b"a: &a [*a]", "an alias refers to a value that contains it"),
    "twice": (b"seed: 1\nlr: 2\nseed: 3", "line 3 has the key 'seed' a second time"),
    "twice inside": (b"optim:\n  lr: 1\n  lr: 2", "line 3 has the key 'lr' a second time"),
    "code": (b"!!python/object/apply:os.system [true]", "not YAML: could not determine a constructor"),
    "date": (b"seed: 2026-99-99", "not YAML: month must be in 1..12"),
    "not closed": (b"seed: [1", "not YAML"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_errors(name: str, tmp_path: Path) -> None:
    content, message = ODD[name]
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 1000


def test_files_that_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + "a: &a {x: 1}\nb: [*a, *a]\nc: größe".encode())
    assert read_yaml(path) == {"a": {"x": 1}, "b": [{"x": 1}, {"x": 1}], "c": "größe"}
    path.write_bytes(b"")
    assert read_yaml(path) is None


def test_files_that_cannot_be_opened_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    with pytest.raises(ConfigError, match="no such file"):
        read_yaml(path)
    with pytest.raises(ConfigError, match=f"this file cannot be read: {os.strerror(21)}"):
        read_yaml(tmp_path)

    def denied(self: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ConfigError, match=r"Permission denied\. Change its permissions, or run t3d as"):
        read_yaml(path)
