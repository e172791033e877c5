"""Uploads: bounds on the parts of a form, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from t3d.serve import upload
from t3d.serve.config import ServeConfig
from t3d.serve.refusal import Refusal, no_space
from t3d.serve.upload import largest, receive

CONFIG = ServeConfig("model", max_mb=3)
START = b'--b\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'
END = b"\r\n--b--\r\n"


def take(file: Path, *parts: bytes, claimed: list[int] | None = None) -> str:
    async def chunks() -> AsyncIterator[bytes]:
        for part in parts:
            for first in range(0, len(part), 65536):
                yield part[first : first + 65536]

    async def claim(more: int) -> None:
        if claimed is not None:
            claimed.append(more)
            if sum(claimed) > 2_500_000:
                raise no_space()

    kind = "multipart/form-data; boundary=b"
    return asyncio.run(receive(chunks(), file, content_type=kind, config=CONFIG, claim=claim))


def test_bytes_are_claimed_before_they_are_written(tmp_path: Path) -> None:
    claimed: list[int] = []
    content = bytes(range(256)) * 9000
    assert take(tmp_path / "video", START, content, END, claimed=claimed) == "a.mp4"
    assert (tmp_path / "video").read_bytes() == content
    assert sum(claimed) == len(content)
    assert len(claimed) > 1
    with pytest.raises(Refusal) as refused:
        take(tmp_path / "other", START, content * 2, END, claimed=claimed)
    assert refused.value.status == 503


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"--b\r\n\r\n\r\n" * 1000 + END, 400, "more than 8 parts"),
        (b"--b\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 400, ""),
        (b"--b\r\n" + b"X: y\r\n" * 4000, 400, ""),
        (b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + bytes(100_000) + END, 413, "more than"),
        (START + bytes(3_000_001) + END, 413, "larger than 3 MB"),
    ],
)
def test_a_form_holds_little_but_the_file(body: bytes, status: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(Refusal) as refused:
        take(tmp_path / "video", body)
    assert (refused.value.status, message in refused.value.message) == (status, True), refused.value.message


def test_headers_of_a_part_are_bounded_whatever_the_parser_allows() -> None:
    form = upload._Form(100)
    form._begin()
    form._header_field(b"x" * 4000, 0, 4000)
    with pytest.raises(Refusal, match="too long"):
        form._header_value(b"x" * 5000, 0, 5000)


def test_the_length_of_a_request_is_reserved() -> None:
    assert largest("1000", CONFIG) == 1000
    assert largest(None, CONFIG) == largest("²", CONFIG) == largest("3000100", CONFIG) == 3_000_000
    for length in ("4000000", "9" * 5000):
        with pytest.raises(Refusal, match="larger than 3 MB"):
            largest(length, CONFIG)
