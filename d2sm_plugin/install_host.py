"""Installation of BasicSR, the host, on every Python that this package runs on.

d2sm install-host                     # beside the installed package
python -m d2sm_plugin.install_host    # or in a clone, before anything is installed

BasicSR 1.4.2 is a source package. From Python 3.13 on its setup.py ends in ``KeyError: '__version__'``. On any Python
it asks for torch merely to be built, and it puts ``opencv-python`` and ``tb-nightly`` over another OpenCV and
TensorBoard. Only the standard library is imported here, so that this runs before torch and BasicSR are installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HOST = "basicsr>=1.4.2"
#: Printed by every tool that needs the host and does not find it.
MISSING = "BasicSR is not installed in this Python; install it with: python -m d2sm_plugin.install_host"
#: A requirement of BasicSR -> packages with the same modules, over which it is not to be installed.
SAME_MODULES = {
    "opencv-python": ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "tb-nightly": ("tensorboard",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Build and install BasicSR and what it requires; pip's settings (``PIP_INDEX_URL`` and others) apply.

    Returns:
        0; 2 for arguments, or a Python without pip; pip's exit status where pip failed.
    """
    parser = argparse.ArgumentParser(description="Build and install BasicSR into this Python.")
    _, unknown = parser.parse_known_args(arguments)
    if unknown:
        return _fail(f"it takes no arguments, got {' '.join(unknown)}", 2)
    if importlib.util.find_spec("pip") is None:
        return _fail(f"{sys.executable} has no pip; add it with 'python -m ensurepip' or 'uv pip install pip'", 2)
    try:
        build_and_install(HOST)
        pip("install", "--quiet", "--no-warn-conflicts", *requirements_of("basicsr"))
    except subprocess.CalledProcessError as error:
        return _fail("BasicSR could not be installed; pip says above why", error.returncode)
    print(f"BasicSR {importlib.metadata.version('basicsr')} is installed in {sys.prefix}")  # noqa: T201
    return 0


def _fail(line: str, status: int) -> int:
    print(f"error: {line}", file=sys.stderr)  # noqa: T201
    return status


def pip(*arguments: str, **environment: str) -> None:
    """Run this Python's pip, with further environment variables.

    Raises:
        subprocess.CalledProcessError: when pip fails; it has printed why.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    subprocess.run(command, env={**os.environ, **environment}, check=True)


def build_and_install(requirement: str) -> None:
    """Build and install one source package, without what it requires, under :func:`exec_into_caller`.

    Build isolation would download torch a second time, because BasicSR names it as a need of its build. Current
    setuptools in a temporary folder serves instead; ``--use-pep517`` keeps older releases of pip from calling
    ``setup.py`` directly, which downloads those needs as well.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip("install", "--quiet", "--no-user", "--target", folder, "setuptools")
        search = prepare_interpreters(Path(folder))
        pip("install", "--quiet", "--no-deps", "--no-build-isolation", "--use-pep517", requirement, PYTHONPATH=search)


def prepare_interpreters(folder: Path) -> str:
    """Write a ``sitecustomize`` module that installs :func:`exec_into_caller` in each Python started with it.

    Returns:
        The value of ``PYTHONPATH`` that does it: the folder, then what was there.
    """
    text = f"{inspect.getsource(exec_into_caller)}\n\nexec_into_caller()\n"
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


def exec_into_caller() -> None:
    """Let ``exec`` without namespaces write names that its caller's ``locals()`` shows, as before Python 3.13.

    Since 3.13 (PEP 667) it writes into a snapshot instead, but the mapping ``frame.f_locals`` still writes through.
    """
    import builtins  # the source of this function is a module of its own
    import sys

    original = builtins.exec

    # Without annotations: this source becomes a module that imports nothing. The signature is the interpreter's own.
    def exec_(source, globals=None, locals=None, /, **closure):  # type: ignore[no-untyped-def]
        if globals is None and locals is None:
            caller = sys._getframe(1)
            globals, locals = caller.f_globals, caller.f_locals
        return original(source, globals, locals, **closure)

    builtins.exec = exec_


def requirements_of(distribution: str) -> list[str]:
    """Requirements of an installed package, less those whose modules another installed package holds already.

    setuptools is added from Python 3.12 on: BasicSR imports ``distutils``, which left the standard library then.
    """
    importlib.invalidate_caches()
    requirements = ["setuptools"] if sys.version_info >= (3, 12) else []
    for requirement in importlib.metadata.requires(distribution) or []:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()
        if not any(is_installed(other) for other in SAME_MODULES.get(name, ())):
            requirements.append(requirement)
    return requirements


def is_installed(distribution: str) -> bool:
    """True where a package of this name is installed, whether or not it can be imported."""
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
