"""What a provider that calls its isolation hard must withstand."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swe_gym_env.sandbox import Sandbox
from swe_gym_env.sandbox.guest import tree
from tests.sandbox.conftest import Make, processes_in
from tests.sandbox.test_conformance import run

pytestmark = pytest.mark.sandbox

PRELUDE = """
import ctypes, errno, os, socket, struct, fcntl, resource, sys
libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
def call(x86, arm, *args):
    "errno of a raw system call, 0 if it went through"
    number = x86 if X86 else arm
    args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    return ctypes.get_errno() if libc.syscall(ctypes.c_long(number), *args) < 0 else 0
def opens(path, flags=os.O_WRONLY):
    try:
        os.close(os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY))
        return True
    except OSError:
        return False
escaped = []
def check(name, got_out):
    if got_out: escaped.append(name)
"""
ATTEMPTS = {
    "kernel settings": """
        for path in ("kernel/core_pattern", "kernel/modprobe", "vm/drop_caches", "fs/file-max",
                     "kernel/hostname", "user/max_user_namespaces", "net/ipv4/ip_forward"):
            check(path, opens("/proc/sys/" + path))
        for path in ("/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/proc/self/comm"):
            device = os.path.exists(path) and os.stat(path).st_rdev  # a cover looks like /dev/null
            check(path, not device and opens(path))
        check("sys", os.path.exists("/sys/kernel") or os.path.exists("/sys/fs"))
    """,
    "mounts": """
        check("mount", not libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))
        check("bind", not libc.mount(b"/", b"/tmp", None, 4096, None))
        check("remount rw", not libc.mount(None, b"/usr", None, 32 | 4096, None))
        check("umount", not libc.umount2(b"/proc", 2))
        check("fsopen", call(430, 430, b"tmpfs", 0) == 0)
        check("open_tree", call(428, 428, -100, b"/", 1) == 0)
        check("mount_setattr", call(442, 442, -100, b"/", 0, 0, 0) != errno.EPERM)
        check("pivot_root", call(155, 41, b"/tmp", b"/tmp") != errno.EPERM)
    """,
    "namespaces": """
        for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x04000000, 0x02000000):
            check("unshare %x" % flag, call(272, 97, flag) == 0)
            number = ctypes.c_long(56 if X86 else 220)
            child = libc.syscall(number, ctypes.c_long(flag | 17), 0, 0, 0, 0)
            if child == 0: os._exit(0)
            check("clone %x" % flag, child > 0)
        check("clone3", call(435, 435, ctypes.create_string_buffer(64), 64) != errno.ENOSYS)
        fd = os.open("/proc/self/ns/user", os.O_RDONLY)
        check("setns", call(308, 268, fd, 0) != errno.EPERM)
        check("chroot", libc.chroot(b"/tmp") == 0)
    """,
    "dangerous calls": """
        for name, x86, arm in (("keyctl", 250, 219), ("add_key", 248, 217),
                ("request_key", 249, 218), ("bpf", 321, 280),
                ("perf_event_open", 298, 241), ("userfaultfd", 323, 282),
                ("io_uring_setup", 425, 425),
                ("open_by_handle_at", 304, 265), ("ptrace", 101, 117),
                ("kexec_load", 246, 104), ("init_module", 175, 105), ("finit_module", 313, 273),
                ("reboot", 169, 142), ("swapon", 167, 224), ("process_vm_readv", 310, 270)):
            check(name, call(x86, arm, 0, 0, 0, 0, 0) != errno.EPERM)
        if X86: check("x32", call(0x40000000 | 39, 0) != errno.ENOSYS)
        check("shmget", call(29, 194, 0, 1 << 20, 0o600) == 0)
        for request in (0x5412, 0x541C):
            try: fcntl.ioctl(0, request, b"x"); check("TIOCSTI", True)
            except OSError as error: check("TIOCSTI", error.errno != errno.EPERM)
        check("terminal", opens("/dev/tty"))
    """,
    "memory that no limit counts": """
        check("msgget", call(68, 186, 0, 0o600) != errno.ENOSYS)
        check("semget", call(64, 190, 0, 1, 0o600) != errno.ENOSYS)
        open("/tmp/attributes", "w").close()
        for name in ("user.a", "system.posix_acl_access"):
            try: os.setxattr("/tmp/attributes", name, b"x" * 100); check(name, True)
            except OSError as error: check(name, error.errno != errno.EOPNOTSUPP)
    """,
    "process 1": """
        for name in ("root", "environ", "mem", "cwd", "exe", "maps"):
            check(name, opens("/proc/1/" + name, os.O_RDONLY))
        check("root listing", os.path.exists("/proc/1/root/usr"))
        try: check("descriptors", os.listdir("/proc/1/fd"))
        except OSError: pass
        for number in (2, 9, 15, 19, 11):
            try: os.kill(1, number)
            except OSError: pass
        try: resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0)); check("prlimit", True)
        except OSError: pass
        idle = os.sched_param(0)
        for name, change in (
            ("class", lambda: os.sched_setscheduler(1, os.SCHED_IDLE, idle)),
            ("parameters", lambda: os.sched_setparam(1, idle)),
            ("cores", lambda: os.sched_setaffinity(1, [0])),
            ("nice", lambda: os.setpriority(os.PRIO_PROCESS, 1, 19)),
            ("nice by group", lambda: os.setpriority(os.PRIO_PGRP, 1, 19)),
            ("nice by user", lambda: os.setpriority(os.PRIO_USER, 0, 19)),
        ):
            try: change(); check("scheduling: " + name, True)
            except OSError as error: check("scheduling: " + name, error.errno != errno.EPERM)
        check("ioprio", call(251, 30, 1, 1, 0x6000) != errno.EPERM)
        check("ioprio by user", call(251, 30, 3, 0, 0x6000) != errno.EPERM)
    """,
    "privileges": """
        status = open("/proc/self/status").read()
        for line in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            check(line, int(status.split(line + ":")[1].split()[0], 16) != 0)
        check("no_new_privs", "NoNewPrivs:\\t1" not in status)
        check("seccomp", "Seccomp:\\t2" not in status)
        check("groups", [g for g in os.getgroups() if g not in (1000, 65534)])
        check("setuid", not libc.setuid(0) or not libc.setresuid(0, 0, 0))
        check("host root", [m for m in open("/proc/self/uid_map") if m.split()[1] == "0"])
        check("nested", open("/proc/sys/user/max_user_namespaces").read().strip() != "0")
        try: os.mknod("/tmp/disk", 0o60666, os.makedev(8, 0)); check("mknod", True)
        except OSError: pass
        check("core dumps", resource.getrlimit(resource.RLIMIT_CORE)[1] != 0)
    """,
    "files": """
        for folder in ("/", "/usr", "/usr/bin", "/etc", "/dev", "/proc", "/opt/env", "/opt/env/bin",
                       "/var", sys.prefix):
            check("write in " + folder, opens(folder + "/x", os.O_WRONLY | os.O_CREAT))
        for path in ("/opt/env/bin/tool", "/etc/passwd", "/bin/bash"):
            check("write " + path, opens(path))
            try: os.chmod(path, 0o777); check("chmod " + path, True)
            except OSError: pass
        for path in ("/run", "/boot", "/mnt", "/lost+found", "/etc/shadow", "/var/log", "/.disk",
                     "/.lower", "/usr/share/doc/bash"):
            check("sees " + path, os.path.exists(path))
        here = set(os.listdir("/dev")) - {"null", "zero", "full", "random", "urandom", "shm", "fd",
                                          "stdin", "stdout", "stderr"}
        check("devices", here)
    """,
    "descriptors": """
        extra = [fd for fd in os.listdir("/proc/self/fd") if int(fd) > 2]
        check("leftover", len(extra) > 1)
        for fd in (0, 1, 2):
            check("stream", not os.readlink("/proc/self/fd/%d" % fd).startswith("pipe:"))
    """,
    "sockets": """
        for family in (40, 38, 17, 31, 43):
            try: socket.socket(family, socket.SOCK_STREAM); check("family %d" % family, True)
            except OSError: pass
        try: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); check("raw", True)
        except OSError: pass
        check("interfaces", [n for _, n in socket.if_nameindex() if n != "lo"])
    """,
    "setuid programs": """
        import subprocess
        for line in ("su -c id", "sudo -n id", "mount -t tmpfs none /tmp", "newgrp root",
                     "unshare -U id", "unshare -r id", "chroot /tmp /bin/true", "passwd -d root"):
            done = subprocess.run(line, shell=True, capture_output=True, stdin=subprocess.DEVNULL)
            check(line, done.returncode == 0 or b"uid=0" in done.stdout)
    """,
}


# In a container the agent is root of a separate system; test_docker.py checks what it may do
UNPRIVILEGED = (
    "kernel settings",
    "privileges",
    "files",
    "setuid programs",
    "process 1",
    "memory that no limit counts",
)


@pytest.mark.parametrize("name", [name for name in ATTEMPTS if name not in UNPRIVILEGED])
def test_escape_attempt(isolated: Sandbox, name: str) -> None:
    attempt(isolated, name)


@pytest.mark.parametrize("name", UNPRIVILEGED)
def test_attempt_on_the_system(make_local: Make, name: str) -> None:
    attempt(make_local(), name)


def attempt(isolated: Sandbox, name: str) -> None:
    script = PRELUDE + textwrap.dedent(ATTEMPTS[name]) + "\nprint('escaped:', escaped)\n"
    isolated.write("/tmp/attempt.py", script.encode())
    assert run(isolated, "python3 /tmp/attempt.py") == "escaped: []\n"
    assert run(isolated, "echo on") == "on\n"


def test_host_files_environment_and_processes_are_out_of_sight(
    make_isolated: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    monkeypatch.setenv("MY_API_KEY", "hunter2")
    sandbox = make_isolated()
    assert run(sandbox, f"cat {secret} 2>&1 | grep -c hidden; env | grep -c hunter2") == "0\n0\n"
    assert run(sandbox, "cat /proc/[0-9]*/environ 2>/dev/null | grep -c hunter2") == "0\n"
    assert run(sandbox, "ls -d /proc/[0-9]* | wc -l; uname -n").split()[1] == "sandbox"
    assert int(run(sandbox, "ls -d /proc/[0-9]* | wc -l")) < 8
    assert run(sandbox, f"kill -0 {os.getpid()} 2>/dev/null && echo seen") == ""
    names = run(sandbox, "env | cut -d= -f1 | sort").split()
    allowed = {"FROM_IMAGE", "HOME", "LANG", "PATH", "PWD", "PYTHONDONTWRITEBYTECODE", "SHLVL", "_"}
    assert set(names) - {"TERM", "container"} <= allowed  # Podman says these two


def test_links_do_not_lead_reads_and_writes_out(make_local: Make, tmp_path: Path) -> None:
    isolated = make_local()
    target = tmp_path / "host-file"
    target.write_text("host")
    run(isolated, f"ln -s {target} out; ln -s /etc/passwd passwd; ln -s /proc/1/environ env")
    with pytest.raises(OSError):
        isolated.read("/testbed/out")
    with pytest.raises(OSError):
        isolated.write("/testbed/passwd", b"root::0:0::/:/bin/bash\n")
    isolated_copy = run(isolated, "cat env 2>/dev/null | wc -c")
    assert isolated_copy == "0\n"
    assert target.read_text() == "host"


def test_no_network_but_loopback(isolated: Sandbox) -> None:
    with socket.socket() as server, socket.socket(socket.AF_UNIX) as hidden:
        server.bind(("127.0.0.1", 0))
        server.listen()
        hidden.bind(f"\0swe-gym-{os.getpid()}")
        hidden.listen()
        port = server.getsockname()[1]
        script = f"""
