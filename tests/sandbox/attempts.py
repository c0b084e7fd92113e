"""Ways out of a sandbox, and of its limits, as data: what is tried, and which promise it is about.

Each ``script`` is Python that runs in a sandbox, after ``PRELUDE``. ``HOST`` says what there is to
be had outside (a world-writable file with a secret in it, a process, open ports, sockets);
``check`` takes the name of a success. A script that went through without one ends with ``escaped:
[]``; one that may not come so far is marked ``dies``. What happened to the host and to the sandbox
next door is looked at from outside, in ``test_escapes.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from swe_gym_env.sandbox import ExecResult, Sandbox

Look = Callable[[Sandbox, ExecResult, Mapping[str, object]], None]
OUTPUT = 64 << 10

PRELUDE = """
import ctypes, errno, fcntl, json, mmap, os, resource, signal, socket, stat, struct, subprocess
import sys, threading, time
HOST = json.loads({host!r})
libc = ctypes.CDLL(None, use_errno=True)
libc.mount.restype = libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long] * 4
X86 = os.uname().machine == "x86_64"
escaped = []
def check(name, got_out):
    if got_out: escaped.append(name)
def call(x86, arm, *args):
    "errno of a raw system call, 0 if it went through"
    args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    failed = libc.syscall(ctypes.c_long(x86 if X86 else arm), *args) < 0
    return ctypes.get_errno() if failed else 0
def opens(path, flags=os.O_RDONLY):
    "whether the real thing opens; a cover of it that looks like /dev/null does not count"
    try: fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError: return False
    real = os.fstat(fd).st_rdev != os.makedev(1, 3)
    os.close(fd)
    return real
def show(path, size=1 << 16):
    "print what is in a file: the test knows the secret that must not be there"
    try:
        with open(path, "rb") as file: sys.stdout.buffer.write(file.read(size))
    except (OSError, ValueError): pass
def reach(family, address, kind=socket.SOCK_STREAM):
    try:
        with socket.socket(family, kind) as s:
            s.settimeout(2)
            s.connect(address)
            s.send(b"escaped")
            return True
    except OSError: return False
def pids(): return [name for name in os.listdir("/proc") if name.isdigit()]
print("begun", flush=True)
"""


@dataclass(frozen=True)
class Attempt:
    """``guarantee`` is one of LIMITS. ``look`` is called, outside, with the sandbox, what the
    command came back with, and ``HOST``."""

    name: str
    guarantee: str
    script: str
    seconds: float = 30.0
    dies: bool = False
    limits: Mapping[str, int] = field(default_factory=dict)
    look: Look | None = None
    best_effort: bool = False  # tried as well where the guarantee is only that


def links_followed(sandbox: Sandbox, result: ExecResult, host: Mapping[str, object]) -> None:
    for name in ("file", "folder/secret", "up/secret", "proc", "hard", "passwd"):
        with suppress(OSError):
            assert str(host["secret"]).encode() not in sandbox.read(f"/testbed/{name}")
        with suppress(OSError):
            sandbox.write(f"/testbed/{name}", b"escaped")
    with suppress(OSError):
        sandbox.write("/testbed/folder/new", b"escaped")


def sparse_read(sandbox: Sandbox, result: ExecResult, host: Mapping[str, object]) -> None:
    with suppress(OSError):
        assert len(sandbox.read("/testbed/sparse")) <= 1 << 30


def still_answers(sandbox: Sandbox, result: ExecResult, host: Mapping[str, object]) -> None:
    assert sandbox.exec("echo on", timeout=20).output == b"on\n"


def flood_was_cut(sandbox: Sandbox, result: ExecResult, host: Mapping[str, object]) -> None:
    assert len(result.output) == OUTPUT and result.dropped > 100 << 20
    still_answers(sandbox, result, host)


def forgery_is_only_output(
    sandbox: Sandbox, result: ExecResult, host: Mapping[str, object]
) -> None:
    assert result.exit_code == 7 and not result.timed_out and result.dropped == 0
    assert result.output.count(b"forged") == 60
    still_answers(sandbox, result, host)


def under_4_gib(sandbox: Sandbox, result: ExecResult, host: Mapping[str, object]) -> None:
    assert result.output.count(b"gulp") * (256 << 20) <= 4 << 30


def stopped_in_time(sandbox: Sandbox, result: ExecResult, host: Mapping[str, object]) -> None:
    assert result.timed_out
    still_answers(sandbox, result, host)


ATTEMPTS = (
    # -- the kernel's own interfaces
    Attempt("writes to /proc/sys", "isolation", """
