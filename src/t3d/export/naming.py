"""Names of exported files: checked before the work, and given to files that are complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from t3d.errors import ConfigError
from t3d.export.config import ExportConfig
from t3d.io.files import temporary_name, writable_folder, writing
from t3d.io.hub import is_hub
from t3d.io.locks import alone_in
from t3d.runtime.formats import ENDINGS, Format, files_of


def output_file(config: ExportConfig, source: Path) -> Path:
    """Return the file to write.

    Args:
        config: The options.
        source: Weights file that is exported.

    Raises:
        ConfigError: It exists, is the weights file itself, or its folder cannot be written to.
    """
    ending = ENDINGS[config.format]
    if config.out is None and is_hub(config.model):
        raise ConfigError(f"{config.model} is in a cache that other programs share; choose `out`")
    default = source.with_name(f"{source.stem}{'' if config.int8 is None else '-int8'}{ending}")
    out = default if config.out is None else Path(config.out)
    for path in files_of(out, config.format):
        if path.exists() and path.samefile(source):
            raise ConfigError(
                f"{path} is the weights file itself, which the export would replace; choose another `out`"
            )
        if path.exists() and not config.overwrite:
            raise ConfigError(f"{path} already exists; choose another `out`, or set `overwrite`")
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; choose another `out`")
    writable_folder(out.parent, name="out")
    return out


@contextmanager
def named_at_the_end(out: Path, form: Format, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary path of the same ending; its files get their names when the block succeeds.

    Args:
        out: The file to write.
        form: Its format.
        overwrite: Whether to replace existing files.

    Raises:
        ConfigError: Another export is writing the file, or meanwhile it exists.
        WriteError: The files cannot be written. Existing files are unchanged.
    """
    folder = temporary_name(out, suffix="")
    with alone_in(out), writing(out, folder):
        folder.mkdir(parents=True)
        try:
            yield folder / out.name
            files = list(reversed(files_of(out, form)))  # the .xml last: it makes the pair complete
            for path in files:
                if path.exists() and not overwrite:
                    raise ConfigError(f"{path} already exists; choose another `out`, or set `overwrite`")
                with (folder / path.name).open("rb+") as file:
                    os.fsync(file.fileno())
            for path in files:
                (folder / path.name).replace(path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
