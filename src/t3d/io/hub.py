"""Models on the Hugging Face Hub: names such as `hf-hub:org/name@revision`, and their local copies.

`huggingface_hub` downloads and caches. It reads HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE. Only files
with the names below are requested, whatever else a repository contains. No pickle is ever downloaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from t3d.errors import CheckpointError, FetchError, T3DError, first_line, printable, shortened
from t3d.io.files import writing

PREFIX = "hf-hub:"
"""Start of the name of a model on the Hub."""
SHARED = "config.json"
"""File that marks a folder or repository that `t3d push` wrote."""
WEIGHTS = ("best.safetensors", "last.safetensors", "model.safetensors")
"""Weights files of a run folder, and of a folder that `t3d push` wrote."""
_STEMS = tuple(Path(name).stem for name in WEIGHTS)
FILES = (SHARED, *WEIGHTS, *(f"{stem}{ending}" for stem in _STEMS for ending in (".xml", ".bin", ".onnx")))
"""Names of all files that are downloaded."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_ANSWER = 30  # seconds
_LISTED = 5  # files of a repository in a message
_FORM = "hf-hub:ORGANIZATION/NAME or hf-hub:ORGANIZATION/NAME@REVISION"


class HubName(NamedTuple):
    """Name of a model on the Hub.

    Args:
        repo: Organization or user, and name of the repository: `org/name`.
        revision: Branch, tag or commit; None for the main branch.
    """

    repo: str
    revision: str | None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def is_hub(name: str | os.PathLike[str]) -> bool:
    """Return whether a name is that of a model on the Hub.

    Example:
        >>> is_hub("hf-hub:org/name"), is_hub("runs/mine")
        (True, False)
    """
    return os.fspath(name).startswith(PREFIX)


def hub_name(text: str | os.PathLike[str]) -> HubName:
    """Return the parts of a name.

    Raises:
        CheckpointError: It is not of the form `hf-hub:org/name@revision`.

    Example:
        >>> hub_name("hf-hub:org/name@v1")
        HubName(repo='org/name', revision='v1')
    """
    name = os.fspath(text)
    match = re.fullmatch(r"hf-hub:([\w.-]+/[\w.-]+)(?:@([\w][\w./-]*))?", name, re.ASCII)
    if match is None or ".." in name or "--" in match[1]:
        raise CheckpointError(
            f"{printable(shortened(name))}: not the name of a model on the Hub; use {_FORM}"
        )
    return HubName(match[1], match[2])