for folder, _, names in os.walk("/proc/sys"):
    for name in names:
        # opened, not written: it would be this very machine's
        check(name, opens(os.path.join(folder, name), os.O_WRONLY))
"""),
    Attempt("memory and devices of the host", "isolation", """
for path in ("/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/proc/kcore", "/proc/kmsg",
             "/dev/sda", "/dev/vda", "/dev/nvme0n1", "/dev/loop0", "/dev/kvm", "/dev/fuse",
             "/dev/net/tun", "/dev/mapper/control", "/dev/cpu/0/msr"):
    check(path, opens(path))
check("sysrq", opens("/proc/sysrq-trigger", os.O_WRONLY))
check("log", libc.klogctl(3, ctypes.create_string_buffer(4096), 4096) > 0)
"""),
    Attempt("new device files", "isolation", """
for name, kind, number in (("disk", stat.S_IFBLK, (8, 0)), ("vdisk", stat.S_IFBLK, (254, 0)),
                           ("mem", stat.S_IFCHR, (1, 1)), ("kmsg", stat.S_IFCHR, (1, 11))):
    for folder in ("/tmp", "/testbed", "/dev/shm"):
        path = os.path.join(folder, name)
        try: os.mknod(path, kind | 0o666, os.makedev(*number))
        except OSError: continue
        check(path, opens(path) or opens(path, os.O_RDWR))
"""),
    Attempt("mounts", "isolation", """
mark = HOST["mark"].encode()
for kind in (b"tmpfs", b"proc", b"sysfs", b"cgroup", b"cgroup2", b"debugfs", b"overlay"):
    check(kind.decode(), libc.mount(mark, b"/tmp", kind, 0, None) == 0)
check("bind", libc.mount(b"/", b"/tmp", None, 4096, None) == 0)
check("writable", libc.mount(None, b"/proc", None, 32, None) == 0)
check("shared", libc.mount(None, b"/", None, 1 << 20, None) == 0)
check("uncovered", libc.umount2(b"/proc/kcore", 2) == 0)
check("fsopen", call(430, 430, b"tmpfs", 0) == 0)
check("open_tree", call(428, 428, -100, b"/", 1) == 0)
"""),
    Attempt("a new user namespace, and root in it", "isolation", """
for line in ("unshare -r id -u", "unshare -Urm mount -t tmpfs none /mnt", "unshare -n true",
             "unshare -Urmpf --mount-proc true"):
    check(line, subprocess.run(line, shell=True, capture_output=True).returncode == 0)
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x02000000):
    check(hex(flag), call(272, 97, flag) == 0 or call(272, 97, flag | 0x10000000) == 0)
for name in pids():
    for kind in ("mnt", "user", "net", "pid"):
        try: fd = os.open(f"/proc/{name}/ns/{kind}", os.O_RDONLY)
        except OSError: continue
        check("setns " + kind, call(308, 268, fd, 0) == 0)
"""),
    Attempt("chroot and pivot_root", "isolation", """
fd = os.open("/", os.O_RDONLY)
os.makedirs("/tmp/jail", exist_ok=True)
libc.chroot(b"/tmp/jail")
call(155, 41, b"/tmp/jail", b"/tmp/jail")
os.fchdir(fd)
for _ in range(40): os.chdir("..")
libc.chroot(b".")
show(HOST["file"].lstrip("/"))
show(HOST["file"])
check("host's file", os.path.exists("." + HOST["file"]))
"""),
    Attempt("file handles instead of paths", "isolation", """
for mount in ("/", "/usr", "/testbed", "/etc/hosts", "/etc/resolv.conf", "/proc"):
    try: fd = os.open(mount, os.O_RDONLY)
    except OSError: continue
    for inode in (1, 2, 64, 128, 256):
        handle = struct.pack("IiQ", 8, 1, inode)
        check(mount, call(304, 265, fd, ctypes.create_string_buffer(handle, 64), 0) == 0)
"""),
    Attempt("the files of process 1", "isolation", """
