"""The packages that tasks are made from by default, and what is known about each.

All are MIT or BSD and ship a quick suite that passes on Python 3.11 and later. A role says where
a file's bugs go: ``heldout`` and ``val`` name files whose functions are never trained on; an
``unseen`` package is never trained on at all.
"""

from __future__ import annotations

from dataclasses import dataclass

PYTEST = (
    "pytest==9.1.0",
    "pluggy==1.7.0",
    "iniconfig==2.3.0",
    "packaging==25.0",
    "pygments==2.19.2",
)


@dataclass(frozen=True)
class Package:
    """How to fetch, run and split one package. Empty ``sources`` and ``tests`` are guessed."""

    name: str
    version: str = ""
    sha256: str = ""
    requires: tuple[str, ...] = ()  # what its tests need beside pytest, pinned
    sources: tuple[str, ...] = ()  # folders or files that may be given a bug
    tests: tuple[str, ...] = ()  # arguments of pytest
    path: str = "."  # what goes on PYTHONPATH, relative to the tree
    unseen: bool = False
    heldout: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()  # files that are not given bugs
    local: str = ""  # a folder or archive to use in place of a download

    @property
    def default(self) -> bool:
        return self in PACKAGES.values()


_TABLE = (
    Package(
        "funcy",
        "2.1",
        "8979feb3de7120afd1d00e5a8eae810c1942e4bfbc91697151e9ee1e49f79284",
        requires=("whatever==0.7",),
        sources=("funcy",),
        tests=("tests",),
        heldout=("funcy/colls.py", "funcy/strings.py", "funcy/flow.py"),
        val=("funcy/funcs.py", "funcy/objects.py"),
        skip=("funcy/debug.py",),
    ),
    Package(
        "toolz",
        "1.0.0",
        "2c86e3d9a04798ac556793bced838816296a2f085017664e4995cb40a1047a02",
        sources=("toolz",),
        tests=("toolz",),
        heldout=("toolz/functoolz.py",),
        val=("toolz/recipes.py", "toolz/sandbox/core.py"),
        skip=("toolz/_version.py", "toolz/compatibility.py"),
    ),
    Package(
        "voluptuous",
        "0.16.0",
        "006535e22fed944aec17bef6e8725472476194743c87bd233e912eb463f8ff05",
        sources=("voluptuous",),
        tests=("voluptuous/tests",),
        heldout=("voluptuous/validators.py",),
        val=("voluptuous/humanize.py", "voluptuous/util.py"),
    ),
    Package(
        "isodate",
        "0.7.2",
        "4cd1aa0f43ca76f4a6c6c0292a85f40b35ec2e43e315b59f06e6d32171a953e6",
        sources=("src/isodate",),
        tests=("tests",),
        path="src",
        heldout=("src/isodate/isotime.py", "src/isodate/isostrf.py", "src/isodate/isotzinfo.py"),
        val=("src/isodate/tzinfo.py",),
        skip=("src/isodate/version.py",),
    ),
    Package(
        "h11",
        "0.16.0",
        "4e35b956cf45792e4caa5885e69fba00bdbc6ffafbfa020300e549b208ee5ff1",
        sources=("h11",),
        tests=("h11",),
        heldout=("h11/_connection.py", "h11/_receivebuffer.py"),
        val=("h11/_writers.py",),
        skip=("h11/_version.py",),
    ),
    Package(
        "schema",
        "0.7.8",
        "e86cc08edd6fe6e2522648f4e47e3a31920a76e82cce8937535422e310862ab5",
        sources=("schema",),
        tests=("test_schema.py",),
        unseen=True,
    ),
    Package(
        "inflection",
        "0.5.1",
        "1a29730d366e996aaacffb2f1f1cb9593dc38e2ddd30c91250c6dde09ea9b417",
        sources=("inflection",),
        tests=("test_inflection.py",),
        unseen=True,
    ),
)
PACKAGES: dict[str, Package] = {package.name: package for package in _TABLE}
