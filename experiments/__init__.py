"""Runs, evaluations and reports: what the command line starts."""

import os

# Threads of the model that wait for each other sleep instead of spinning: tests run beside it, and
# with spinning two threads on two busy cores were several times slower than one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
