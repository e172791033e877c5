"""Source of a clip: the recording that it was cut from. Clips of one source are never separated.

Two clips of one film, game or scene look similar. With one in training and the other in testing, a model is
rewarded for recognizing the scene. Splits, label fractions and negatives therefore go by source (group).
"""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from t3d.errors import ConfigError, ManifestError

# Digits alone are part of the name: folders of images may be named `scene.1` and `scene.2`. Streams of H.26x
# are files, whose endings are digits.
_ENDING = r"([^/])\.(?:26[1-6]|[^./]*[^./0-9][^./]*)$"
_UCF101_NAME = r"(?i)^(?:.*/)?v_([^/]+)_(g\d+)_c\d+$"
_HMDB51_TAIL = r"(?i)_[hufl]_[nc]m_np\d+_(fr|ba|le|ri)_(bad|med|goo)_\d+$"
# fmt: off
HMDB51_CLASSES = (
    "brush_hair", "cartwheel", "catch", "chew", "clap", "climb", "climb_stairs", "dive", "draw_sword",
    "dribble", "drink", "eat", "fall_floor", "fencing", "flic_flac", "golf", "handstand", "hit", "hug",
    "jump", "kick", "kick_ball", "kiss", "laugh", "pick", "pour", "pullup", "punch", "push", "pushup",
    "ride_bike", "ride_horse", "run", "shake_hands", "shoot_ball", "shoot_bow", "shoot_gun", "sit",
    "situp", "smile", "smoke", "somersault", "stand", "swing_baseball", "sword", "sword_exercise", "talk",
    "throw", "turn", "walk", "wave",
)
# fmt: on
_LONGEST_FIRST = sorted(HMDB51_CLASSES, key=len, reverse=True)
_KINETICS_NAME = r"^(?:.*/)?([0-9A-Za-z_-]{11})_\d{6}_\d{6}$"


def without_ending(relative: pa.Array) -> pa.Array:
    """Strip the ending of each path: `Jump/a.b.mp4` → `Jump/a.b`."""
    return pc.replace_substring_regex(relative, _ENDING, r"\1")


def default_sources(relative: pa.Array) -> pa.Array:
    """Return the source of each clip, from its name.

    A name of UCF101's form `v_Class_gXX_cYY` gives `Class_gXX`, its group: clips of one group were cut from
    one video. The data set spells the class of some files `HandStandPushups` and its folder
    `HandstandPushups`; both give the latter.

    A name of HMDB51's form `FILM_CLASS_f_cm_np1_fr_med_0` gives `FILM`, which may have clips in several
    classes. The class is that of the first folder, or else one of HMDB51's.

    A name of Kinetics' form `ID_000010_000020` gives `ID`, the video on YouTube.

    Any other file is its own source: its path without ending.

    Args:
        relative: Paths relative to the set's root, forward slashes, string [N].

    Returns:
        Sources, string [N].

    Example:
        >>> default_sources(pa.array(["Punch/v_Punch_g01_c02.avi", "Jump/24.mp4"])).to_pylist()
        ['Punch_g01', 'Jump/24']
    """
    stems = without_ending(relative)
    ucf101, hmdb51, kinetics = (
        pc.match_substring_regex(stems, name) for name in (_UCF101_NAME, _HMDB51_TAIL, _KINETICS_NAME)
    )
    sources = stems
    if pc.any(ucf101).as_py():
        groups = pc.replace_substring_regex(stems, _UCF101_NAME, r"\1_\2")
        groups = pc.replace_substring_regex(groups, r"^HandStandPushups_", "HandstandPushups_")
        sources = pc.if_else(ucf101, groups, sources)
    if pc.any(hmdb51).as_py():
        heads = pc.replace_substring_regex(stems.filter(hmdb51), _HMDB51_TAIL, "")
        films = pa.array([_film(head) for head in heads.to_pylist()], pa.string())
        sources = pc.replace_with_mask(sources, hmdb51, films)
    if pc.any(kinetics).as_py():
        ids = pc.replace_substring_regex(stems, _KINETICS_NAME, r"\1")
        sources = pc.if_else(kinetics, ids, sources)
    return sources


def _film(head: str) -> str:
    """Return HMDB51's film from `folder/FILM_CLASS`, the first part of a name."""
    folder, _, name = head.rpartition("/")
    for label in (folder.partition("/")[0], *_LONGEST_FIRST):  # a film may end like another, shorter class
        if label and name.casefold().endswith(f"_{label.casefold()}"):
            return name[: -len(label) - 1]
    return name


def pattern_sources(relative: pa.Array, pattern: str) -> pa.Array:
    r"""Return the source of each clip, from its path and a pattern.

    Args:
        relative: Paths relative to the set's root, forward slashes, string [N].
        pattern: A regular expression, searched in the path without its ending. Its only group, or the group
            named `source`, is the source.

    Returns:
        Sources, string [N].

    Raises:
        ConfigError: The pattern is not a regular expression or does not have that one group.
        ManifestError: It does not match some of the paths; the message lists the first of them.

    Example:
        >>> pattern_sources(pa.array(["Jump/Jump_11_1.mp4"]), r"_(\d+)_\d+$").to_pylist()
        ['11']
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"source_pattern '{pattern}' is not a regular expression: {error}") from error
    if "source" in compiled.groupindex:
        group = compiled.groupindex["source"]
    elif compiled.groups == 1:
        group = 1
    else:
        raise ConfigError(
            f"source_pattern '{pattern}' has {compiled.groups or 'no'} parts in parentheses; put the one "
            "part that names the group in parentheses, or mark it as (?P<source>…)"
        )
    stems = without_ending(relative).to_pylist()
    matches = [compiled.search(stem) for stem in stems]
    sources = [match.group(group) if match else None for match in matches]
    wrong = [stem for stem, source in zip(stems, sources, strict=True) if not source]
    if wrong:
        count = len(stems) - len(wrong)
        matched = f"{count} of the {len(stems)}" if count else f"none of the {len(stems)}"
        introduction = "; no match in" if count else ", such as"
        raise ManifestError(
            f"source_pattern '{pattern}' matches {matched} paths (without their endings){introduction} "
            f"{', '.join(wrong[:5])}{', …' if len(wrong) > 5 else ''}. Correct the pattern, or leave it out "
            "to make every file its own group"
        )
    return pa.array(sources, pa.string())
