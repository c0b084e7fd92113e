"""Fetch a package: its pinned source distribution, unpacked and pruned, and a test environment.

The package itself is not installed in the environment, because an installed copy would contain the
solution. pip downloads and checks the hashes. The usual build backends share one small environment,
because pip needs most of a minute to make one for each package.
"""

from __future__ import annotations

import dataclasses
import email
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from swe_gym_env.errors import SetupError
from swe_gym_env.paths import home
from swe_gym_env.tasks.pypi.catalog import PYTEST, Package

BACKENDS = (
    "setuptools==80.9.0",
    "setuptools_scm==8.3.1",
    "flit_core==3.12.0",
    "hatchling==1.27.0",
    "poetry-core==2.1.3",
)
# Files and folders that neither the package nor its tests read
PRUNED = ("docs", "doc", "*.egg-info", ".git*", ".circleci", "benchmarks", "examples", "fuzz")
PRUNED_FILES = ("CHANGE*", "HISTORY*", "AUTHORS*", "MANIFEST.in", "PKG-INFO", "TODO*", "notes.org")
CONFIG = ("pytest.ini", ".pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml")


class PipError(SetupError):
    """pip failed, for example without a network or on a full disk. The message quotes pip."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A lock that one process at a time holds; the kernel releases it when the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _pip(*args: str, python: Path | None = None) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    if python is not None:
        command += ["--python", str(python)]
    done = subprocess.run([*command, *args], capture_output=True, text=True)
    if done.returncode:
        words = (done.stderr or done.stdout).strip()[-1500:]
        raise PipError(
            f"pip {' '.join(args)} failed and said:\n{words}\nCorrect the cause (the network? a "
            "proxy? a full disk?); then the same command continues where this one stopped"
        )


def environment_for(name: str, requires: Sequence[str]) -> Path:
    """A virtual environment with exactly ``requires``, made once."""
    key = "\n".join([sys.version, *requires])
    folder = home() / "envs" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
    with locked(folder.parent / f".{folder.name}.lock"):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, symlinks=True, with_pip=False)
            _pip("install", "--compile", *requires, python=folder / "bin" / "python")
            _relocatable_scripts(folder / "bin")
            (folder / "complete").write_text("\n".join(requires))
    return folder


def _relocatable_scripts(folder: Path) -> None:
    """Remove this folder's path from scripts, since a sandbox mounts the environment elsewhere."""
    for script in folder.iterdir():
        if not script.is_symlink() and script.is_file():
            data = script.read_bytes()
            if data.startswith(b"#!") and b"python" in data.split(b"\n", 1)[0]:
                script.write_bytes(b"#!/usr/bin/env python\n" + data.split(b"\n", 1)[1])


def sdist(package: Package) -> tuple[Package, Path]:
    """Download the source distribution.

    Returns:
        The package with the version and hash that were found, and the archive.
    """
    if package.local:
        path = Path(package.local)
        return dataclasses.replace(package, version=package.version or "0"), path
    store = home() / "sdists"
    store.mkdir(parents=True, exist_ok=True)
    wanted = f"{package.name}=={package.version}" if package.version else package.name
    note = store / f"{wanted}.txt"
    if note.exists():
        name, digest = note.read_text().split()
        if (store / name).exists() and package.sha256 in ("", digest):
            return _identified(package, store / name, digest)
    aside = store / f".{wanted}-{os.getpid()}"
    aside.mkdir(exist_ok=True)
    try:
        archive = _download(package, wanted, aside)
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        final = store / archive.name
        archive.replace(final)
        note.write_text(f"{final.name} {digest}\n")
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return _identified(package, final, digest)