for name in pids():
    show(f"/proc/{name}/environ"), show(f"/proc/{name}/cmdline")
    for link in ("root", "cwd", "task"):
        show(f"/proc/{name}/{link}" + HOST["file"])
for name in ("mem", "environ", "exe", "maps", "fd/0"):
    check(name, opens("/proc/1/" + name) or opens("/proc/1/" + name, os.O_RDWR))
"""),
    Attempt("descriptors left open", "isolation", """
for fd in range(3, 4096):
    try: os.write(fd, b"escaped"); check(f"wrote to {fd}", True)
    except OSError: pass
    try: os.fchdir(fd); check(f"a folder at {fd}", True)
    except OSError: pass
for name in pids():
    try: fds = os.listdir(f"/proc/{name}/fd")
    except OSError: continue
    if int(name) == os.getpid(): continue
    for fd in fds:
        where = f"/proc/{name}/fd/{fd}"
        try: check(where, os.readlink(where).startswith("socket:") and name == "1")
        except OSError: pass
        show(where + "/../../../../../.." + HOST["file"])
"""),
    Attempt("ptrace of the supervisor", "isolation", """
for pid in (1, HOST["pid"]):
    for request in (16, 0x4206):
        check(f"attach to {pid}", libc.ptrace(request, pid, 0, 0) == 0)
    buffer = ctypes.create_string_buffer(64)
    local = struct.pack("QQ", ctypes.addressof(buffer), 64)
    remote = struct.pack("QQ", 0x400000, 64)
    for x86, arm in ((310, 270), (311, 271)):
        check("its memory", call(x86, arm, pid, local, 1, remote, 1, 0) == 0)
    check("its descriptors", call(438, 438, os.pidfd_open(1), 0, 0) == 0)
"""),
    Attempt("kill -9 -1 and everybody else", "isolation", """
for pid in (1, HOST["pid"], HOST["parent"], -HOST["pid"]):
    for number in (9, 15, 19, 11):
        try: os.kill(pid, number)
        except OSError: pass
for pid in range(2, 70000):
    if pid == os.getpid(): continue
    try: os.kill(pid, 9)
    except OSError: pass
os.kill(-1, 9)
""", dies=True),
    Attempt("release_agent of a control group", "isolation", """
for folder, folders, names in os.walk("/sys/fs/cgroup"):
    for name in names:
        check(name, opens(os.path.join(folder, name), os.O_WRONLY))
    try: os.mkdir(os.path.join(folder, "escape"))
    except OSError: continue
    check("new group", os.path.exists(os.path.join(folder, "escape", "cgroup.procs")))
os.makedirs("/tmp/group", exist_ok=True)
for options in (b"rdma", b"memory", b"none,name=escape"):
    check("mounted", libc.mount(b"cgroup", b"/tmp/group", b"cgroup", 0, options) == 0)
"""),
    Attempt("a crash with a helper in core_pattern", "isolation", """
check("core_pattern", opens("/proc/sys/kernel/core_pattern", os.O_WRONLY))
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
if os.fork() == 0:
    os.chdir("/testbed")
    os.kill(os.getpid(), signal.SIGSEGV)
os.wait()
check("core", [name for name in os.listdir("/testbed") if name.startswith("core")])
"""),
    Attempt("keys of the kernel's keyrings", "isolation", """
for ring in (-3, -4, -5):
    check("ring", call(250, 219, 0, ring, 1) == 0)
check("add_key", call(248, 217, b"user", b"escape", b"x", 1, -4) == 0)
check("persistent", call(250, 219, 22, -1, -4) == 0)
"""),
    Attempt("bpf, perf events, userfaultfd, io_uring", "isolation", """
attributes = ctypes.create_string_buffer(struct.pack("IIQ", 2, 2, 4), 128)
check("bpf", call(321, 280, 0, attributes, 32) == 0)
check("bpf program", call(321, 280, 5, ctypes.create_string_buffer(128), 128) == 0)
check("perf", call(298, 241, ctypes.create_string_buffer(struct.pack("IIQ", 1, 112, 0), 112),
                   -1, 0, -1, 0) == 0)
check("userfaultfd", call(323, 282, 0) == 0)
check("io_uring", call(425, 425, 4, ctypes.create_string_buffer(120)) == 0)
"""),
    Attempt("modules, kexec, reboot, swap, clock", "isolation", """
