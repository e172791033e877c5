import re

import pyarrow as pa
import pytest

from t3d.data.manifest.sources import default_sources, pattern_sources
from t3d.errors import ConfigError, ManifestError

PATHS = [
    "Basketball/v_Basketball_g08_c01.avi",
    "v_Basketball_g08_c02.mp4",
    "HandstandPushups/v_HandStandPushups_g01_c04.mp4",
    "HandstandPushups/V_HandstandPushups_G01_C05.MP4",
    "Punch/extra/v_Punch_g25_c10.webm",
    "Punch/v_Punch_g25.mp4",
    "Jump/24.mp4",
    "Tai Chi/été 1.final.mp4",
    "no_ending",
    "dotted.folder/name",
]


def slow_source(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    stem = name.rsplit(".", 1)[0] if "." in name else name
    match = re.fullmatch(r"v_(.+)_(g\d+)_c\d+", stem, re.IGNORECASE)
    if not match:
        return folder + slash + stem
    group = f"{match[1]}_{match[2]}"
    return group.replace("HandStandPushups", "HandstandPushups")


def test_default_sources_as_a_slow_reading_gives_them():
    sources = default_sources(pa.array(PATHS)).to_pylist()
    assert sources == [slow_source(path) for path in PATHS]
    assert sources[:3] == ["Basketball_g08", "Basketball_g08", "HandstandPushups_g01"]
    assert sources[5:8] == ["Punch/v_Punch_g25", "Jump/24", "Tai Chi/été 1.final"]
    assert default_sources(pa.array(["Jump/24.mp4"])).to_pylist() == ["Jump/24"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "April_09"),
        ("April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "April_09"),
        ("videos/x/Film_draw_sword_f_cm_np10_le_bad_12.mp4", "Film"),  # sword is a class too
        ("sword/Film_draw_sword_f_cm_np10_le_bad_12.mp4", "Film_draw"),  # the folder knows better
        ("my_class/A_Film_my_class_h_nm_np0_ri_med_3.avi", "A_Film"),
        ("Film_of_my_own_h_nm_np0_ri_med_3.avi", "Film_of_my_own"),
        ("run/#1_(HQ)!_-_Run_RUN_L_CM_NP2_FR_GOO_7.avi", "#1_(HQ)!_-_Run"),
        ("run/Film_run_f_cm_np1_xx_med_0.avi", "run/Film_run_f_cm_np1_xx_med_0"),
        ("abseiling/-0-_abcdEFG_000010_000020.mp4", "-0-_abcdEFG"),
        ("____________000010_000020.mkv", "___________"),
        ("abseiling/short_000010_000020.mp4", "abseiling/short_000010_000020"),
    ],
)
def test_names_of_hmdb51_and_kinetics(path, source):
    others = ["Jump/24.mp4", "v_Jump_g01_c01.avi"]
    assert default_sources(pa.array([path, *others])).to_pylist() == [source, "Jump/24", "Jump_g01"]


@pytest.mark.parametrize("pattern", [r"_(\d+)_\d+$", r"(Jump|Run)_(?P<source>\d+)_(\d+)$"])
def test_pattern_reads_the_scene_across_classes(pattern):
    paths = pa.array(["Jump/Jump_11_1.mp4", "Run/Run_11_19.mp4", "Run/Run_2_3.avi"])
    assert pattern_sources(paths, pattern).to_pylist() == ["11", "11", "2"]


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(", "is not a regular expression"),
        (r"\d+", "has no parts in parentheses"),
        (r"(\d+)_(\d+)", "has 2 parts in parentheses"),
    ],
)
def test_pattern_without_its_group(pattern, says):
    with pytest.raises(ConfigError, match=says):
        pattern_sources(pa.array(["Jump/Jump_1_2.mp4"]), pattern)


def test_pattern_names_the_first_that_do_not_match():
    with pytest.raises(ManifestError, match=r"matches 1 of the 3 paths.*no match in Jump/24, Jump/25"):
        pattern_sources(pa.array(["Jump/24.mp4", "Jump/Jump_1_2.mp4", "Jump/25.mp4"]), r"_(\d+)_\d+$")
    with pytest.raises(ManifestError, match="none of the 1"):  # a group that matched nothing is not a match
        pattern_sources(pa.array(["a.mp4"]), r"a|(b)")


def test_a_number_after_a_dot_is_part_of_the_name_of_a_folder_of_images() -> None:
    """A folder may be named `scene.1`; files of raw H.26x streams end like this, too."""
    paths = ["a/scene.1", "a/scene.2", "a/b.264", "a/b.265", "a/c.3gp", "a/d.mp4", "a/e"]
    sources = default_sources(pa.array(paths)).to_pylist()
    assert sources == ["a/scene.1", "a/scene.2", "a/b", "a/b", "a/c", "a/d", "a/e"]
