"""Bring a package here: its pinned source distribution, unpacked and pruned, and an environment
in which its tests run but in which the package itself is not installed.

pip does the fetching and holds the hashes. The few usual build backends live in one small
environment, because letting pip make one per package takes most of a minute.
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
# What neither the package nor its tests read
PRUNED = ("docs", "doc", "*.egg-info", ".git*", ".circleci", "benchmarks", "examples", "fuzz")
PRUNED_FILES = ("CHANGE*", "HISTORY*", "AUTHORS*", "MANIFEST.in", "PKG-INFO", "TODO*", "notes.org")
CONFIG = ("pytest.ini", ".pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml")


class PipError(SetupError):
    """pip failed: no network, say, or a full disk. Its message has pip's own words."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Held by one process at a time; the kernel lets go when it dies."""
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
            f"pip {' '.join(args)} failed and said:\n{words}\nOnce that is mended (the network? a "
            "proxy? a full disk?), the same command goes on where this one stopped"
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
    """In a sandbox the environment is mounted elsewhere: scripts must not name this place."""
    for script in folder.iterdir():
        if not script.is_symlink() and script.is_file():
            data = script.read_bytes()
            if data.startswith(b"#!") and b"python" in data.split(b"\n", 1)[0]:
                script.write_bytes(b"#!/usr/bin/env python\n" + data.split(b"\n", 1)[1])


def sdist(package: Package) -> tuple[Package, Path]:
    """The archive, and the package with the version and hash that were found."""
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
        _pip(*args)  # another backend: slower, and pip fetches it
    return next(path for path in folder.iterdir() if path != requirements)


def _identified(package: Package, archive: Path, digest: str) -> tuple[Package, Path]:
    match = re.search(r"-(\d[^-]*?)\.(?:tar\.\w+|zip|tgz)$", archive.name)
    version = package.version or (match.group(1) if match else "0")
    return dataclasses.replace(package, version=version, sha256=digest), archive


def unpack(archive: Path, tree: Path, prune: Callable[[Path], None] | None = None) -> None:
    """The pruned source tree; atomically, so that a killed run leaves none that is half done."""
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
            # Python before 3.11.4 has no filter; the archives of the catalog are pinned by hash
            safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            for member in tar.getmembers():  # root would give the files to whoever packed them
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
    """What the package's own metadata says that it needs, extras left out."""
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
    """Fill in what the catalog does not say about a package it does not know."""
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
    """Packages whose tests need nothing but pytest share one."""
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