for name, x86, arm, args in (("init_module", 175, 105, (b"", 0, b"")),
        ("finit_module", 313, 273, (0, b"", 0)), ("kexec_load", 246, 104, (0, 0, 0, 0)),
        ("reboot", 169, 142, (0, 0, 0, 0)), ("swapon", 167, 224, (b"/testbed/a.py", 0)),
        ("acct", 163, 89, (b"/testbed/a.py",)), ("settimeofday", 164, 170, (b"\\0" * 16, 0)),
        ("sethostname", 170, 161, (b"escape", 6)), ("quotactl", 179, 60, (0, 0, 0, 0))):
    check(name, call(x86, arm, *args) not in (errno.EPERM, errno.ENOSYS, errno.ENOTBLK))
"""),
    Attempt("setuid programs", "isolation", """
def powers(text): return int(text.split("CapEff:")[1].split()[0], 16)
own = powers(open("/proc/self/status").read())
for line in ("su -c CMD", "sudo -n CMD", "newgrp root -c CMD", "pkexec CMD", "sg root CMD"):
    done = subprocess.run(line.replace("CMD", "'cat /proc/self/status'"), shell=True,
                          capture_output=True, stdin=subprocess.DEVNULL, text=True)
    check(line, "CapEff" in done.stdout and powers(done.stdout) & ~own)
try:
    subprocess.run("cp /bin/cat /testbed/cat; chown 0:0 /testbed/cat; chmod 6755 /testbed/cat",
                   shell=True, capture_output=True)
    done = subprocess.run(["/testbed/cat", "/proc/self/status"], capture_output=True, text=True)
    check("own setuid program", powers(done.stdout) & ~own)
except OSError: pass
libc.setresuid(0, 0, 0)
check("setresuid", powers(open("/proc/self/status").read()) & ~own)
"""),
    Attempt("higher limits, priority and a place last in line for the OOM killer", "isolation", """
for kind in (resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
    soft, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY: continue
    try: resource.setrlimit(kind, (hard + 1, hard + 1)); check("limit", True)
    except (OSError, ValueError): pass
try: os.setpriority(os.PRIO_PROCESS, 0, -20); check("nice", True)
except OSError: pass
try: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)); check("real time", True)
except OSError: pass
try:
    with open("/proc/self/oom_score_adj", "w") as file: file.write("-1000")
    check("oom", True)
except OSError: pass
"""),
    Attempt("keystrokes for the terminal of the host", "isolation", """
places = [0, 1, 2]
for path in ("/dev/tty", "/dev/console", "/dev/tty0", "/dev/tty1", "/dev/pts/0"):
    try: places.append(os.open(path, os.O_RDWR | os.O_NOCTTY))
    except OSError: pass
for fd in places:
    for request in (0x5412, 0x541C):
        try: fcntl.ioctl(fd, request, b"x"); check(f"typed into {fd}", True)
        except OSError: pass
"""),
    # -- files
    Attempt("links that the host is to follow", "isolation", """
os.chdir("/testbed")
for name, target in (("file", HOST["file"]), ("folder", HOST["folder"]),
                     ("up", "../" * 20 + HOST["folder"]), ("proc", "/proc/1/environ"),
                     ("passwd", "/etc/passwd")):
    os.symlink(target, name)
for source in (HOST["file"], "/etc/passwd", "/proc/1/environ"):
    try: os.link(source, "hard", follow_symlinks=True); break
    except OSError: pass
""", look=links_followed),
    Attempt("whiteouts and redirects of the overlay", "isolation", """
above = "../" * 12 + HOST["folder"].lstrip("/")
for prefix in ("user", "trusted"):
    for name, value in (("redirect", above.encode()), ("redirect", HOST["folder"].encode()),
                        ("opaque", b"y"), ("metacopy", b""), ("origin", b"\\0" * 32)):
        try: os.setxattr("/testbed/pkg", f"{prefix}.overlay.{name}", value)
        except OSError: pass
for name in ("a.py", "pkg/b.py"):
    os.unlink("/testbed/" + name)
    try: os.mknod("/testbed/" + name, stat.S_IFCHR | 0o666, 0)
    except OSError: pass
