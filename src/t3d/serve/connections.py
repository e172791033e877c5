"""Connections to the server: a bounded number, and none that does nothing.

A connection without a request costs nothing to open, so strangers could hold all that the server has. Each is
closed if it does not send a whole request soon, or does not read the answer.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from t3d.serve.security import HEADERS

SILENT = 10.0
"""Seconds for the head of a request, from the start of the connection or the answer before."""
STALLED = 60.0
"""Seconds in which a client reads nothing of an answer that is ready for it."""
_PER_ADDRESS = 4  # one address has at most this part of all connections
_REFUSED = 2  # times the largest number, after which connections are cut without an answer


def bounded(most: int, *, silent: float = SILENT, stalled: float = STALLED) -> type[H11Protocol]:
    """Return the protocol of connections, for uvicorn.

    Args:
        most: Largest number of connections. Further ones get the status 503. One address of another machine
            has at most a quarter of them. Programs on this machine have no such bound: one may be a proxy.
        silent: See `SILENT`.
        stalled: See `STALLED`.
    """

    class Connection(H11Protocol):
        _timer: asyncio.TimerHandle | None = None
        _reading: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > _REFUSED * most:
                transport.abort()
                return
            if len(self.connections) > most or self._same_address() > max(most // _PER_ADDRESS, 1):
                self.app = _too_many
            self._expect_request()

        def connection_lost(self, exc: Exception | None) -> None:
            _cancel(self._timer)
            _cancel(self._reading)
            super().connection_lost(exc)

        def handle_events(self) -> None:
            before = self.cycle
            super().handle_events()
            if self.cycle is not before and not self.cycle.response_complete:
                _cancel(self._timer)

        def on_response_complete(self) -> None:
            self._expect_request()  # before the next request starts, which may be here already
            super().on_response_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._reading = self.loop.call_later(stalled, self.transport.abort)

        def resume_writing(self) -> None:
            _cancel(self._reading)
            super().resume_writing()

        def _expect_request(self) -> None:
            _cancel(self._timer)
            self._timer = self.loop.call_later(silent, self._expired)

        def _expired(self) -> None:
            if self.transport.get_write_buffer_size() > 0:  # the end of an answer that a slow client reads
                self._timer = self.loop.call_later(stalled, self.transport.abort)
            else:
                self.transport.close()

        def _same_address(self) -> int:
            host = "" if self.client is None else self.client[0]
            if _is_local(host):
                return 0
            return sum(
                getattr(other, "client", None) is not None and other.client[0] == host  # type: ignore[union-attr, index]
                for other in self.connections
            )

    return Connection


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True  # a socket file, for example


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


async def _too_many(_: Scope, __: Receive, send: Send) -> None:
    """Answer that there are too many connections, without looking at the request."""
    body = json.dumps({"error": "The server has too many visitors at the moment. Try again in a minute."})
    headers = {
        **HEADERS,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Retry-After": "30",
        "Connection": "close",
    }
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 503, "headers": raw})
    await send({"type": "http.response.body", "body": body.encode()})
