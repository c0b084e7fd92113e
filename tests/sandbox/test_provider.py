"""Which provider one gets, and what is said when there is none."""

from __future__ import annotations

import logging
import struct
from pathlib import Path

import pytest

from swe_gym_env import sandbox
from swe_gym_env.errors import SetupError
from swe_gym_env.sandbox import docker, local
from swe_gym_env.sandbox.client import StartError
from swe_gym_env.sandbox.guest import kernel, seccomp
from tests.sandbox.conftest import skip


def test_auto_takes_one_that_isolates_and_says_which(caplog: pytest.LogCaptureFixture) -> None:
    if reason := local.LocalProvider().unavailable():
        skip(reason)
    with caplog.at_level(logging.INFO, "swe_gym_env"):
        assert sandbox.provider().name == "local"
    assert "sandbox: local" in caplog.text


def test_auto_never_falls_back_to_no_isolation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_probe", lambda: "refused; use sandbox=process")
    monkeypatch.setattr(docker.DockerProvider, "unavailable", lambda self: "no engine")
    with pytest.raises(SetupError, match=r"no sandbox isolates.*refused; .*docker: no engine"):
        sandbox.provider()
    with pytest.raises(SetupError, match="sandbox=local does not work here"):
        sandbox.provider("local")
    assert sandbox.provider("process").name == "process"


def test_unknown_name_lists_what_exists() -> None:
    with pytest.raises(SetupError, match="auto, local, docker, process"):
        sandbox.provider("dokcer")


@pytest.mark.parametrize(
    ("setting", "value", "fix"),
    [
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "apparmor_restrict_unprivileged_userns=0",
        ),
        ("kernel/unprivileged_userns_clone", "0", "unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
        ("none", "", "--privileged"),
    ],
)
def test_a_refusal_names_the_fix(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: str, fix: str
) -> None:
    monkeypatch.setattr(local.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(
        local, "_says", lambda path, wanted: (path, wanted) == (f"/proc/sys/{setting}", value)
    )
    text = local._explain(StartError("clone: Operation not permitted", 1))
    assert fix in text and "sandbox=process" in text and "not permitted" in text


def test_filter_is_well_formed_on_both_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every jump lands inside the program, and the program ends in a return."""
    for x86 in (True, False):
        monkeypatch.setattr(kernel, "X86", x86)
        code = seccomp.program()
        ops = [struct.unpack_from("HBBI", code, at) for at in range(0, len(code), 8)]
        for at, (kind, yes, no, _) in enumerate(ops):
            if kind & 7 == 5:
                assert at + 1 + max(yes, no) < len(ops)
        assert ops[-1][0] == 6


def test_filter_numbers_match_the_kernel_headers() -> None:
    for path, column, skipped in (
        ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 0, set[str]()),
        ("/usr/include/asm-generic/unistd.h", 1, set[str]()),
    ):
        header = Path(path)
        if not header.exists():
            continue
        words = [line.split() for line in header.read_text().splitlines()]
        known = {w[1].replace("__NR3264_", "__NR_")[5:]: w[2] for w in words if len(w) > 2}
        priority = {name: numbers for name, (numbers, _) in seccomp.PRIORITY.items()}
        tables = (seccomp.DENIED, seccomp.ABSENT, seccomp.UNSUPPORTED, seccomp.SCHEDULING, priority)
        for name, numbers in [pair for table in tables for pair in table.items()]:
            if name in known and known[name].isdigit():
                assert int(known[name]) == numbers[column], (name, path, skipped)