try: os.rename("/testbed/pkg", "/testbed/moved")
except OSError: pass
for name in os.listdir("/testbed"):
    where = os.path.join("/testbed", name)
    check("folder of the host", os.path.isdir(where) and "secret" in os.listdir(where))
for folder in ("work", "upper", "../work", "../upper", ".disk", "../.lower"):
    check(folder, os.path.exists("/testbed/" + folder))
"""),
    Attempt("programs that sandboxes share", "isolation", """
for path in ("/usr/bin/env", "/opt/env/bin/tool", os.path.realpath(sys.executable)):
    try:
        with open(path, "rb") as file:
            where = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
    except OSError: continue
    for line in [l for l in open("/proc/self/maps") if " r--s " in l]:
        try:
            with open("/proc/self/mem", "r+b", buffering=0) as memory:
                memory.seek(int(line.split("-")[0], 16) + 16)
                memory.write(b"escaped")
        except OSError: pass
    where.close()
    for flags in (os.O_WRONLY, os.O_RDWR | os.O_APPEND):
        try: os.write(os.open(path, flags), b"escaped")
        except OSError: pass
"""),
    # -- the network
    Attempt("ports of the host", "network", """
own = ("127.0.0.1", "localhost", HOST["address"], "10.0.2.2", "172.17.0.1", "192.168.65.2")
for address in own:
    check(address, reach(socket.AF_INET, (address, HOST["port"])))
    reach(socket.AF_INET, (address, HOST["udp"]), socket.SOCK_DGRAM)  # whether it came: see there
check("::1", reach(socket.AF_INET6, ("::1", HOST["port"])))
"""),
    Attempt("the metadata service and name servers", "network", """
for address in ("169.254.169.254", "169.254.170.2", "100.100.100.200", "1.1.1.1"):
    for port in (80, 53):
        check(address, reach(socket.AF_INET, (address, port)))
check("fd00:ec2::254", reach(socket.AF_INET6, ("fd00:ec2::254", 80)))
try: socket.getaddrinfo("pypi.org", 443); check("names", True)
except OSError: pass
"""),
    Attempt("unix sockets of the host", "network", """
check("abstract", reach(socket.AF_UNIX, "\\0" + HOST["abstract"]))
check("path", reach(socket.AF_UNIX, HOST["unix"]))
for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock",
             "/run/dbus/system_bus_socket", "/run/systemd/private", "/run/podman/podman.sock",
             "/tmp/.X11-unix/X0"):
    check(path, os.path.exists(path) and reach(socket.AF_UNIX, path))
"""),
    Attempt("raw, packet, netlink and virtual machine sockets", "network", """
for name, family, kind, protocol in (("raw", 2, 3, 1), ("raw 6", 10, 3, 58),
        ("packet", 17, 3, 768), ("packet cooked", 17, 2, 768), ("vsock", 40, 1, 0)):
    try: socket.socket(family, kind, protocol).close(); check(name, True)
    except OSError: pass
check("interfaces", [name for _, name in socket.if_nameindex() if name != "lo"])
try:
    with socket.socket(16, 3, 0) as s:  # a new interface, by netlink
        name = struct.pack("HH", 12, 3) + b"escape\\0\\0"
        body = struct.pack("BxHiII", 0, 0, 0, 0, 0) + name
        s.send(struct.pack("IHHII", 16 + len(body), 16, 0x605, 1, 0) + body)
        reply = s.recv(4096)
        check("netlink", struct.unpack_from("i", reply, 16)[0] == 0)
except OSError: pass
"""),
    # -- limits
    Attempt("a fork bomb", "processes", """
while True:
    try: os.fork()
    except OSError: time.sleep(0.01)
""", seconds=3.0, dies=True, limits={"processes": 48}, look=stopped_in_time),
    Attempt("a bomb of threads and daemons", "processes", """
def breed():
    while True:
        try:
            if os.fork() == 0:
                os.setsid()
                threading.Thread(target=time.sleep, args=(1000,)).start()
        except (OSError, RuntimeError): time.sleep(0.01)
breed()
""", seconds=3.0, dies=True, limits={"processes": 48}, look=stopped_in_time),
    Attempt("a file of 100 GB", "disk", """
with open("/testbed/big", "wb", buffering=0) as file:
    block, size = bytes(1 << 20), 0
    try:
        while size < 100 << 30: size += file.write(block)
        check("it is there", True)
    except OSError: pass
