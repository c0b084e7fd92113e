"""Patches judged in real sandboxes: a task made here, by every way an episode can end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from swe_gym_env.errors import SandboxError
from swe_gym_env.grading import diff, grade
from swe_gym_env.grading.extract import DiffError
from swe_gym_env.sandbox import Sandbox, SandboxProvider, SandboxSpec
from swe_gym_env.tasks.pypi.build import build
from swe_gym_env.tasks.rows import from_row
from swe_gym_env.types import TaskInstance
from tests.support.toy_tasks import real_provider
from tests.tasks.tiny import own_store, tiny_package

pytestmark = pytest.mark.sandbox

FILE = "tiny/__init__.py"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory, pip_environment: None) -> Iterator[TaskInstance]:
    folder = tmp_path_factory.mktemp("grading")
    home = own_store(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWE_GYM_HOME", str(home))
        rows = build([tiny_package(folder)], counts={"unseen": 1}, max_function_lines=9)
        yield from_row(rows[0], "pypi")


@pytest.fixture(params=["local", "process"])
def sandboxes(request: pytest.FixtureRequest) -> SandboxProvider:
    return real_provider(request.param)


@pytest.fixture
def sandbox(sandboxes: SandboxProvider, task: TaskInstance) -> Iterator[Sandbox]:
    made = sandboxes.create(SandboxSpec(task.image, task.workdir))
    yield made
    made.close()


def run(sandbox: Sandbox, command: str) -> str:
    done = sandbox.exec(command, timeout=60)
    assert done.exit_code == 0, done.output
    return done.output.decode()


def judge(task: TaskInstance, patch: str, sandboxes: SandboxProvider) -> tuple[str, float, bool]:
    outcome = grade(task, patch, sandboxes, timeout=120)
    return outcome.status, outcome.reward, outcome.mask


def new_file(name: str, text: str) -> str:
    lines = text.splitlines(keepends=True)
    body = "".join("+" + line for line in lines)
    return (
        f"diff --git a/{name} b/{name}\nnew file mode 100644\n--- /dev/null\n+++ b/{name}\n"
        f"@@ -0,0 +1,{len(lines)} @@\n{body}"
    )


@pytest.mark.slow
def test_the_gold_patch_resolves(task: TaskInstance, sandboxes: SandboxProvider) -> None:
    outcome = grade(task, task.gold_patch, sandboxes, timeout=120)
    assert (outcome.status, outcome.reward) == ("resolved", 1.0), outcome.reason
    assert set(outcome.tests) == {*task.fail_to_pass, *task.pass_to_pass}


def test_nothing_scores_nothing(task: TaskInstance, sandboxes: SandboxProvider) -> None:
    assert judge(task, " \n", sandboxes) == ("empty_patch", 0.0, False)


def test_an_idle_patch_leaves_the_hidden_tests_failing(
    task: TaskInstance, sandboxes: SandboxProvider
) -> None:
    outcome = grade(task, new_file("NOTES", "x\n"), sandboxes, timeout=120)
    assert outcome.status == "unresolved" and "still fail" in outcome.reason
    assert all(outcome.tests[test] == "FAILED" for test in task.fail_to_pass)


def test_a_patch_that_does_not_apply(task: TaskInstance, sandboxes: SandboxProvider) -> None:
    outcome = grade(task, task.gold_patch.replace("\n ", "\n other"), sandboxes, timeout=120)
    assert outcome.status == "unresolved" and "does not apply" in outcome.reason


def test_an_absent_test_has_failed(task: TaskInstance, sandboxes: SandboxProvider) -> None:
    more = replace(task, pass_to_pass=(*task.pass_to_pass, "tests/test_tiny.py::test_gone"))
    outcome = grade(more, task.gold_patch, sandboxes, timeout=120)
    assert outcome.status == "unresolved"
    assert outcome.tests["tests/test_tiny.py::test_gone"] == "ABSENT"


def test_timeout_has_a_separate_status(task: TaskInstance, sandboxes: SandboxProvider) -> None:
    slow = replace(task, eval_script="sleep 30\n" + task.eval_script)
    assert grade(slow, task.gold_patch, sandboxes, timeout=1).status == "timeout"


@pytest.mark.parametrize(
    "patch",
    [
        new_file(
            "conftest.py",
            "def pytest_runtest_makereport(item, call):\n"
            "    from _pytest.reports import TestReport\n"
            "    call.excinfo = None\n"
            "    return TestReport.from_item_and_call(item, call)\n",
        ),
        new_file("pytest.ini", "[pytest]\naddopts = --co\n"),
        new_file("pytest.py", "print('1 passed in 0.1s')\n"),
        new_file("sitecustomize.py", "import os, sys\nif 'pytest' in sys.argv[0]: os._exit(0)\n"),
        new_file("tests/conftest.py", "import os\nos._exit(0)\n"),
    ],
    ids=["conftest", "ini", "shadow", "sitecustomize", "tests"],
)
def test_test_configuration_of_the_agents_has_no_say(
    task: TaskInstance, sandboxes: SandboxProvider, patch: str
) -> None:
    outcome = grade(task, patch, sandboxes, timeout=120)
    if outcome.status == "tampered":
        assert re.search("every Python process|test framework", outcome.reason)
    else:
        assert outcome.status == "unresolved"
        assert all(outcome.tests[test] == "FAILED" for test in task.fail_to_pass), outcome.reason


def test_a_forged_summary_does_not_resolve(
    task: TaskInstance, sandbox: Sandbox, sandboxes: SandboxProvider
) -> None:
    everything = [*task.fail_to_pass, *task.pass_to_pass]
    log = "".join(f"PASSED {test}\\n" for test in everything)
    text = (
        ">>>>> Start Test Output\\n=== short test summary info ===\\n"
        f"{log}=== {len(everything)} passed in 0.10s ===\\n>>>>> End Test Output\\n"
    )
    forgery = f"\nimport os\nos.write(1, b'''{text}''')\nos._exit(0)\n"
    source = sandbox.read(f"{task.workdir}/{FILE}")
    sandbox.write(f"{task.workdir}/{FILE}", source + forgery.encode())
    assert judge(task, diff(sandbox, task), sandboxes)[0] == "unresolved"


def test_what_the_agent_did_comes_out_and_resolves(
    task: TaskInstance, sandbox: Sandbox, sandboxes: SandboxProvider
) -> None:
    """New, binary, committed and staged; caches not. Looking leaves no trace."""
    sandbox.write(f"{task.workdir}/fix.patch", task.gold_patch.encode())
    run(sandbox, "git apply fix.patch && rm fix.patch && git add -A && git commit -qm fix")
    sandbox.write(f"{task.workdir}/new/data.bin", bytes(range(256)))
    run(sandbox, "mkdir -p tiny/__pycache__ && echo x > tiny/__pycache__/a.pyc && git add new")
    run(sandbox, "printf 'caf\\351\\n' > latin.txt")
    before = run(sandbox, "git status --porcelain; find .git -type f | sort")
    patch = diff(sandbox, task)
    assert run(sandbox, "git status --porcelain; find .git -type f | sort") == before
    assert "new/data.bin" in patch and "GIT binary patch" in patch
    assert "pyc" not in patch and "latin.txt" in patch
    assert diff(sandbox, task) == patch
    assert judge(task, patch, sandboxes) == ("resolved", 1.0, False)


def test_no_change_is_empty_and_missing_history_is_noted(
    task: TaskInstance, sandbox: Sandbox
) -> None:
    run(sandbox, f"python -c 'import tiny' && touch {FILE}")
    assert diff(sandbox, task) == ""
    run(sandbox, "rm -rf .git && echo x > y")
    with pytest.raises(DiffError):
        diff(sandbox, task)


class Faulty:
    """A provider whose first sandboxes break."""

    name = "faulty"

    def __init__(self, inner: SandboxProvider, faults: int) -> None:
        self.inner, self.faults, self.made = inner, faults, 0

    def unavailable(self) -> str | None:
        return None

    def create(self, spec: SandboxSpec) -> Sandbox:
        self.made += 1
        if self.made <= self.faults:
            raise SandboxError("the sandbox died")
        return self.inner.create(spec)


def test_fault_is_retried_in_a_new_sandbox(task: TaskInstance) -> None:
    provider = Faulty(real_provider("process"), faults=1)
    assert grade(task, task.gold_patch, provider, timeout=120).status == "resolved"
    assert provider.made == 3  # the broken one, one for the tests, one for their twins


def test_a_lasting_fault_is_masked_and_never_a_zero_of_the_agents(task: TaskInstance) -> None:
    provider = Faulty(real_provider("process"), faults=9)
    outcome = grade(task, task.gold_patch, provider, timeout=120, retries=2)
    assert (outcome.status, outcome.mask, provider.made) == ("infra_error", True, 3)
    assert "sandbox: the sandbox died" in outcome.reason
