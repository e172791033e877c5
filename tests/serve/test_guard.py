"""Checks of requests, below the web framework: whatever bytes a header has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Scope

from t3d.serve.security import Guard, Rules, Visitors, allowed_hosts, network_of

TOKEN = "0123456789abcdef"


def scope_of(path: str = "/", *, client: str = "192.0.2.7", port: int = 80, **headers: str | bytes) -> Scope:
    raw = [
        (name.lower().replace("_", "-").encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in headers.items()
    ]
    return {  # as uvicorn passes it on
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "server": ("127.0.0.1", port),
        "client": (client, 1),
        "headers": raw,
    }


def answer(rules: Rules, scope: Scope) -> tuple[int, dict[str, str]]:
    """Return status and headers of the answer to a request; 200 if it is passed on."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    guard = Guard(PlainTextResponse("passed on"), rules, lambda: "login")
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize(
    "host",
    [
        b"localhost/healthz?",
        b"localhost/static/#",
        b"x/static/#",
        b"localhost:8000/healthz",
        b"localhost:8000?",
        b"user@localhost",
        b"localhost:80:80",
        b"localhost:",
        b"localhost:123456",
        b"local host",
        b"[::1]x",
        "l\xf6calhost".encode("latin-1"),
        b"",
    ],
)
@pytest.mark.parametrize("hosts", [None, allowed_hosts("127.0.0.1", (), local=True)])
def test_a_host_with_more_than_a_name_is_refused(host: bytes, hosts: frozenset[str] | None) -> None:
    rules = Rules(hosts, TOKEN)
    assert answer(rules, scope_of("/api/model", host=host))[0] == 421
    assert answer(rules, scope_of("/healthz", host=host))[0] == 421


def test_the_host_header_must_be_there_once() -> None:
    rules = Rules(None, None)
    assert answer(rules, scope_of())[0] == 421
    twice = scope_of(host="localhost")
    twice["headers"] *= 2
    assert answer(rules, twice)[0] == 421
    assert answer(rules, scope_of(host="localhost:8000"))[0] == 200
    assert answer(rules, scope_of(host="[::1]:8000"))[0] == 200


def test_the_path_of_a_check_is_that_of_the_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older web frameworks build `url.path` from the Host header: no check may read it."""

    def never(_: Request) -> Any:
        raise AssertionError("url was read")

    monkeypatch.setattr(Request, "url", property(never))
    rules = Rules(None, TOKEN)
    assert answer(rules, scope_of("/api/model", host="localhost"))[0] == 401
    assert answer(rules, scope_of("/healthz", host="localhost"))[0] == 200
    assert answer(rules, scope_of("/static/serve.css", host="localhost"))[0] == 200
    assert answer(rules, scope_of("/", host="localhost"))[0] == 401


def _cookies(visit: Callable[[Request, Response], None], scope: Scope) -> str:
    response = Response()
    visit(Request(scope), response)
    return response.headers["set-cookie"]


def test_a_visitor_is_who_this_server_said() -> None:
    visitors, others = Visitors(), Visitors()
    new = visitors.new()
    header = _cookies(lambda request, response: visitors.remember(request, response, new), scope_of())
    name = header.partition("=")[0]
    assert "80" in name  # ports of a host share cookies
    assert "Path" not in header  # below the path of a proxy, the cookie stays there
    assert "HttpOnly" in header

    def of(value: str, port: int = 80) -> str | None:
        cookie = f"{name}={value}".encode("latin-1")
        return visitors.of(Request(scope_of(cookie=cookie, port=port)))

    assert of(new) == new
    assert of(new, port=8001) is None
    wrong = (others.new(), new[:-1], new + "x", "é" * 22, "x" * 60_000, "", new.replace(".", ""))
    assert [of(value) for value in wrong] == [None] * len(wrong)


def test_addresses_of_one_network_are_one_visitor() -> None:
    def of(client: str) -> str:
        return network_of(Request(scope_of(client=client)))

    assert of("192.0.2.7") == "192.0.2.7" != of("192.0.2.8")
    assert of("2001:db8::1") == of("2001:db8::ffff:2") != of("2001:db8:0:1::1")
    assert of("unix socket") == "unix socket"