def located(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return the weights file of a model on the Hub, downloaded if necessary, and any other path unchanged.

    Raises:
        CheckpointError: See `local_folder`.
        FetchError: See `local_folder`.
    """
    if not is_hub(path):
        return path
    folder = local_folder(os.fspath(path))
    return next(folder / name for name in WEIGHTS if (folder / name).is_file())


@cache
def local_folder(text: str) -> Path:
    """Download a model from the Hub, and return its folder in the cache of huggingface_hub.

    A process asks the Hub once per name, so that all parts of a command use the same revision.

    Args:
        text: Name of the model, such as `hf-hub:org/name@v1`.

    Returns:
        The folder, which has at least one weights file.

    Raises:
        CheckpointError: The name is malformed, the repository or revision does not exist or is private, or
            it has no weights file of T3D.
        FetchError: The Hub cannot be reached, and the model is not in the cache.
        WriteError: The cache cannot be written.
    """
    name = hub_name(text)
    from huggingface_hub import constants, snapshot_download

    with hub_errors(name), writing(constants.HF_HUB_CACHE):
        folder = Path(
            snapshot_download(
                name.repo,
                revision=name.revision,
                local_files_only=not _answers(name),
                allow_patterns=list(FILES),
                library_name="t3d",
                library_version=version("t3d"),
                cache_dir=constants.HF_HUB_CACHE,
                endpoint=constants.ENDPOINT,
            )
        )
    if not any((folder / file).is_file() for file in WEIGHTS):
        raise CheckpointError(f"{name}: {_without_weights(name)}")
    return folder


def _answers(name: HubName) -> bool:
    """Return whether the Hub answers within a time limit. A download by huggingface_hub has none for this.

    A connection that fails counts as an answer: the download then uses the cache, or says why it cannot.
    """
    import httpx2
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return True
    api = HfApi(endpoint=constants.ENDPOINT, library_name="t3d", library_version=version("t3d"))
    try:
        api.model_info(name.repo, revision=name.revision, timeout=_ANSWER)
    except httpx2.TimeoutException:
        return False
    except httpx2.TransportError:
        return True
    return True


@contextmanager
def hub_errors(name: HubName, *, other: type[T3DError] = FetchError) -> Iterator[None]:
    """Turn the errors of huggingface_hub into errors that say what to do. None of them contains a token.

    Args:
        name: The model that the block reads or writes.
        other: Type of the error if the Hub cannot be reached, or its answer is an error.

    Raises:
        CheckpointError: There is no such repository or revision, or it may not be used.
        T3DError: Any other error of the Hub or the network. It has the type `other`.
    """
    import httpx2
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{name}: access to this model must be requested. Open its page on the Hub, accept its terms, "
            "and log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"{name}: the repository has no branch, tag or commit {name.revision or 'main'}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{name}: there is no such repository, or it is private. Check the name; for a private one, log "
            "in with `hf auth login` or set HF_TOKEN to a token that may use it"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise other(f"{name}: {_refused(error.__cause__)}") from error
        raise other(f"{name}: {_unreachable(error, offline=constants.HF_HUB_OFFLINE)}") from error
    except errors.OfflineModeIsEnabled as error:
        raise other(f"{name}: {_unreachable(error, offline=True)}") from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"{name}: {first_line(error)}; use {_FORM}") from error
    except errors.HfHubHTTPError as error:
        raise other(f"{name}: {_refused(error)}") from error
    except httpx2.HTTPError as error:
        raise other(
            f"{name}: the connection to {constants.ENDPOINT} failed ({type(error).__name__}: "
            f"{first_line(error)}); run the same command again"
        ) from error
    except OSError as error:
        if error.errno is not None:  # of the disk
            raise
        raise other(f"{name}: {_unexpected(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RuntimeError) as error:
        raise other(f"{name}: {_unexpected(error)}") from error


def _unexpected(error: Exception) -> str:
    """Return the message for a broken transfer, or an answer that huggingface_hub does not understand."""
    cause = error.__cause__ or error.__context__
    reason = shortened(" ".join(str(error).split()), 500) or type(error).__name__
    reason += f" ({first_line(cause)})" if isinstance(cause, Exception) else ""
    return (
        f"the transfer failed: {printable(reason)}. Run the same command again; check HF_ENDPOINT if you set "
        "it"
    )


def _unreachable(error: Exception, *, offline: bool) -> str:
    from huggingface_hub import constants

    where = f"the cache ({constants.HF_HUB_CACHE})"
    if offline:
        return (
            f"HF_HUB_OFFLINE is set, and the model is not in {where}, or not completely. Unset it to "
            "download the model"
        )
    cause = error.__cause__
    reason = f" ({type(cause).__name__}: {first_line(cause)})" if cause is not None else ""
    return (
        f"{constants.ENDPOINT} cannot be reached{reason}, and the model is not in {where}. Check the "
        "network, and HF_ENDPOINT if you set it"
    )


def _refused(error: Any) -> str:
    """Return what an error of the server means."""
    status = error.response.status_code
    message = getattr(error, "server_message", None)
    detail = f": {printable(shortened(str(message)))}" if message else ""
    if status == 401:
        return f"the Hub asks for a login (401){detail}. Run `hf auth login`, or set HF_TOKEN"
    if status == 403:
        return (
            f"the Hub refuses access (403){detail}. Use a token that may do this: `hf auth login` or HF_TOKEN"
        )
    return f"the Hub answered with an error ({status}){detail}; run the same command again"


def _without_weights(name: HubName) -> str:
    """Return why a repository cannot be used: which files it has instead of weights of T3D."""
    from huggingface_hub import HfApi, constants

    try:
        files = HfApi(endpoint=constants.ENDPOINT).list_repo_files(name.repo, revision=name.revision)
    except Exception:  # only a better message depends on it
        files = []
    shown = ", ".join(printable(shortened(file, 60)) for file in files[:_LISTED])
    more = f" and {len(files) - _LISTED} more" if len(files) > _LISTED else ""
    text = f"the repository has no model of T3D (none of {', '.join(WEIGHTS)})"
    if files:
        text += f"; it has {shown}{more}"
    if any(file.endswith(_PICKLES) for file in files):
        text += (
            ". Files with pickled weights are never loaded, because that can run code. Download the file and "
            "convert it with `t3d convert`"
        )
    return text
