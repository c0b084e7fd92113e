"""The packages from which tasks are made, and the facts that are needed for it.

All have an MIT or BSD license and ship a quick suite that passes on Python 3.11 and later. ``CORE``
are the quickest ones, which suffice for the default set; the others make the larger one.
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
    """How to fetch, test and split one package. Paths are relative to the source tree.

    Attributes:
        name: Name on PyPI.
        version: Pinned version; empty for the latest.
        sha256: Hash of the source distribution; empty if it is not pinned.
        requires: Pinned requirements of its tests beside pytest.
        sources: Folders or files that may get bugs; guessed if empty.
        tests: Arguments of pytest; guessed if empty.
        path: What PYTHONPATH must contain.
        unseen: Whether all bugs go to the split ``unseen``: the package is never trained on.
        heldout: Files whose bugs go to the split ``heldout``: their functions are never trained on.
        val: Files whose bugs go to the split ``val``.
        skip: Files that get no bugs.
        local: A folder or archive to use instead of a download.
    """

    name: str
    version: str = ""
    sha256: str = ""
    requires: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    path: str = "."
    unseen: bool = False
    heldout: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    local: str = ""

    @property
    def default(self) -> bool:
        """Whether this is a package of the catalog, unchanged."""
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
    Package(
        "cachetools",
        "8.0.1",
        "deb1d376d4d28c2f33f3e3058043b005e0af75c35c094bd54053e27d2906ad95",
        sources=("src/cachetools",),
        tests=("tests",),
        path="src",
        heldout=("src/cachetools/_cached.py", "src/cachetools/_cachedmethod.py"),
        val=("src/cachetools/func.py",),
    ),
    Package(
        "itsdangerous",
        "2.2.0",
        "e0050c0b7da1eea53ffaf149c0cfbb5c6e2e2b69c4bef22c81fa6eb73e5f6173",
        requires=("freezegun==1.5.5", "python-dateutil==4.0.0", "tzdata==2026.6"),
        sources=("src/itsdangerous",),
        tests=("tests",),
        path="src",
        heldout=("src/itsdangerous/signer.py",),
        val=("src/itsdangerous/timed.py",),
    ),
    Package(
        "tomlkit",
        "0.15.2",
        "83e32755ba1d20d9340bd069ee97e9f6232ba2346b63ffcba425de01f7e327a6",
        requires=("pyyaml==6.0.2",),
        sources=("tomlkit",),
        tests=("tests",),
        heldout=("tomlkit/parser.py", "tomlkit/source.py"),
        val=("tomlkit/api.py",),
    ),
    Package(
        "marshmallow",
        "4.4.0",
        "9e6ffa8511012ca89732324c1c253efd7b4d35632dcbdf80aa793fe01804af3e",
        requires=("simplejson==3.20.1",),
        sources=("src/marshmallow",),
        tests=("tests",),
        path="src",
        heldout=("src/marshmallow/validate.py", "src/marshmallow/utils.py"),
        val=("src/marshmallow/error_store.py", "src/marshmallow/orderedset.py"),
    ),
    Package(
        "sqlparse",
        "0.6.1",
        "ca722573f848ff2d30e40ea30f53a104b7dea7635ea9285891263eb2c58fb6e7",
        sources=("sqlparse",),
        tests=("tests",),
        heldout=("sqlparse/engine/grouping.py",),
        val=("sqlparse/utils.py",),
    ),
    Package(
        "glom",
        "25.12.0",
        "1ae7da88be3693df40ad27bdf57a765a55c075c86c971bcddd67927403eb0069",
        requires=("boltons==25.0.0", "attrs==25.3.0", "face==24.0.0"),
        sources=("glom",),
        tests=("glom/test",),
        heldout=("glom/matching.py",),
        val=("glom/mutation.py",),
    ),
    Package(
        "boltons",
        "26.2.0",
        "d39cfd15c1a1c3bd4d705c82252fa9edb8e4f5e8cc039f8e39afac7b1b47e92c",
        sources=("boltons",),
        tests=("tests",),
        heldout=("boltons/dictutils.py", "boltons/strutils.py", "boltons/urlutils.py"),
        val=("boltons/listutils.py", "boltons/timeutils.py"),
    ),
    Package(
        "tabulate",
        "0.10.0",
        "e2cfde8f79420f6deeffdeda9aaec3b6bc5abce947655d17ac662b126e48a60d",
        sources=("tabulate",),
        tests=("test",),
        unseen=True,
    ),
    Package(
        "xmltodict",
        "1.0.4",
        "6d94c9f834dd9e44514162799d344d815a3a4faec913717a9ecbfa5be1bb8e61",
        sources=("xmltodict.py",),
        tests=("tests",),
        unseen=True,
    ),
    Package(
        "addict",
        "2.4.0",
        "b3b2210e0e067a281f5646c8c5db92e99b7231ea8b0eb5f74dbdf9e259d4e494",
        sources=("addict",),
        tests=("test_addict.py",),
        unseen=True,
    ),
    Package(
        "munch",
        "4.0.0",
        "542cb151461263216a4e37c3fd9afc425feeaf38aaa3025cd2a981fadb422235",
        sources=("munch",),
        tests=("tests",),
        unseen=True,
    ),
    Package(
        "parse",
        "1.22.4",
        "706d458feed5a81b02768d3156e8070baf6cee7d150a3a3c0cd43101a875c3b5",
        sources=("parse",),
        tests=("tests",),
        unseen=True,
    ),
    Package(
        "python-slugify",
        "9.2.0",
        "cee32948083476013804de1667724fb1362dacb71e47b1d5d92adf8db6ee3298",
        requires=("text-unidecode==1.3",),
        sources=("slugify",),
        tests=("tests",),
        unseen=True,
        skip=("slugify/__main__.py",),
    ),
)
PACKAGES: dict[str, Package] = {package.name: package for package in _TABLE}
CORE = ("funcy", "toolz", "voluptuous", "isodate", "h11", "schema", "inflection")
