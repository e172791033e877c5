"""Divide the videos of a fit into lists, once: a second call uses the same lists."""

from __future__ import annotations

from t3d.data.manifest.manifest import Manifest
from t3d.data.split_lists import Shares, missing_classes, split
from t3d.errors import ConfigError, ManifestError, printable
from t3d.fit.config import FitConfig
from t3d.fit.folder import FitFolder
from t3d.fit.look import Looked, Say
from t3d.fit.plan import Plan

Row = tuple[str, float, float, str, str]
"""Path, start, end, labels and source of a video, as in a list."""


def divide(config: FitConfig, folder: FitFolder, looked: Looked, plan: Plan, say: Say) -> dict[str, Manifest]:
    """Hold out whole recordings, and write the lists; or read those of the interrupted fit.

    Args:
        config: Options of the fit.
        folder: Its folder.
        looked: Facts about the videos.
        plan: The plan.
        say: Function that prints a sentence.

    Returns:
        The lists `train`, `test`, and `val` if there is a choice.

    Raises:
        ConfigError: The lists of the interrupted fit have other videos.
        ManifestError: There are too few recordings.
    """
    parts = folder.read_lists(looked.videos.classes)
    if parts:
        _refuse_changed(config, folder, looked, parts)
    else:
        parts = _divided(config, looked, plan)
        lists = dict(parts)
        if looked.unlabeled is not None:
            lists["unlabeled"] = looked.unlabeled
            held = [parts[name] for name in ("test", "val") if name in parts]
            lists["held_out"] = held[0] if len(held) == 1 else held[0].followed_by(held[1])
        folder.write_lists(lists)
    counts = ", ".join(
        f"{name} {len(part)} (recordings: {len(part.sources())})" for name, part in parts.items()
    )
    say(f"Videos: {counts}. No recording is in two lists")
    for name, labels in missing_classes(parts).items():
        shown = ", ".join(map(printable, labels[:10])) + (" …" if len(labels) > 10 else "")
        say(f"No video of {shown} is in the list {name}, because there are too few recordings")
    return parts


def _divided(config: FitConfig, looked: Looked, plan: Plan) -> dict[str, Manifest]:
    shares = config.shares
    test = 0.0 if looked.test is not None else shares.test_fraction
    parts = {"train": looked.videos}
    if plan.val_fraction or test:
        parts = split(looked.videos, Shares(plan.val_fraction, test, shares.seed))
    if looked.test is not None:
        parts["test"] = looked.test
    if not len(parts["test"]):
        raise ManifestError(f"{config.test}: no video can be read, so there is nothing to test on")
    if "val" in parts and len(parts["val"].sources()) < 2:
        raise ManifestError(
            f"{config.videos}: only one recording is left to choose between models on. Add recordings, or "
            "set `candidates` to one of them, frames or network"
        )
    return parts


def _refuse_changed(config: FitConfig, folder: FitFolder, looked: Looked, parts: dict[str, Manifest]) -> None:
    """Refuse to continue with other videos, labels or time spans than those that were divided.

    Raises:
        ConfigError: They have changed.
    """
    before, now = list(parts.values()), [looked.videos]
    if looked.test is not None:
        now.append(looked.test)
    if folder.list_of("unlabeled").is_file():
        before.append(Manifest.from_csv(folder.list_of("unlabeled")))
    if looked.unlabeled is not None:
        now.append(looked.unlabeled)
    old = {row for part in before for row in _rows(part)}
    new = {row for part in now for row in _rows(part)}
    if changed := sorted(old ^ new):
        path = changed[0][0]
        known = {row[0] for row in old}, {row[0] for row in new}
        verb = "has another label, time span or group" if path in known[0] & known[1] else "is new"
        verb = verb if path in known[1] else "is gone"
        more = len({row[0] for row in changed}) - 1
        raise ConfigError(
            f"the videos have changed since this fit began: {printable(path)} {verb}"
            + (f", and {more} more have changed" if more else "")
            + f". Choose another `out` than {config.out}, or set `overwrite` to start again"
        )


def _rows(videos: Manifest) -> list[Row]:
    """Return the rows of a list as plain values."""
    columns = [videos.table[name].to_pylist() for name in ("path", "start", "end", "source")]
    labels = videos.label_names().to_pylist()
    return [
        (path, round(start or 0.0, 6), -1.0 if end is None else round(end, 6), str(label or ""), source)
        for path, start, end, source, label in zip(*columns, labels, strict=True)
    ]
