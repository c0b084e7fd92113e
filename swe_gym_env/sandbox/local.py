"""Sandboxes made of user namespaces and overlayfs: no daemon, no account, no installation.

A sandbox sees the host's programs read-only, the image's tree with a writable layer in memory on
top, and nothing else. It starts in milliseconds whatever the size of the tree. Its mounts exist
only in its own namespace, so nothing of it remains on the host when its last process ends.

This module decides what the sandbox contains and passes it on as one ``config``;
``guest/main.py`` and ``guest/root.py`` carry it out.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import itertools
import os
import platform
import random
import resource
import sys
from functools import cache
from pathlib import Path
from typing import Any

from swe_gym_env import paths
from swe_gym_env.errors import SandboxError, SetupError
from swe_gym_env.sandbox import images
from swe_gym_env.sandbox.base import Guarantee, Limits, SandboxSpec
from swe_gym_env.sandbox.client import StartError, SupervisedSandbox
from swe_gym_env.sandbox.guest import kernel

HOME = "/home/agent"
# The users that own sandboxes on the host if root started them: below 65536, so that they exist in
# nested containers, and outside of the ranges that distributions and systemd assign. Each sandbox
# gets another one, because the kernel counts inotify instances, pipe pages, queued signals and
# descriptors in flight for each user: with one user for all, a sandbox could starve another.
OUTER_UIDS = range(60_706, 61_184)
# Older kernels count the processes of a user on the whole machine, which does not limit one
# sandbox.
COUNTS_PER_SANDBOX = (5, 14)
GUARANTEES: dict[str, Guarantee] = {
    "isolation": "hard",
    "network": "hard",
    "cpu": "none",
    "memory": "best effort",
    "processes": "hard",
    "disk": "hard",
    "output": "hard",
    "time": "hard",
    "cleanup": "hard",
}
# Several processes may make sandboxes at once: each begins somewhere else
_turn = itertools.count(random.SystemRandom().randrange(len(OUTER_UIDS)))
_ETC_COPIES = ("ld.so.cache", "localtime", "timezone", "mime.types", "services", "protocols")
_ETC_BINDS = ("/etc/alternatives", "/etc/ssl/certs", "/etc/ssl/openssl.cnf")
_ETC = {
    "/etc/passwd": f"root:x:0:0:root:/root:/usr/sbin/nologin\nagent:x:1000:1000::{HOME}:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "/etc/group": "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "/etc/hostname": "sandbox\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "/etc/resolv.conf": "",
    "/etc/gitconfig": "[safe]\n\tdirectory = *\n[user]\n\tname = agent\n\temail = agent@sandbox\n"
    "[init]\n\tdefaultBranch = main\n[advice]\n\tdetachedHead = false\n",
}


class LocalProvider:
    """Makes sandboxes of namespaces.

    Args:
        copy: Whether each sandbox gets a full copy of its tree instead of an overlay. Kernels
            before 6.6 need the copy in any case.
    """

    name = "local"

    def __init__(self, copy: bool = False) -> None:
        self._copy = copy

    def unavailable(self) -> str | None:
        return _probe()

    def create(self, spec: SandboxSpec) -> SupervisedSandbox:
        image = images.load(spec.image)
        if not image.tree_path.is_dir():
            raise SetupError(f"image {spec.image!r} lacks {image.tree_path}: build it again")
        try:
            return self._start(image, spec)
        except StartError as error:
            reason = _probe()
            if reason:
                raise SetupError(reason) from error
            raise SandboxError(f"cannot make a sandbox from {spec.image!r}: {error}") from error

    def _start(self, image: images.Image, spec: SandboxSpec) -> SupervisedSandbox:
        limits = spec.limits
        as_root = os.geteuid() == 0
        user = OUTER_UIDS[next(_turn) % len(OUTER_UIDS)]
        mounts = {sandbox: os.path.realpath(host) for sandbox, host in image.host_mounts().items()}
        needed = [sys.base_prefix, *python_prefixes(tuple(mounts.values()))]
        prefixes = _outside_usr(needed)  # ours too, so that every sandbox has a Python
        binds, links, files = _host_parts()
        config: dict[str, Any] = {
            "kind": "local",
            "as_root": as_root,
            "copy": self._copy,
            "uid": user if as_root else os.geteuid(),
            "gid": user if as_root else os.getegid(),
            "tree": os.path.realpath(image.tree_path),
            "workdir": spec.workdir,
            "home": HOME,
            "binds": [*binds, *((p, p) for p in prefixes), *((h, b) for b, h in mounts.items())],
            "links": links,
            "files": files,
            "masks": [*_installed_packages(prefixes), *image.masks],
            "disk": limits.disk,
            "inodes": limits.inodes,
            "output": limits.output,
            "memory": limits.memory,
            "processes": limits.processes,
            "shell": "/bin/bash",
            "rlimits": _rlimits(limits),
        }
        path = [*(f"{p}/bin" for p in prefixes), "/usr/local/bin", "/usr/bin", "/bin"]
        env = {
            "PATH": ":".join(path),
            "HOME": HOME,
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            **image.env,
            **spec.env,
        }
        guarantees = dict(GUARANTEES)
        if _kernel() < COUNTS_PER_SANDBOX:
            guarantees["processes"] = "best effort"
        return SupervisedSandbox(config, guarantees, env, spec.workdir)


def _rlimits(limits: Limits) -> list[tuple[int, int]]:
    """Limits of single processes, none above the hard limit of this one.

    The limit on address space only stops extreme cases, since many programs reserve far more than
    they use.
    """
    wanted = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, limits.disk),
        (resource.RLIMIT_NOFILE, 1024),
        (resource.RLIMIT_AS, 2 * limits.memory),
    ]
    if _kernel() >= COUNTS_PER_SANDBOX:
        wanted.append((resource.RLIMIT_NPROC, limits.processes))
    capped = []
    for kind, value in wanted:
        hard = resource.getrlimit(kind)[1]
        capped.append((kind, value if hard == resource.RLIM_INFINITY else min(value, hard)))
    return capped


@cache
def _host_parts() -> tuple[list[tuple[str, str]], list[tuple[str, str]], list[tuple[str, bytes]]]:
    """(mounts, symbolic links, files) that every sandbox takes from this host."""
    binds, links = [("/usr", "/usr")], []
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(name):
            links.append((name, os.readlink(name)))
        elif os.path.isdir(name):
            binds.append((name, name))
    binds += [(path, path) for path in _ETC_BINDS if os.path.exists(path)]
    files = [(path, text.encode()) for path, text in _ETC.items()]
    for name in _ETC_COPIES:
        with contextlib.suppress(OSError):
            files.append((f"/etc/{name}", Path("/etc", name).read_bytes()))
    return binds, links, files


@cache
def python_prefixes(mounts: tuple[str, ...]) -> tuple[str, ...]:
    """Interpreters outside /usr that mounted virtual environments need."""
    found = []
    for mount in mounts:
        try:
            lines = Path(mount, "pyvenv.cfg").read_text().splitlines()
        except OSError:
            continue
        found += [os.path.dirname(ln.split("=", 1)[1].strip()) for ln in lines if ln[:4] == "home"]
    return _outside_usr(found)


def _outside_usr(prefixes: list[str]) -> tuple[str, ...]:
    outside = [p for p in dict.fromkeys(prefixes) if p != "/usr" and not p.startswith("/usr/")]
    return tuple(p for p in outside if p != "/" and os.path.isdir(p))


@cache
def _installed_packages(prefixes: tuple[str, ...]) -> list[str]:
    """Folders that may hold an installed copy of the package under test, and so the answer."""
    patterns = ["/usr/lib/python3*", "/usr/local/lib/python3*"]
    patterns += [f"{prefix}/lib/python3*" for prefix in prefixes]
    return [
        folder
        for pattern in patterns
        for kind in ("site-packages", "dist-packages")
        for folder in glob.glob(f"{pattern}/{kind}")
    ]


@cache
def _probe() -> str | None:
    """Why no sandbox can be made here, or None. Only making a real one shows it; done once."""
    if platform.system() != "Linux" or not kernel.SUPPORTED:
        return "the local sandbox needs Linux on x86_64 or aarch64; use sandbox=process"
    if not os.path.exists("/bin/bash"):
        return "the local sandbox needs bash: install the package bash"
    image = images.Image(folder=paths.home() / "probe")  # empty, and made once
    try:
        image.tree_path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"nothing can be written to {paths.home()} ({error}): set SWE_GYM_HOME"
    try:
        sandbox = LocalProvider()._start(image, SandboxSpec("probe"))
        try:
            if sandbox.exec("echo ok", timeout=20).output != b"ok\n":
                return "the local sandbox starts but cannot run bash; use sandbox=process"
        finally:
            sandbox.close()
    except StartError as error:
        return _explain(error)
    except SandboxError as error:
        return f"the local sandbox fails ({error}); use sandbox=process"
    return None


def _explain(error: StartError) -> str:
    """What to do about a refusal, by its usual causes."""
    fix = "or run without isolation: sandbox=process"
    if _says("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") and os.geteuid():
        knob = "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        return f"AppArmor forbids user namespaces here ({error}): `sudo {knob}`, {fix}"
    if _says("/proc/sys/kernel/unprivileged_userns_clone", "0"):
        knob = "sysctl -w kernel.unprivileged_userns_clone=1"
        return f"user namespaces are switched off ({error}): `sudo {knob}`, {fix}"
    if _says("/proc/sys/user/max_user_namespaces", "0"):
        knob = "sysctl -w user.max_user_namespaces=10000"
        return f"user namespaces are switched off ({error}): `sudo {knob}`, {fix}"
    if error.errno == errno.ENOSYS or _kernel() < (5, 12):
        return f"the local sandbox needs Linux 5.12 or newer ({error}), {fix}"
    if error.errno in (errno.EPERM, errno.EACCES):
        return (
            f"this machine refuses new namespaces ({error}): inside a container start it with "
            f"--privileged, {fix}"
        )
    return f"the local sandbox fails ({error}), {fix}"


def _says(path: str, value: str) -> bool:
    try:
        return Path(path).read_text().strip() == value
    except OSError:
        return False


def _kernel() -> tuple[int, int]:
    major, minor = platform.release().split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)