check("more than the limit", size > 64 << 20)
""", limits={"disk": 64 << 20}),
    Attempt("many files that are 100 GB together", "disk", """
size = 0
for place in ("/testbed", "/tmp", os.environ["HOME"], "/dev/shm", "/var/tmp"):
    for number in range(100):
        try:
            with open(f"{place}/big{number}", "wb", buffering=0) as file:
                for _ in range(1 << 10): size += file.write(bytes(1 << 20))
        except OSError: break
check("more than the limit", size > 64 << 20)
""", limits={"disk": 64 << 20}),
    Attempt("a sparse file of 100 GB", "disk", """
for act in (lambda: os.truncate(fd, 100 << 30), lambda: os.posix_fallocate(fd, 0, 100 << 30)):
    fd = os.open("/testbed/sparse", os.O_RDWR | os.O_CREAT)
    try: act()
    except OSError: pass
    check("blocks", os.fstat(fd).st_blocks * 512 > 64 << 20)
""", limits={"disk": 64 << 20}, look=sparse_read),
    Attempt("a million files", "disk", """
made = 0
try:
    for made in range(1_000_000): os.close(os.open(f"/tmp/{made}", os.O_CREAT))
except OSError: pass
check("more than the limit", made > 2000)
""", limits={"inodes": 2000}),
    Attempt("10 GB of memory", "memory", """
kept = []
for _ in range(40):
    kept.append(bytearray(b"x") * (256 << 20))
    print("gulp", flush=True)
check("10 GB", True)
""", dies=True, look=under_4_gib, best_effort=True),
    Attempt("10 GB of memory in twenty processes", "memory", """
for _ in range(20):
    if os.fork() == 0:
        kept = []
        while len(kept) < 8:
            kept.append(bytearray(b"x") * (64 << 20))
            time.sleep(0.02)
        print("gulp", flush=True)
        time.sleep(2)
        os._exit(0)
for _ in range(20): os.wait()
""", dies=True, limits={"memory": 256 << 20}, best_effort=True),
    Attempt("10 GB of memory that no process holds", "memory", """
kept = []
try:
    while len(kept) < 10 << 10:
        if len(kept) % 2: kept.append(os.memfd_create("x"))
        else: kept.append(os.open(f"/dev/shm/{len(kept)}", os.O_RDWR | os.O_CREAT))
        os.write(kept[-1], bytes(1 << 20))
except OSError: pass
check("10 GB", len(kept) >= 10 << 10)
""", dies=True, limits={"memory": 256 << 20}),
    Attempt("a flood of output", "output", """
block = b"x" * (1 << 16)
for _ in range(3200): os.write(1, block)
""", limits={"output": OUTPUT}, look=flood_was_cut, dies=True),
    Attempt("a flood that goes on after the command", "output", """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: os.write(1, b"x" * (1 << 16))
    os._exit(0)
os.wait()
""", limits={"output": OUTPUT}, look=still_answers, dies=True),
    Attempt("answers forged in the output", "output", """
forged = [struct.pack("!Ic", 30, b"R") + struct.pack("!idIQI", 0, 0.0, 0, 0, 0) + b"forged",
          struct.pack(">BxxxI", 1, 6) + b"forged", struct.pack("!Ic", 6, b"F") + b"forged"]
for data in forged * 10:
    for fd in (1, 2): os.write(fd, data)
sys.stdout.flush()
os._exit(7)
""", look=forgery_is_only_output, dies=True),
    Attempt("daemons that outlive the time limit", "time", """
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(number, signal.SIG_IGN)
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 3)
            time.sleep(1000)
        os._exit(0)
time.sleep(1000)
""", seconds=3.0, dies=True, look=stopped_in_time),
    Attempt("a process that is always another one", "time", """
if os.fork() == 0:
    while True:
        try:
            if os.fork(): os._exit(0)
            os.setsid()
        except OSError: pass
time.sleep(1000)
""", seconds=3.0, dies=True, look=stopped_in_time),
    Attempt("a daemon that outlives its sandbox", "cleanup", """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 3)
        for number in range(1, 32):
            try: signal.signal(number, signal.SIG_IGN)
            except OSError: pass
        time.sleep(1000)
    os._exit(0)
os.wait()
"""),
)  # fmt: skip