def _download(package: Package, wanted: str, folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    pin = f" --hash=sha256:{package.sha256}" if package.sha256 else ""
    requirements.write_text(wanted + pin + "\n")
    args = ["download", "--no-deps", "--no-binary", ":all:", "-d", str(folder)]
    args += ["-r", str(requirements)]
    backends = environment_for("backends", BACKENDS) / "bin" / "python"
    try:
        _pip(*args, "--no-build-isolation", python=backends)
    except SetupError:
        _pip(*args)  # another build backend, which pip downloads: slower
    return next(path for path in folder.iterdir() if path != requirements)


def _identified(package: Package, archive: Path, digest: str) -> tuple[Package, Path]:
    match = re.search(r"-(\d[^-]*?)\.(?:tar\.\w+|zip|tgz)$", archive.name)
    version = package.version or (match.group(1) if match else "0")
    return dataclasses.replace(package, version=version, sha256=digest), archive


def unpack(archive: Path, tree: Path, prune: Callable[[Path], None] | None = None) -> None:
    """Unpack the pruned source tree atomically: a killed run leaves no incomplete one.

    Args:
        archive: A source distribution, or a folder.
        tree: Where the tree is put.
        prune: Removes files that are not needed; by default documentation and the like.
    """
    tree.parent.mkdir(parents=True, exist_ok=True)
    aside = tree.with_name(f".{tree.name}-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    if archive.is_dir():
        shutil.copytree(archive, aside / "tree", ignore=shutil.ignore_patterns("__pycache__"))
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            bundle.extractall(aside)
    else:
        with tarfile.open(archive) as tar:
            # Python before 3.11.4 has no filter. The archives of the catalog are pinned by their
            # hash.
            safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            for member in tar.getmembers():  # else root would make the packer their owner
                member.uid, member.gid, member.uname, member.gname = (
                    os.getuid(),
                    os.getgid(),
                    "",
                    "",
                )
            tar.extractall(aside, **safe)  # type: ignore[arg-type]
    root = next(aside.iterdir())
    (prune or _prune)(root)
    for cache in [*root.rglob("__pycache__"), *root.rglob("*.py[co]")]:
        shutil.rmtree(cache) if cache.is_dir() else cache.unlink(missing_ok=True)
    root.rename(tree)
    shutil.rmtree(aside, ignore_errors=True)


def _prune(root: Path) -> None:
    for pattern in PRUNED:
        for path in [*root.glob(pattern), *root.glob(f"src/{pattern}")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for pattern in PRUNED_FILES:
        for path in root.glob(pattern):
            if path.is_file() and path.suffix != ".py":
                path.unlink()


def requirements_of(archive: Path) -> tuple[str, ...]:
    """The requirements in the metadata of the package, without extras."""
    if archive.is_dir() or zipfile.is_zipfile(archive):
        return ()
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.count("/") == 1 and member.name.endswith("/PKG-INFO"):
                handle = tar.extractfile(member)
                assert handle is not None
                message = email.message_from_bytes(handle.read())
                needs = message.get_all("Requires-Dist") or []
                return tuple(need for need in needs if "extra ==" not in need)
    return ()


def guessed(package: Package, tree: Path, archive: Path) -> Package:
    """Guess the sources and tests of a package that is not in the catalog."""
    if package.sources:
        return package
    path = "src" if (tree / "src").is_dir() else "."
    module = package.name.replace("-", "_").lower()
    base = tree / path
    known = [p for p in (base / module, base / f"{module}.py") if p.exists()]
    found = known or [p.parent for p in sorted(base.glob("*/__init__.py")) if "test" not in str(p)]
    if not found:
        raise SetupError(f"{package.name}: no importable module found in {base}")
    tests = tuple(t for t in ("tests", "test") if (tree / t).is_dir())
    tests = tests or tuple(sorted(p.name for p in tree.glob("test*.py"))) or (".",)
    return dataclasses.replace(
        package,
        path=path,
        sources=tuple(str(p.relative_to(tree)) for p in found),
        tests=tests,
        requires=(*package.requires, *requirements_of(archive)),
    )


def environment(package: Package) -> Path:
    """The environment of a package; those whose tests need only pytest share one."""
    name = package.name if package.requires else "pytest"
    folder = environment_for(name, (*PYTEST, *package.requires))
    for source in package.sources:
        module = Path(source).stem
        for installed in folder.glob(f"lib/python3*/site-packages/{module}*"):
            if installed.name in (module, f"{module}.py"):
                raise SetupError(
                    f"{package.name} is needed by pytest itself or by its own tests' requirements: "
                    "an installed copy would give the answers away; choose another package"
                )
    return folder


def hidden_on_host() -> tuple[str, ...]:
    """Folders of the base interpreter that may hold installed packages."""
    names = {"base": sys.base_prefix, "platbase": sys.base_prefix}
    folders = {sysconfig.get_path("purelib", vars=names), "/usr/lib/python3/dist-packages"}
    return tuple(sorted(folder for folder in folders if folder and Path(folder).is_dir()))