import socket
import subprocess
import sys
def reach(family, address):
    with socket.socket(family) as s:
        s.settimeout(3)
        try: s.connect(address); return True
        except OSError: return False
print(reach(socket.AF_INET, ("127.0.0.1", {port})), reach(socket.AF_INET, ("1.1.1.1", 53)),
      reach(socket.AF_UNIX, "\\0swe-gym-{os.getpid()}"))
with socket.socket() as s:
    s.bind(("localhost", 0)); s.listen()
    print(reach(socket.AF_INET, s.getsockname()))
"""
        isolated.write("/tmp/net.py", script.encode())
        assert run(isolated, "python3 /tmp/net.py") == "False False False\nTrue\n"


def test_installed_packages_are_hidden_and_programs_work(isolated: Sandbox) -> None:
    shown = run(
        isolated, "python3 -c 'import sys; print(sys.path)'; python3 -c 'import gymnasium' 2>&1"
    )
    assert "ModuleNotFoundError" in shown
    assert run(isolated, "ls /usr/lib/python3/dist-packages /usr/local/lib/python3*/*-packages "
                         "2>/dev/null | grep -v : | grep -c .") == "0\n"  # fmt: skip
    check = "import ssl, sqlite3, multiprocessing as m; q = m.Queue(); q.put(1); print(q.get())"
    assert run(isolated, f"python3 -c '{check}'; git --version | cut -c1-3") == "1\ngit\n"


def test_disk_is_limited(make_local: Make) -> None:
    sandbox = make_local(disk=16 << 20)
    for place in ("/testbed", "/tmp", "$HOME", "/dev/shm"):
        fill = " ".join(f"head -c 12M /dev/zero > {place}/{name};" for name in "ab")
        result = sandbox.exec(f"{fill} e=$?; rm -f {place}/[ab]; exit $e", timeout=30)
        assert result.exit_code != 0 and b"No space left" in result.output, place
    with pytest.raises(OSError):
        sandbox.write("/testbed/big", bytes(32 << 20))
    assert sandbox.exec("rm -f big; echo 'x = 3' > a.py", timeout=10).exit_code == 0


def test_number_of_files_is_limited(make_local: Make) -> None:
    sandbox = make_local(inodes=500)
    result = sandbox.exec("mkdir many; cd many; touch $(seq 1000)", timeout=30)
    assert result.exit_code != 0 and b"No space left" in result.output
    assert sandbox.exec("rm -r many; echo x > a.py", timeout=10).exit_code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user owns all of its sandboxes")
def test_sandboxes_of_root_share_no_user(make_local: Make) -> None:
    """The kernel counts inotify instances for each user; one sandbox must not use up all."""
    hungry, other = make_local(), make_local()
    take = """
