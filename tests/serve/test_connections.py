"""Connections that send nothing, or too many of them, without a model."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import uvicorn

from t3d.serve import connections
from t3d.serve.connections import bounded


async def _app(scope: Any, _: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(0.3)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/endless":
        for _ in range(10_000):
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
    await send({"type": "http.response.body", "body": b"ok"})


class _Client(asyncio.Protocol):
    """A connection that reads everything, or nothing."""

    def __init__(self, *, reads: bool = True) -> None:
        self.reads = reads
        self.answer = b""
        self.lost = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if not self.reads:
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self.answer += data

    def connection_lost(self, _: Exception | None) -> None:
        self.lost.set()


def play(script: Any, protocol: Any) -> None:
    async def main() -> None:
        config = uvicorn.Config(_app, http=protocol, port=0, lifespan="off", log_level="critical", ws="none")
        config.load()
        state = uvicorn.server.ServerState()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        port = server.sockets[0].getsockname()[1]

        async def connect(send: bytes = b"", **options: Any) -> _Client:
            _, client = await loop.create_connection(lambda: _Client(**options), "127.0.0.1", port)
            client.transport.write(send)
            return client

        async with asyncio.timeout(60):
            await script(connect, state)
        server.close()

    asyncio.run(main())


REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_a_connection_without_a_whole_request_is_closed() -> None:
    async def script(connect: Any, state: Any) -> None:
        clients = [await connect(), await connect(REQUEST[:-2]), await connect(REQUEST)]
        for client in clients:
            await client.lost.wait()
        assert [bool(client.answer) for client in clients] == [False, False, True]
        assert not state.connections
        dripping = await connect(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        while not dripping.lost.is_set():  # a body that nobody reads does not keep it open
            dripping.transport.write(b"x")
            await asyncio.sleep(0.02)

    play(script, bounded(10, silent=0.1))


def test_a_request_may_take_longer_than_its_head() -> None:
    async def script(connect: Any, _: Any) -> None:
        client = await connect(REQUEST.replace(b"/ ", b"/slow ", 1))
        await client.lost.wait()
        assert b"ok" in client.answer

    play(script, bounded(10, silent=0.1))


def test_a_client_that_reads_nothing_is_cut_off() -> None:
    async def script(connect: Any, state: Any) -> None:
        await connect(REQUEST.replace(b"/ ", b"/endless ", 1), reads=False)
        while not state.connections:
            await asyncio.sleep(0.01)
        while state.connections:
            await asyncio.sleep(0.01)

    play(script, bounded(10, silent=0.1, stalled=0.1))


def test_more_connections_than_allowed_get_a_clear_answer() -> None:
    async def script(connect: Any, state: Any) -> None:
        idle = [await connect() for _ in range(2)]
        more = await connect(REQUEST)
        await more.lost.wait()
        head, _, body = more.answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert b"content-security-policy" in head
        assert "too many visitors" in json.loads(body)["error"]
        crowd = [await connect() for _ in range(3)]
        await crowd[-1].lost.wait()  # cut without an answer
        for client in idle:
            client.transport.close()
            await client.lost.wait()
        while len(state.connections) > 2:
            for client in crowd:
                client.transport.close()
            await asyncio.sleep(0.01)
        again = await connect(REQUEST)
        while b"ok" not in again.answer:
            await asyncio.sleep(0.01)

    play(script, bounded(2, silent=600))


def test_one_address_has_a_part_of_the_connections(monkeypatch: Any) -> None:
    async def script(connect: Any, _: Any) -> None:
        await connect()
        second = await connect(REQUEST)
        await second.lost.wait()
        assert second.answer.startswith(b"HTTP/1.1 503")

    monkeypatch.setattr(connections, "_is_local", lambda _: False)
    play(script, bounded(4, silent=600))


def test_programs_on_this_machine_may_be_a_proxy() -> None:
    assert all(map(connections._is_local, ("127.0.0.1", "127.0.0.9", "::1", "")))
    assert not any(map(connections._is_local, ("192.0.2.1", "2001:db8::1")))
