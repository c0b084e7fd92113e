"""Complete older rows of SWE-bench to the columns of swebench 5, for the published images.

Older versions of Verified, Lite and the full set have neither image nor eval_script, log_parser and
eval_type. Rows that have these columns keep them.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from swe_gym_env.errors import SetupError
from swe_gym_env.tasks.files import Row, as_row
from swe_gym_env.tasks.swebench.patches import directives
from swe_gym_env.tasks.swebench.script import eval_script
from swe_gym_env.tasks.swebench.specs import Spec, spec

CONDA, TESTBED = "/opt/miniconda3", "/opt/miniconda3/envs/testbed"
# Without it a command in a sandbox would run the image's base Python
ENV = {
    "PATH": f"{TESTBED}/bin:{CONDA}/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "CONDA_PREFIX": TESTBED,
    "CONDA_DEFAULT_ENV": "testbed",
}
# Without a network, installing what is installed already fails, and it should fail quickly
OFFLINE = "PIP_RETRIES=0 PIP_DEFAULT_TIMEOUT=15"


def image(instance_id: str) -> str:
    return f"swebench/sweb.eval.x86_64.{instance_id.replace('__', '_1776_')}:latest".lower()


def complete(classic: Mapping[str, Any]) -> Row:
    """The row with all columns of swebench 5.

    Raises:
        SetupError: The row is wrong or its repository unknown; the message has the row's place.
    """
    row = as_row(classic)
    done = {"env": ENV, **row}
    done["image"] = row.get("image") or image(row.text("instance_id"))
    done["eval_type"] = row.get("eval_type") or "pass_and_fail"
    if not (row.get("eval_script") and row.get("log_parser")):
        facts = _spec(row)
        done["eval_script"] = row.get("eval_script") or script(row, facts)
        done["log_parser"] = row.get("log_parser") or facts.parser
    about = {key: row[key] for key in ("version", "created_at", "difficulty") if row.get(key)}
    done["metadata"] = {**about, "build": "docker", **row.mapping("metadata")}
    return row.changed(done)


def _spec(row: Row) -> Spec:
    repo, version = row.text("repo"), row.text("version")
    try:
        return spec(repo, version)
    except SetupError as error:
        raise SetupError(f"{row.where}: {error}") from None


def script(row: Row, facts: Spec) -> str:
    """The eval script, in the order of swebench: environment, installation, tests."""
    tests = directives(row.text("repo"), row.text("test_patch"))
    prepare = [f"source {CONDA}/bin/activate", "conda activate testbed", *facts.setup]
    prepare += ["cd /testbed", "git config --global --add safe.directory /testbed"]
    prepare += [f"{OFFLINE} {line}" for line in facts.install.split("; ") if line]
    return eval_script(
        row.text("base_commit"),
        row.text("test_patch"),
        f"{facts.test} {shlex.join(tests)}",
        prepare=prepare,
    )
