"""Make an environment for the tests of a release: its Python, with packages of its time.

The package under test is never installed in it. If SWE-bench pins packages, or its environment is
known to have had newer ones, they are taken as of the date of that environment (``since``).
Releases of one repository with the same requirements, Python and date share an environment.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from swe_gym_env.errors import SetupError
from swe_gym_env.paths import home
from swe_gym_env.tasks.pypi.fetch import environment_for, locked
from swe_gym_env.tasks.swebench.interpreters import nearest
from swe_gym_env.tasks.swebench.specs import Spec

UV = "uv>=0.8"
# Clients of services, or bindings of libraries that may be missing; tests with them are skipped
UNWANTED = re.compile(r"pylibmc|pywatchman|mysqlclient|psycopg|oracledb|cx[-_]oracle|geoip2", re.I)


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Attributes:
        folder: Where it is.
        python: Version of its Python, 3.x.
        date: Its packages are the newest of that day.
    """

    folder: Path
    python: str
    date: date


def environment(spec: Spec, tree: Path, uploaded: datetime) -> Environment:
    """The environment for a release, which is made if it does not exist.

    Raises:
        SetupError: There is no such Python, no network, or no such packages.
    """
    assert spec.release is not None
    python, interpreter = nearest(spec.python)
    name = spec.release["name"]
    requires = tuple(dict.fromkeys(requirements(spec, tree)))
    day = _quarter(uploaded.date())
    if since := spec.release.get("since"):
        day = max(day, date.fromisoformat(since))
    key = "\n".join([str(interpreter), day.isoformat(), *requires])
    digest = hashlib.sha256(key.encode()).hexdigest()[:10]
    folder = home() / "envs" / f"swebench-{name}-{python}-{digest}"
    with locked(folder.parent / f".{folder.name}.lock"):
        if not (folder / "complete").exists():
            _make(folder, interpreter, day, requires, name)
            (folder / "complete").write_text(key)
    return Environment(folder, python, day)


def _quarter(day: date) -> date:
    """The last day of its quarter."""
    month = 3 * ((day.month - 1) // 3) + 4
    first = date(day.year + month // 13, month if month < 13 else 1, 1)
    return first - timedelta(days=1)


def _make(folder: Path, python: Path, day: date, requires: tuple[str, ...], name: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _uv("venv", "--quiet", "--relocatable", "--python", str(python), str(folder))
    if not requires:
        return
    overrides = folder / "overrides.txt"  # an installed copy of the package contains the solution
    overrides.write_text(f"{name} ; python_version < '3'\n")
    args = ["--quiet", "--python", str(folder / "bin" / "python"), "--exclude-newer"]
    args += [(day + timedelta(days=1)).isoformat(), "--override", str(overrides)]
    try:
        _uv(
            "pip", "install", "--no-build", *args, *requires
        )  # prefers an older version that has a wheel
    except SetupError:
        _uv("pip", "install", *args, *requires)
    compileall = [str(folder / "bin" / "python"), "-m", "compileall", "-q", str(folder / "lib")]
    subprocess.run(
        compileall, capture_output=True
    )  # a sandbox writes no bytecode; uv needs Python 3.7


def _uv(*args: str) -> None:
    beside = Path(sys.executable).parent / "uv"
    tool = str(beside) if beside.exists() else shutil.which("uv")
    tool = tool or str(environment_for("uv", [UV]) / "bin" / "uv")
    done = subprocess.run([tool, "--no-config", *args], capture_output=True, text=True)
    if done.returncode:
        raise SetupError(f"uv {' '.join(args)} failed:\n{done.stderr.strip()[-1500:]}")


def requirements(spec: Spec, tree: Path) -> Iterator[str]:
    """The requirements of the release's tests, in the form of pip."""
    assert spec.release is not None
    about = spec.release
    yield from spec.pins
    yield from about.get("requires", ())
    if about.get("own"):
        yield from _declared(tree, about.get("extras", ()))
    for file in about.get("files", ()):
        if (tree / file).exists():
            lines = (line.split("#")[0].strip() for line in (tree / file).read_text().splitlines())
            yield from (ln for ln in lines if ln and ln[0] != "-" and not UNWANTED.match(ln))


def _declared(tree: Path, extras: tuple[str, ...]) -> Iterator[str]:
    """The requirements of the package by the metadata of its source distribution."""
    for path in tree.glob("**/*.egg-info/requires.txt"):
        marker, wanted = "", True
        for line in filter(None, path.read_text().splitlines()):
            if line.startswith("["):
                extra, _, marker = line.strip("[]").partition(":")
                wanted = not extra or extra in extras
            elif wanted:
                yield f"{line} ; {marker}" if marker else line
        return
    for path in tree.glob("PKG-INFO"):
        for need in re.findall(r"^Requires-Dist: (.*)$", path.read_text(), re.MULTILINE):
            asked = re.search(r"extra == ['\"](\w+)", need)
            if not asked or asked[1] in extras:
                yield re.sub(r"(;| and) *\(?extra == ['\"]\w+['\"]\)?", "", need)
