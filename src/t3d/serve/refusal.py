"""Refusal of a request, with a message for the visitor."""

from __future__ import annotations

from collections.abc import Mapping


class Refusal(Exception):  # noqa: N818 (an answer, not an error of the server)
    """Answer to a request that cannot be fulfilled.

    Args:
        status: HTTP status.
        message: What was received, what is allowed and what to do.
        headers: More headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


def no_space(headers: Mapping[str, str] | None = None) -> Refusal:
    """Return the refusal of a video for which the disk has no space.

    Args:
        headers: More headers of the answer.
    """
    message = "The server has no space for another video at the moment. Try again in a few minutes."
    return Refusal(503, message, {"Retry-After": "120", **(headers or {})})
