"""Options of `t3d push`. Importing them imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from t3d.errors import CheckpointError, ConfigError, did_you_mean, printable, shortened
from t3d.io.files import is_url
from t3d.io.hub import hub_name, is_hub

COMMON_LICENSES = (
    "apache-2.0",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "gpl-3.0",
    "mit",
    "openrail",
    "other",
)
"""Some identifiers of licenses that the Hub knows, for messages."""


@dataclass(frozen=True)
class ShareConfig:
    """Options of sharing a model.

    Args:
        model: Run folder, folder of a fit, or weights file. Exported files next to the weights are included.
        to: `hf-hub:ORGANIZATION/NAME`, or `…@BRANCH` for a branch, which is created if it is missing. Or a
            folder, which gets the same files: look at them before you publish them.
        license: License of the weights, by its identifier on the Hub, such as `apache-2.0` or
            `cc-by-nc-4.0`. Required: without a license, nobody may use the model. It must fit the license of
            the training videos and of the teacher.
        test: Result of a test: the folder that `t3d test` wrote (`out`), or its metrics.json. Default: the
            test of a fit or of `t3d probe`.
        about: One or two sentences for the model card about the contents and the origin of the videos.
        private: Create the repository as private. An existing repository stays as it is.
        overwrite: Replace the files in a folder. A repository always gets a new commit and keeps its history.
        allow_unfinished: Accept the folder of an unfinished run, and share its best weights so far.

    Raises:
        ConfigError: A value that cannot work.
    """

    model: str
    to: str
    license: str = field(kw_only=True)
    test: str | None = None
    about: str | None = None
    private: bool = False
    overwrite: bool = False
    allow_unfinished: bool = False

    def __post_init__(self) -> None:
        if is_hub(self.to):
            try:
                hub_name(self.to)
            except CheckpointError as error:
                raise ConfigError(f"to is {error}") from error
        elif is_url(self.to):
            raise ConfigError(
                f"to is {printable(shortened(self.to))}; it must be a folder, or a repository on the Hub as "
                "hf-hub:ORGANIZATION/NAME. HF_ENDPOINT chooses another server"
            )
        if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license):
            raise ConfigError(
                f"license is {printable(shortened(self.license))!r}; it must be an identifier of the Hub in "
                f"lower case, or other; {did_you_mean(self.license.lower(), COMMON_LICENSES)}"
            )
