"""Checks of every request, and headers of every answer.

- Host: a page on another site that points its name at this machine (DNS rebinding) is refused.
  The web framework builds addresses from this header, so no check reads the path from them.
- Origin: a page of another site cannot send or delete anything.
- Token: needed if other machines reach the server.
- Headers: the browser runs no script except the files of this server, and shows the page in no frame.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_OPEN_PATHS = ("/healthz", "/login")  # without the token
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_DAY = 24 * 3600
_WEEK = 7 * _DAY
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_VISITOR = re.compile(r"([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{22})")
_IPV6_NETWORK = 64  # bits of an address that a provider gives to one customer
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "media-src 'self' blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer, the form of the token would have no Origin
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Rules:
    """Rules about who may send requests.

    Args:
        hosts: Names by which the server may be reached, in lower case, without port. None: any.
        token: The token that visitors need. None: nobody needs one.
    """

    hosts: frozenset[str] | None
    token: str | None

    @property
    def cookie(self) -> str:
        """Name of the cookie that stands for the token. Servers on other ports have other names."""
        return f"t3d_token_{self._digest('name')[:8]}"

    def has_token(self, request: Request) -> bool:
        """Return whether a request has the token, in a header, the cookie, or the query of the page."""
        if self.token is None:
            return True
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(given.strip()):
            return True
        cookie = request.cookies.get(self.cookie, "")
        if _same(cookie, self._digest("cookie")):
            return True
        return request.scope["path"] == "/" and self.is_token(request.query_params.get("token", ""))

    def is_token(self, text: str) -> bool:
        """Compare a text with the token, in a time that does not depend on where they differ."""
        return self.token is not None and _same(text, self.token)

    def remember(self, request: Request, response: Response) -> None:
        """Store that this browser has the token. The cookie does not contain the token."""
        set_cookie(request, response, self.cookie, self._digest("cookie"), seconds=_WEEK)

    def _digest(self, purpose: str) -> str:
        return hmac.new((self.token or "").encode(), purpose.encode(), hashlib.sha256).hexdigest()


def allowed_hosts(host: str, names: tuple[str, ...], *, local: bool) -> frozenset[str] | None:
    """Return the host names that requests may have.

    Args:
        host: Address that the server listens on.
        names: More names, given by the operator.
        local: Whether only this machine reaches the server.

    Returns:
        The names. None if other machines reach the server by names that nobody gave: they need the token.
    """
    if not local and not names:
        return None
    return frozenset({*_LOCAL_NAMES, host.lower().strip("[]"), *(name.lower() for name in names)})


def set_cookie(request: Request, response: Response, name: str, value: str, *, seconds: int) -> None:
    """Set a cookie that scripts and other sites cannot use, for the part of the host that has the page.

    It has no path, so browsers use the folder of the request: the server may be below a path of a proxy.
    """
    secure = request.url.scheme == "https"
    response.set_cookie(
        name, value, max_age=seconds, httponly=True, samesite="strict", secure=secure, path=None
    )


class Visitors:
    """Cookies that say which videos are those of a browser: 128 random bits, signed by this server.

    Browsers share cookies between the ports of a host, so the name has the port, and a value that this run
    of the server did not sign is not accepted.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def of(self, request: Request) -> str | None:
        """Return the visitor who sends a request; None without a cookie of this server."""
        given = _VISITOR.fullmatch(request.cookies.get(self._name(request), ""))
        return given[0] if given is not None and _same(given[2], self._signature(given[1])) else None

    def new(self) -> str:
        """Return a new visitor."""
        name = secrets.token_urlsafe(16)
        return f"{name}.{self._signature(name)}"

    def remember(self, request: Request, response: Response, visitor: str) -> None:
        """Store who this browser is."""
        set_cookie(request, response, self._name(request), visitor, seconds=_DAY)

    def _name(self, request: Request) -> str:
        _, port = request.scope.get("server") or ("", 0)
        return f"t3d_visitor_{port}"

    def _signature(self, name: str) -> str:
        digest = hmac.new(self._key, name.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest[:16]).decode().rstrip("=")


def network_of(request: Request) -> str:
    """Return the address that a request is from, for bounds per visitor.

    Of an IPv6 address it is the network, since one customer of a provider has all addresses in it.
    """
    host = "" if request.client is None else request.client.host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((int(address), _IPV6_NETWORK), strict=False))


def is_browser(request: Request) -> bool:
    """Return whether a request is from a browser, by headers that programs do not send."""
    return "sec-fetch-site" in request.headers or "origin" in request.headers


class Guard:
    """ASGI middleware that checks every request and adds headers to every answer.

    Args:
        app: The application.
        rules: Who may send requests.
        login_page: Returns the page that asks for the token.
    """

    def __init__(self, app: ASGIApp, rules: Rules, login_page: Callable[[], str]) -> None:
        self._app = app
        self._rules = rules
        self._login_page = login_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        request = Request(scope)
        refused = self._refusal(request)
        await (self._app if refused is None else refused)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        hosts = [value for name, value in request.scope["headers"] if name == b"host"]
        if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:
            return _refused(421, "The header `Host` must be a name or an address, and may have a port.")
        host = hosts[0].decode("ascii")
        path = request.scope["path"]
        if self._rules.hosts is not None and _name_of(host) not in self._rules.hosts:
            return _refused(
                421,
                "This host name is not allowed. The operator of the server can add it to `allowed_hosts`.",
            )
        if request.method not in _SAFE_METHODS and _is_cross_site(request, host):
            return _refused(403, "Another site sent this request. Use the page of this server.")
        if path in _OPEN_PATHS or path.startswith("/static/"):
            return None
        if not self._rules.has_token(request):
            if path == "/":
                return HTMLResponse(self._login_page(), 401)
            given = "This token is wrong" if request.headers.get("authorization") else "A token is needed"
            message = f"{given}. Send the right one as the header `Authorization: Bearer TOKEN`."
            return _refused(401, message, {"WWW-Authenticate": "Bearer"})
        return None


def _refused(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    # The body of an upload is not read.
    return JSONResponse({"error": message}, status, {"Connection": "close", **(headers or {})})


def _is_cross_site(request: Request, host: str) -> bool:
    """Return whether the page that sends a request is of another site. Programs do not say."""
    site = request.headers.get("sec-fetch-site")
    if site not in (None, "same-origin", "none"):
        return True
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.lower() != host.lower()


def _name_of(host: str) -> str:
    """Return the name in a Host header, without the port.

    Example:
        >>> [_name_of(host) for host in ("LOCALHOST:8000", "[::1]:8000", "example.org")]
        ['localhost', '::1', 'example.org']
    """
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    return name.lower()


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), right.encode())
