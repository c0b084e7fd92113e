"""Runs, evaluations and reports: what the command line starts."""

import contextlib
import ctypes
import os

# Threads of the model that wait for each other sleep instead of spinning: tests run beside it, and
# with spinning two threads on two busy cores were several times slower than one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# glibc hands the memory of every large tensor back to the system and has it zeroed page by page the
# next time; kept, training on the CPU is 11 to 17 % faster. Other C libraries have no mallopt.
with contextlib.suppress(AttributeError, OSError):
    _mallopt, _M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = ctypes.CDLL(None).mallopt, -1, -3
    _mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    _mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