import ctypes, time
libc = ctypes.CDLL(None)
made = 0
while libc.inotify_init() >= 0 and made < 5000:
    made += 1
print(made, libc.inotify_init() >= 0, flush=True)
time.sleep(100)
"""
    hungry.write("/tmp/take.py", take.encode())
    greedy = hungry.exec("ulimit -n $(ulimit -Hn); python3 /tmp/take.py & sleep 2", timeout=20)
    assert b"False" in greedy.output
    one = "import ctypes; print(ctypes.CDLL(None).inotify_init() >= 0)"
    assert run(other, f'python3 -c "{one}"') == "True\n"


def test_fork_bomb_is_contained(make_isolated: Make) -> None:
    sandbox, most = make_isolated(processes=48), 0
    with ThreadPoolExecutor(1) as pool:
        bomb = pool.submit(sandbox.exec, ":(){ :|:& };: ; sleep 100", timeout=1.5)
        while not bomb.done():
            most = max(most, len(processes_in(sandbox)))
            time.sleep(0.05)
    assert 10 < most < 80
    assert run(sandbox, "echo on") == "on\n"
    crowd = sandbox.exec("for i in $(seq 100); do sleep 2 & done; jobs | wc -l", timeout=20)
    assert b"fork" in crowd.output or b"Resource temporarily unavailable" in crowd.output


def test_many_processes_together_are_held_to_the_memory_limit(make_isolated: Make) -> None:
    sandbox = make_isolated(memory=200 << 20)
    hog = "import time; data = b'x' * (90 << 20); time.sleep(2); print('do' + 'ne')"
    result = sandbox.exec(f'for i in 1 2 3 4; do python3 -c "{hog}" & done; wait', timeout=40)
    assert result.output.count(b"done\n") <= 2


@pytest.mark.slow
def test_enough_processes_are_ended_at_once_to_keep_the_memory_limit() -> None:
    hold = "import sys; data = b'x' * (40 << 20); print(flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    held = [subprocess.Popen([sys.executable, "-c", hold], **pipes) for _ in range(5)]  # type: ignore[call-overload]
    try:
        for one in held:
            one.stdout.readline()
        pids = [one.pid for one in held]
        assert tree.over_limit(pids, 1 << 30) == []
        assert len(tree.over_limit(pids, 110 << 20)) in (3, 4)
        assert set(tree.over_limit(pids, 0)) == set(pids)
    finally:
        for one in held:
            one.communicate()


def test_a_crowd_left_in_the_background_does_not_lock_the_agent_out(make_isolated: Make) -> None:
    sandbox = make_isolated(processes=40)
    sandbox.exec("for i in $(seq 80); do setsid sleep 100 & done 2>/dev/null", timeout=20)
    assert run(sandbox, "echo on") == "on\n"


@pytest.mark.slow
def test_so_many_commands_at_once_that_their_pipes_run_out(make_local: Make) -> None:
    """The kernel allows a user 64 large pipes, and all sandboxes are one user's."""
    sandboxes = [make_local() for _ in range(80)]
    with ThreadPoolExecutor(len(sandboxes)) as pool:
        outputs = list(
            pool.map(lambda sandbox: run(sandbox, "sleep 2; echo here", timeout=60), sandboxes)
        )
    assert outputs == ["here\n"] * len(sandboxes)


def test_a_limit_cannot_be_raised(isolated: Sandbox) -> None:
    for limit in ("-c", "-f"):
        assert run(isolated, f"ulimit {limit} unlimited 2>/dev/null && echo raised; echo") == "\n"
