"""Share a model: write everything that others need to use it, and upload it to the Hugging Face Hub."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from t3d.errors import ConfigError, PushError
from t3d.io.files import atomic_folder, atomic_path
from t3d.io.hub import FILES, SHARED, HubName, hub_errors, hub_name, is_hub
from t3d.models.weights_file import SHARED_WEIGHTS, weights_file
from t3d.runtime.formats import exported_format
from t3d.share.config import ShareConfig
from t3d.share.facts import facts_of
from t3d.share.model_card import model_card
from t3d.share.public import write_exports, write_weights

CARD, RESULT = "README.md", "result.json"
_FORMAT = 1  # of the folder


@dataclass(frozen=True)
class Shared:
    """Result of sharing a model.

    Args:
        name: Name that commands and `t3d.load` accept: `hf-hub:org/name`, or the folder.
        url: Address of the commit; empty for a folder.
        files: Names and sizes of the files, in bytes.
        left_out: A sentence for each exported file that is not included.
        tested: Whether the model card has the result of a test.
    """

    name: str
    url: str
    files: dict[str, int]
    left_out: tuple[str, ...]
    tested: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"name": self.name, "url": self.url, "files": self.files, "left_out": list(self.left_out)}


def push_model(config: ShareConfig) -> Shared:
    """Upload a model to the Hub, or write the same files into a folder.

    The files are the weights, exported files of the same weights, a model card (README.md), `config.json`,
    and the figures of a test (`result.json`). Paths of this machine are removed from all of them. A
    repository gets all files in one commit, or none.

    Args:
        config: The model, the target and the license.

    Returns:
        What was written.

    Raises:
        CheckpointError: The weights cannot be used, or the run is not finished.
        ConfigError: The folder exists, the result of a test cannot be read, or no token is known.
        PushError: The upload failed. The repository is unchanged.
        WriteError: The files cannot be written.

    Example:
        >>> push_model(ShareConfig("runs/mine", to="shared/mine", license="mit")).name  # doctest: +SKIP
        'shared/mine'
    """
    if exported_format(config.model) is not None:
        raise ConfigError(
            f"{config.model} is an exported file, which cannot be trained further; give the run folder. Its "
            "exported files are included"
        )
    source = weights_file(config.model, allow_unfinished=config.allow_unfinished)
    if not is_hub(config.to):
        _refuse_other_folder(Path(config.to), overwrite=config.overwrite)
        with atomic_folder(Path(config.to).resolve(), replace=config.overwrite) as folder:
            left_out, tested = _write(config, source, folder)
            files = _sizes(folder)
        return Shared(config.to, "", files, left_out, tested)
    name = hub_name(config.to)
    _refuse_without_token(name)
    with tempfile.TemporaryDirectory(prefix="t3d-push-") as temporary:
        folder = Path(temporary)
        left_out, tested = _write(config, source, folder)
        url = _upload(name, folder, private=config.private)
        return Shared(str(name), url, _sizes(folder), left_out, tested)


def _write(config: ShareConfig, source: Path, folder: Path) -> tuple[tuple[str, ...], bool]:
    """Write all files. Returns sentences about files that are left out, and whether there is a test."""
    facts = facts_of(config.model, source, config.test)
    weights = folder / SHARED_WEIGHTS
    card = write_weights(source, weights, allow_unfinished=config.allow_unfinished)
    left_out = write_exports(source, weights, card)
    name = config.to if is_hub(config.to) else Path(config.to).name
    title = hub_name(name).repo.partition("/")[2] if is_hub(name) else name
    described = {
        "library_name": "t3d",
        "format": _FORMAT,
        "t3d": version("t3d"),
        "architecture": card.architecture,
        "num_classes": len(card.classes),
        "weights": SHARED_WEIGHTS,
    }
    texts = {CARD: model_card(config, card, facts, name=name, title=title), SHARED: _json(described)}
    if facts.test is not None:
        texts[RESULT] = _json(facts.test)
    for file, text in texts.items():
        with atomic_path(folder / file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return tuple(left_out), facts.test is not None


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def _sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir())}


def _refuse_other_folder(folder: Path, *, overwrite: bool) -> None:
    """Raise an error if a folder must not be replaced.

    Raises:
        ConfigError: It has files, and `overwrite` is off, or `t3d push` did not write it.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir() or folder.is_symlink():
        raise ConfigError(f"{folder} is a file or a link; choose another folder")
    written = (folder / SHARED).is_file() and (folder / SHARED_WEIGHTS).is_file()
    if not written and any(folder.iterdir()):
        raise ConfigError(f"{folder} has files that t3d push did not write; choose another folder")
    if not overwrite:
        raise ConfigError(f"{folder} already exists; choose another folder, or set `overwrite`")
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ConfigError(f"{folder} is the current folder or one above it; choose another folder")


def _refuse_without_token(name: HubName) -> None:
    from huggingface_hub import get_token

    if get_token() is None:
        raise ConfigError(
            f"{name}: uploading needs a token of your account. Log in with `hf auth login`, or set HF_TOKEN"
        )


def _upload(name: HubName, folder: Path, *, private: bool) -> str:
    """Upload all files in one commit. Files of an earlier push that are not in the folder are deleted."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants

    api = HfApi(endpoint=constants.ENDPOINT, library_name="t3d", library_version=version("t3d"))
    with hub_errors(name, other=PushError):
        api.create_repo(name.repo, private=private or None, exist_ok=True)
        if name.revision is not None:
            api.create_branch(name.repo, branch=name.revision, exist_ok=True)
        own = {file.name: file for file in sorted(folder.iterdir())}
        before = api.list_repo_files(name.repo, revision=name.revision)
        stale = sorted({*FILES, RESULT} & set(before) - set(own))
        added = [CommitOperationAdd(path_in_repo=each, path_or_fileobj=file) for each, file in own.items()]
        commit = api.create_commit(
            name.repo,
            operations=[*added, *(CommitOperationDelete(path_in_repo=each) for each in stale)],
            commit_message=f"Model of T3D {version('t3d')}",
            revision=name.revision,
        )
    return str(commit.commit_url)
