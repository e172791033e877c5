"""Options of `t3d serve`. Importing them imports no web framework."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import get_args

from t3d.device import Precision
from t3d.errors import ConfigError, at_least, between, one_of
from t3d.runtime.formats import Runtime

MB = 1_000_000
GB = 1_000_000_000
_LEAST_OUTPUT = 100 * MB


@dataclass(frozen=True)
class ServeConfig:
    """A web server that classifies videos, and its bounds.

    Args:
        model: Weights file, the folder of a finished training run (its best weights, else its last), or a
            file that `t3d export` wrote.
        examples: Folder with a few videos that visitors can choose instead of a file.
        host: Address to listen on. Default: this machine only. With any other address, such as `0.0.0.0`,
            every visitor needs the token.
        port: Port to listen on. 0 chooses a free one.
        token_file: File with the token that visitors need, at least 16 characters. Default: the environment
            variable T3D_SERVE_TOKEN; without it, a random token if `host` is not this machine, else none.
        allowed_hosts: Host names by which visitors reach the server, such as that of a reverse proxy.
            `localhost` and the address of this machine are always allowed.
        max_mb: Largest upload, in MB.
        max_seconds: Longest video, in seconds.
        max_megapixels: Largest frame, in megapixels. 4K video has 8.9.
        timeout: Time limit per video, in seconds of computing.
        upload_timeout: Time limit per upload, in seconds.
        max_memory_gb: Memory for one video in addition to that of the model, in GB.
        max_disk_gb: Disk space for all uploads and their results, in GB. The oldest results are deleted when
            others need it.
        queue: Largest number of videos that are being uploaded or wait. Further visitors are asked to come
            back. One visitor has at most a quarter of it.
        scorers: Processes that classify videos, each with the model in memory.
        keep_minutes: Minutes for which a video and its result are kept after the work on it.
        device: Device to compute on: `auto` (a CUDA GPU if there is one, else the CPU), `cpu`, `cuda`, or one
            GPU such as `cuda:1`.
        precision: `fp32`, `bf16`, or `auto` (bf16 on devices that support it in hardware, else fp32).
        batch_size: Clips, or crops of clips, per forward pass. Affects speed and memory only.
        runtime: Program that computes the model, as for `t3d predict`.
        allow_unfinished: Accept the folder of an unfinished run, and use its best weights so far.

    Raises:
        ConfigError: A value that cannot work.
    """

    model: str
    examples: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    max_mb: float = 200.0
    max_seconds: float = 600.0
    max_megapixels: float = 9.0
    timeout: float = 300.0
    upload_timeout: float = 300.0
    max_memory_gb: float = 2.0
    max_disk_gb: float = 4.0
    queue: int = 32
    scorers: int = 1
    keep_minutes: float = 15.0
    device: str = "auto"
    precision: Precision = "auto"
    batch_size: int = 8
    runtime: Runtime = "auto"
    allow_unfinished: bool = False

    def __post_init__(self) -> None:
        between("port", self.port, 0, 65535)
        for name in ("max_mb", "max_megapixels", "max_memory_gb", "max_disk_gb"):
            at_least(name, getattr(self, name), 1e-3)
        for name in ("max_seconds", "timeout", "upload_timeout", "keep_minutes"):
            at_least(name, getattr(self, name), 1e-2)
        for name in ("queue", "scorers", "batch_size"):
            at_least(name, getattr(self, name), 1)
        one_of("precision", self.precision, get_args(Precision))
        one_of("runtime", self.runtime, get_args(Runtime))
        if self.max_disk_gb * 1000 < self.max_mb:
            raise ConfigError(
                f"max_disk_gb is {self.max_disk_gb:g} and max_mb is {self.max_mb:g}; one upload must fit on "
                "the disk: raise max_disk_gb or lower max_mb"
            )

    @property
    def max_bytes(self) -> int:
        """Largest upload in bytes."""
        return int(self.max_mb * MB)

    @property
    def max_disk(self) -> int:
        """Space for all files in bytes."""
        return int(self.max_disk_gb * GB)

    @property
    def max_output(self) -> int:
        """Largest file that the work on a video may write, in bytes."""
        return min(max(2 * self.max_bytes, _LEAST_OUTPUT), self.max_disk // 2)

    @property
    def is_local(self) -> bool:
        """True if only this machine can reach the server."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine itself.

    Example:
        >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "example.org")]
        [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
