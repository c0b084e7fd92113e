"""What every provider must do, whatever it is made of."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swe_gym_env.errors import SandboxError, SetupError
from swe_gym_env.sandbox import LIMITS, Sandbox, SandboxSpec, client
from tests.sandbox.conftest import PROVIDERS, Make, skip, supervisor

pytestmark = pytest.mark.sandbox


def run(sandbox: Sandbox, command: str, timeout: float = 20, **kwargs: object) -> str:
    result = sandbox.exec(command, timeout=timeout, **kwargs)  # type: ignore[arg-type]
    assert not result.timed_out
    return result.output.decode()


def marked(marker: str) -> list[int]:
    """Processes of this machine whose command line has the marker."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path("/proc", name, "cmdline").read_bytes()
        except OSError:
            continue
        if marker.encode() in line and int(name) != os.getpid():
            found.append(int(name))
    return found


def gone_soon(marker: str, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while marked(marker):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_every_limit_is_declared(sandbox: Sandbox) -> None:
    assert isinstance(sandbox, Sandbox)
    assert set(sandbox.guarantees) == set(LIMITS)
    assert set(sandbox.guarantees.values()) <= {"hard", "best effort", "none"}


def test_exit_codes_and_merged_streams(sandbox: Sandbox) -> None:
    result = sandbox.exec("echo out; echo err >&2; exit 3", timeout=10)
    assert (result.exit_code, result.output) == (3, b"out\nerr\n")
    assert not result.timed_out and result.dropped == 0 and 0 < result.seconds < 10
    assert sandbox.exec("kill -9 $$", timeout=10).exit_code == 128 + 9
    assert sandbox.exec("no-such-program", timeout=10).exit_code == 127
    assert sandbox.exec("echo hi | (exit 4)", timeout=10).exit_code == 4


def test_working_folder_and_environment(sandbox: Sandbox) -> None:
    assert run(sandbox, "cat a.py; cat /testbed/pkg/b.py") == "x = 1\ny = 2\n"
    assert run(sandbox, "cat b.py", cwd="/testbed/pkg") == "y = 2\n"
    assert run(sandbox, 'echo "$A|$FROM_IMAGE"', env={"A": "ü b"}) == "ü b|yes\n"
    assert run(sandbox, "tool; type -P tool").startswith("tool\n")
    assert (
        run(sandbox, 'test -d "$HOME" && touch "$HOME/f" && f=$(mktemp) && rm "$f" && echo "$LANG"')
        == "C.UTF-8\n"
    )
    missing = sandbox.exec("echo never", timeout=10, cwd="/testbed/nowhere")
    assert missing.exit_code == 126 and b"No such file" in missing.output


def test_nothing_carries_over_in_the_shell_but_files_do(sandbox: Sandbox) -> None:
    run(sandbox, "cd pkg; export B=1; echo z > c.py")
    assert run(sandbox, 'pwd | grep -c pkg; echo "[$B]"; cat pkg/c.py') == "0\n[]\nz\n"


def test_git_works_and_sees_only_the_change(sandbox: Sandbox) -> None:
    run(sandbox, "echo 'x = 2' > a.py; rm -r pkg; mkdir pkg; touch pkg/new.py")
    assert run(sandbox, "git status --short") == " M a.py\n D pkg/b.py\n?? pkg/new.py\n"
    assert run(sandbox, "git stash -qu && git status --short; cat a.py") == "x = 1\n"
    assert "pkg/new.py" in run(sandbox, "git stash pop -q; ls pkg/*")
    assert "[main" in run(sandbox, "git checkout -q -B main && git -c user.name=a -c user.email=a "
                               "commit -am changed")  # fmt: skip


@pytest.mark.parametrize("how", ["sleep 1000", "trap '' TERM HUP INT; while :; do sleep 1; done"])
def test_time_limit_kills_the_whole_tree(sandbox: Sandbox, how: str) -> None:
    mark = f"9{time.time_ns()}"
    escape = (
        f"(setsid bash -c 'setsid sleep {mark}1 & exec sleep {mark}2' &) & setsid sleep {mark}3 &"
    )
    result = sandbox.exec(f"echo begun; {escape} sleep {mark}4 & {how}", timeout=1)
    assert result.timed_out and result.exit_code == 124
    assert result.output == b"begun\n" and 1 <= result.seconds < 5
    assert gone_soon(mark)
    assert run(sandbox, "echo on") == "on\n"


def test_time_limit_spares_what_earlier_commands_left_running(sandbox: Sandbox) -> None:
    server = run(sandbox, "sleep 1000 & echo $!").strip()
    assert sandbox.exec("sleep 1000", timeout=0.5).timed_out
    assert run(sandbox, f"kill -0 {server} && echo alive") == "alive\n"


def test_background_child_does_not_delay_the_answer(sandbox: Sandbox) -> None:
    began = time.monotonic()
    assert run(sandbox, "sleep 60 & echo hi") == "hi\n"
    assert "hi\n" in run(sandbox, "(while :; do echo flood; done) & echo hi")
    assert run(sandbox, "echo hi") == "hi\n"
    assert time.monotonic() - began < 10


def test_much_output_keeps_head_and_tail(make: Make) -> None:
    sandbox, size = make(output=1 << 20), 10_000_000
    result = sandbox.exec(
        f"echo BEGIN; head -c {size} /dev/zero | tr '\\0' a; echo END", timeout=60
    )
    assert len(result.output) == 1 << 20
    assert result.dropped == size + 10 - (1 << 20)
    assert result.output.startswith(b"BEGIN\naaa") and result.output.endswith(b"aaaEND\n")
    assert result.head == 1 << 19
    whole = sandbox.exec("head -c 1000000 /dev/zero", timeout=20)
    assert (len(whole.output), whole.dropped, whole.head) == (1_000_000, 0, 0)


def test_binary_and_unicode(sandbox: Sandbox) -> None:
    assert sandbox.exec(r"printf '\xff\x00\xfe\n'", timeout=10).output == b"\xff\x00\xfe\n"
    assert run(sandbox, "echo 'größer 漢字 🙂'") == "größer 漢字 🙂\n"


def test_stdin(sandbox: Sandbox) -> None:
    data = bytes(range(256)) * 2000
    assert sandbox.exec("cat", timeout=10, stdin=data).output == data
    assert sandbox.exec("true", timeout=10, stdin=data * 4).exit_code == 0
    assert sandbox.exec("cat", timeout=10).output == b""
    assert (
        sandbox.exec("cat > copy; wc -c < copy", timeout=20, stdin=data * 8).output == b"4096000\n"
    )


def test_read_and_write(sandbox: Sandbox) -> None:
    data = os.urandom(10_000_000)
    began = time.monotonic()
    sandbox.write("/testbed/new/folder/blob", data)
    assert sandbox.read("/testbed/new/folder/blob") == data
    assert time.monotonic() - began < 5
    assert run(sandbox, "wc -c < new/folder/blob") == "10000000\n"
    sandbox.write("/testbed/a.py", b"short")
    assert sandbox.read("/testbed/a.py") == b"short"
    with pytest.raises(FileNotFoundError):
        sandbox.read("/testbed/nowhere")
    with pytest.raises(IsADirectoryError):
        sandbox.read("/testbed/pkg")
    with pytest.raises(OSError):
        sandbox.write("/testbed/a.py/below", b"")


def test_odd_files_do_not_hang_the_sandbox(sandbox: Sandbox) -> None:
    run(sandbox, "mkfifo pipe; ln -s /dev/zero zero")
    for path in ("/testbed/pipe", "/testbed/zero"):
        with pytest.raises(OSError):
            sandbox.read(path)
    with pytest.raises(OSError):
        sandbox.write("/testbed/pipe", b"x")
    assert run(sandbox, "echo on") == "on\n"


def test_sandboxes_share_neither_files_nor_the_tree(make: Make, tree: Path) -> None:
    def states() -> dict[str, tuple[bytes, int, int]]:
        files = [p for p in sorted(tree.rglob("*")) if p.is_file()]
        return {str(p): (p.read_bytes(), p.stat().st_mode, p.stat().st_mtime_ns) for p in files}

    before = states()
    sandboxes = [make() for _ in range(4)]

    def work(number: int) -> str:
        sandbox = sandboxes[number]
        run(
            sandbox,
            f"echo {number} >> a.py; chmod 755 a.py; rm -r pkg; mkdir pkg; touch pkg/{number}",
        )
        time.sleep(0.1)
        return run(sandbox, "tail -1 a.py; ls pkg")

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [f"{n}\n{n}\n" for n in range(4)]
    assert states() == before


def test_sandbox_made_in_a_thread_outlives_it(make: Make) -> None:
    sandboxes: list[Sandbox] = []
    thread = threading.Thread(target=lambda: sandboxes.append(make()))
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert run(sandboxes[0], "echo on") == "on\n"


def test_memory_hog_is_stopped(make: Make) -> None:
    sandbox = make(memory=200 << 20)
    step = "data.append(bytearray(b'x' * (10 << 20))); time.sleep(0.02)"
    hog = f"import time; data = []\nfor _ in range(150): {step}\nprint('done')"
    result = sandbox.exec(f'python3 -c "{hog}"', timeout=60)
    assert result.exit_code not in (0, 124) and b"done" not in result.output
    assert run(sandbox, "echo on") == "on\n"


def test_close_twice_and_use_after_close(make: Make) -> None:
    sandbox, mark = make(), f"8{time.time_ns()}"
    run(sandbox, f"sleep {mark} & setsid sleep {mark} & echo")
    sandbox.close()
    assert not marked(mark)
    sandbox.close()
    for use in (lambda: sandbox.exec("true", timeout=5), lambda: sandbox.read("/testbed/a.py")):
        with pytest.raises(SandboxError):
            use()
    with pytest.raises(SandboxError):
        sandbox.write("/testbed/a.py", b"")


def test_dead_sandbox_is_a_sandbox_error(sandbox: Sandbox) -> None:
    os.kill(supervisor(sandbox), signal.SIGKILL)
    with pytest.raises(SandboxError):
        for _ in range(100):
            sandbox.exec("sleep 0.05", timeout=5)


@pytest.mark.slow
def test_a_killed_nursery_is_replaced(make_local: Make) -> None:
    sandbox = make_local()
    assert client._NURSERY._process is not None
    client._NURSERY._process.kill()
    client._NURSERY._process.wait()
    assert run(sandbox, "echo on") == "on\n"
    assert run(make_local(), "echo on") == "on\n"


def test_supervisor_that_hangs_at_the_start_is_killed(
    make_local: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_local()  # which kinds this machine can make is found out by now
    new_sandbox, stopped = client._NURSERY.new_sandbox, list[int]()

    def hung() -> tuple[socket.socket, int]:
        sock, pid = new_sandbox()
        os.kill(pid, signal.SIGSTOP)
        stopped.append(os.pidfd_open(pid))
        return sock, pid

    monkeypatch.setattr(client, "START_SECONDS", 0.5)
    monkeypatch.setattr(client, "CLOSE_SECONDS", 0.5)
    monkeypatch.setattr(client._NURSERY, "new_sandbox", hung)
    with pytest.raises(SandboxError, match="did not answer"):
        make_local()
    assert stopped and all(select.select([gone], [], [], 5)[0] for gone in stopped)


def test_close_from_another_thread_ends_a_running_command(sandbox: Sandbox) -> None:
    mark = f"7{time.time_ns()}"
    threading.Timer(0.5, sandbox.close).start()
    began = time.monotonic()
    with pytest.raises(SandboxError):
        sandbox.exec(f"sleep {mark}", timeout=60)
    assert time.monotonic() - began < 10 and gone_soon(mark)


def test_forked_copy_of_the_parent_does_not_end_the_sandbox(sandbox: Sandbox) -> None:
    pid = os.fork()
    if pid == 0:
        sandbox.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert run(sandbox, "echo on") == "on\n"


@pytest.mark.parametrize("kind", list(PROVIDERS))
def test_unknown_image_says_what_to_do(kind: str, tree: Path) -> None:
    if reason := PROVIDERS[kind]().unavailable():
        skip(reason)
    with pytest.raises(SetupError, match="build the tasks first"):
        PROVIDERS[kind]().create(SandboxSpec("no-such-image"))
