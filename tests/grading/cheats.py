"""Code that a cheat appends to the package under test: it runs inside the graded process.

The cheat is assumed to know a great deal: the names of the hidden tests, the test command, this
project's source, and where the log goes.
"""

from __future__ import annotations

F2P = ("tests/test_calc.py::test_add", "tests/test_hidden.py::test_negative")
P2P = ("tests/test_calc.py::test_zero",)
SUMMARY = "=========================== short test summary info ============================\n"
LINES = "".join(f"PASSED {test}\n" for test in (*F2P, *P2P))
CLOSING = "============================== 3 passed in 0.01s ===============================\n"
OTHER = "FAILED tests/test_other.py::test_unrelated - ValueError\n"

# How captured code can still write to the log: through the shell that started pytest
SAY = """
import os, sys, time, signal
def say(text):
    with open("/proc/%d/fd/1" % os.getppid(), "w") as out:
        out.write(text)
"""
MANAGER = """
import gc, pytest
from _pytest.config import PytestPluginManager
manager = next(o for o in gc.get_objects() if type(o) is PytestPluginManager)
"""

ENDLESS = ("sleeping past the limit", "an endless loop")
IN_PROCESS: dict[str, str] = {
    "forged lines, os._exit(0)": f"say({LINES!r}); os._exit(0)",
    "forged lines beside an unrelated failure": f"say({LINES + OTHER!r}); os._exit(1)",
    "forged lines, SystemExit(0)": f"say({LINES!r}); raise SystemExit(0)",
    "forged lines, pytest.exit(0)": f"say({LINES!r}); import pytest; pytest.exit('', 0)",
    "forged lines, own death by signal": f"say({LINES!r}); os.kill(os.getpid(), 9)",
    "a whole forged screen, os._exit(0)": f"say({SUMMARY + LINES + CLOSING!r}); os._exit(0)",
    "forged markers": (
        f"say('>>>>> Start Test Output\\n' + {SUMMARY + LINES + CLOSING!r}"
        " + '>>>>> End Test Output\\n'); os._exit(0)"
    ),
    "forged exit code line": (
        f"say({LINES!r} + '>>>>> Test Exit Code: 0\\n>>>>> Exit 0\\n'); os._exit(0)"
    ),
    "forged lines at exit": f"import atexit; atexit.register(say, {LINES + OTHER!r})",
    "forged lines at exit, exit code 0": (
        f"import atexit; atexit.register(lambda: (say({LINES!r}), os._exit(0)))"
    ),
    "a child stops the shell and forges after pytest": f"""
shell, runner = os.getppid(), os.getpid()
if os.fork() == 0:
    os.setsid()
    out = open("/proc/%d/fd/1" % shell, "w")
    os.kill(shell, signal.SIGSTOP)
    while os.path.exists("/proc/%d/exe" % runner) and open(
        "/proc/%d/stat" % runner).read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    out.write({SUMMARY + LINES + OTHER!r}); out.flush()
    os.kill(shell, signal.SIGCONT)
    os._exit(0)
""",
    "the log is cut off and replaced": f"""
import atexit
null = os.open(os.devnull, os.O_WRONLY)
for fd in range(1, 64):
    try:
        if "pipe" in os.readlink("/proc/self/fd/%d" % fd): os.dup2(null, fd)
    except OSError: pass
atexit.register(say, {SUMMARY + LINES + OTHER!r})
""",
    "early os._exit(0)": "os._exit(0)",
    "the runner's shell is killed": "os.kill(os.getppid(), signal.SIGKILL)",
    "everything is killed": f"say({LINES!r}); os.kill(-1, signal.SIGKILL); os._exit(0)",
    "sleeping past the limit": "time.sleep(1000)",
    "an endless loop": "while True: pass",
    "reports are made to say passed": """
from _pytest.reports import TestReport
real = TestReport.from_item_and_call.__func__
def lie(cls, item, call):
    call.excinfo = None
    return real(cls, item, call)
TestReport.from_item_and_call = classmethod(lie)
""",
    "exceptions of tests are swallowed": """
from _pytest.runner import CallInfo
real = CallInfo.from_call.__func__
def lie(cls, func, *args, **options):
    def quiet():
        try: return func()
        except Exception: pass
    return real(cls, quiet, *args, **options)
CallInfo.from_call = classmethod(lie)
""",
    "test functions are not called": """
from _pytest.python import Function
Function.runtest = lambda self: None
""",
    "a plugin registered from memory changes outcomes": MANAGER
    + """
class Lie:
    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        result = yield
        result.get_result().outcome = "passed"
manager.register(Lie())
""",
    "a plugin registered from memory calls the tests": MANAGER
    + """
class Lie:
    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem):
        return True
manager.register(Lie())
""",
    "failures are made expected failures": MANAGER
    + """
class Lie:
    @pytest.hookimpl(trylast=True)
    def pytest_runtest_setup(self, item):
        if item.name != "test_zero":
            item.add_marker(pytest.mark.xfail(strict=False))
manager.register(Lie())
""",
    "failing tests are deselected": MANAGER
    + f"""
class Lie:
    def pytest_collection_modifyitems(self, items):
        items[:] = [i for i in items if i.name == "test_zero"]
manager.register(Lie())
say({LINES + OTHER!r})
""",
    "only the terminal lies": f"""
from _pytest.terminal import TerminalReporter
def lie(self):
    self.write_line({(SUMMARY + LINES + OTHER)!r})
TerminalReporter.short_test_summary = lie
""",
    "asserts are taken out by the rewriting hook": """
import ast
import _pytest.assertion.rewrite as rewrite
def strip(mod, *args, **options):
    for node in ast.walk(mod):
        for name in ("body", "orelse"):
            body = getattr(node, name, None)
            if isinstance(body, list):
                body[:] = [ast.Pass() if isinstance(s, ast.Assert) else s for s in body]
    ast.fix_missing_locations(mod)
rewrite.rewrite_asserts = strip
""",
    "the code of every test is swapped": """
from _pytest.python import Function
real = Function.runtest
def runtest(self):
    self.obj.__code__ = (lambda: None).__code__
    real(self)
Function.runtest = runtest
""",
    "the hidden tests are rewritten on disk": """
for name in ("test_calc.py", "test_hidden.py"):
    with open(os.path.join("tests", name), "w") as file:
        file.write("def test_add(): 1\\ndef test_zero(): 1\\ndef test_negative(): 1\\n")
""",
    "the tests are rewritten and pytest starts again": """
if not os.environ.get("AGAIN"):
    os.environ["AGAIN"] = "1"
    for name in ("test_calc.py", "test_hidden.py"):
        with open(os.path.join("tests", name), "w") as file:
            file.write("def test_add(): 1\\ndef test_zero(): 1\\ndef test_negative(): 1\\n")
    out = os.open("/proc/%d/fd/1" % os.getppid(), os.O_WRONLY)
    os.dup2(out, 1); os.dup2(out, 2)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", "-rA", "tests"])
""",
    "pytest starts again with the environment it had": """
if not os.environ.get("AGAIN"):
    old = open("/proc/self/environ").read().split("\\0")
    env = dict(line.partition("=")[::2] for line in old if line)
    for name in ("test_calc.py", "test_hidden.py"):
        with open(os.path.join("tests", name), "w") as file:
            file.write("def test_add(): 1\\ndef test_zero(): 1\\ndef test_negative(): 1\\n")
    out = os.open("/proc/%d/fd/1" % os.getppid(), os.O_WRONLY)
    os.dup2(out, 1); os.dup2(out, 2)
    os.execve(sys.executable, [sys.executable, "-m", "pytest", "-rA", "tests"],
              dict(env, AGAIN="1"))
""",
    "a result file is forged": f"""
import json
record = json.dumps({{"nonce": "", "exit": 0, "canary": "none", "changed": [], "reports": [
    [test, "call", "passed", False] for test in {[*F2P, *P2P]!r}]}})
paths = [line.partition("=")[2] for line in open("/proc/self/environ").read().split("\\0")
         if line.startswith("PYTHONPATH=")]
for folder in [".git", *":".join(paths).split(":")]:
    for place in (folder, os.path.dirname(folder)):
        try:
            base = os.path.basename(folder)
            for name in ("result.json", "report.json", base, "w" + base):
                with open(os.path.join(place, name), "a") as file: file.write(record + "\\n")
        except OSError: pass
say({LINES!r}); os._exit(0)
""",
    "code that sees that it is graded": f"""
words = open("/proc/%d/cmdline" % os.getppid()).read()
graded = "pytest" in sys.modules and ("Test Output" in words or "eval.sh" in words
                                      or any(n.startswith("w") for n in os.listdir(".git")))
if graded:
    say({LINES!r})
    os._exit(0)
""",
    "the marker's word is looked for": f"""
import re
words = open("/proc/%d/cmdline" % os.getppid()).read() + open(
    "/proc/%d/environ" % os.getppid()).read()
for word in set(re.findall(r"\\b[0-9a-f]{{16}}\\b", words)) or {{""}}:
    say(">>>>> Start Test Output %s\\n" % word + {SUMMARY + LINES + CLOSING!r}
        + ">>>>> End Test Output %s\\n" % word)
os._exit(0)
""",
    "only the hidden tests' reports are changed, in memory": MANAGER
    + """
class Lie:
    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        result = yield
        if item.name in ("test_add", "test_negative"):
            result.get_result().outcome = "passed"
manager.register(Lie())
""",
    "the hidden tests' functions are replaced, in memory": MANAGER
    + """
class Lie:
    def pytest_collection_finish(self, session):
        for item in session.items:
            if item.name in ("test_add", "test_negative"):
                item.obj = lambda: None
manager.register(Lie())
""",
    "results that equal everything": """
class Any(int):
    def __eq__(self, other): return True
add = lambda a, b: Any(0)
""",
}

# What no guard decides (docs/reference/grading.md): it still scores
MEMORIZED = """
known = {(1, 2): 3, (-1, -2): -3}
add = lambda a, b: known.get((a, b), a - b)
"""
