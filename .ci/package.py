"""Build wheel and sdist, check them, and run the command of the installed wheel in an empty folder.

Usage: python .ci/package.py [OUT], in an environment with the requirements of development. OUT keeps
the files.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "t3d"
DEVELOPERS = (
    "tests/conftest.py",
    "tests/fit/test_run.py",
    "docs/README.md",
    "CITATION.cff",
    "constraints.txt",
)


def run(*words: str | Path, cwd: Path = ROOT) -> str:
    """Run a program, and return what it printed."""
    print(*words, flush=True)
    return subprocess.run(words, cwd=cwd, stdout=subprocess.PIPE, text=True, check=True).stdout


def build(out: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from the sdist."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    return wheel, sdist


def check_contents(wheel: Path, sdist: Path) -> None:
    """Compare the files of the package with those in the archives."""
    files = {f"t3d/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == files, f"only in the wheel or only in src: {sorted(packed ^ files)}"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = {*DEVELOPERS, *(f"src/{name}" for name in files)} - names
    assert not missing, f"not in the sdist: {sorted(missing)}"


def check_installed(wheel: Path, folder: Path) -> None:
    """Install the wheel into an environment that sees the packages of this one, and run its command."""
    environment, empty = folder / "environment", folder / "empty"
    empty.mkdir()
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    place = run(python, "-c", "import t3d; print(t3d.__file__)", cwd=empty).strip()
    assert Path(place).is_relative_to(site), f"imported {place} instead of the wheel"
    t3d = environment / "bin" / "t3d"
    assert wheel.name.split("-")[1] in run(t3d, "--version", cwd=empty)
    assert "predict" in run(t3d, "--help", cwd=empty)
    assert "t3d_tiny" in run(t3d, "models", cwd=empty)
    recipes = run(python, "-c", "import t3d; print(t3d.list_recipes())", cwd=empty)
    assert "modern" in recipes


def main() -> None:
    """Run all checks."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wheel, sdist = build(folder / "dist")
        check_contents(wheel, sdist)
        check_installed(wheel, folder)
        for file in (wheel, sdist):
            print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")
        if sys.argv[1:]:
            shutil.copytree(folder / "dist", sys.argv[1], dirs_exist_ok=True)


if __name__ == "__main__":
    main()
