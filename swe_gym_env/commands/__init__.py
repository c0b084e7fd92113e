"""The command line ``python -m swe_gym_env``.

Each command is a module with ``add`` (declares its arguments) and ``run`` (returns the exit code).
The docstring of the module is its help text. An error that the user can correct ends as one line on
standard error with exit code 1, never as a traceback.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence

from swe_gym_env.commands import clean, grade, prepull, regrade, validate
from swe_gym_env.errors import SWEGymError
from swe_gym_env.text import shown

COMMANDS = (validate, grade, regrade, prepull, clean)
EPILOG = """\
TASKS is a source (pypi, swe_gym, swe_smith, r2e_gym, swe_rebench, ...), or a file, folder or hub
id of rows with swebench's columns. Options of a source are given with -o: -o path=rows.parquet

examples:
  python -m swe_gym_env validate pypi --split heldout --limit 20 --out checked
  python -m swe_gym_env prepull swe_gym --max-disk 200GB
  python -m swe_gym_env validate swe_gym -o path=train.parquet --sandbox docker
  python -m swe_gym_env grade preds.jsonl --tasks checked/valid.jsonl --out graded
  python -m swe_gym_env regrade graded --tasks checked/valid.jsonl
  python -m swe_gym_env clean --dry-run
"""


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m swe_gym_env",
        description="Check tasks, fetch their images, grade predictions, and clean up.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2]
        about = (module.__doc__ or "").strip()
        command = commands.add_parser(
            name,
            help=about.splitlines()[0],
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add(command)
        command.set_defaults(run=module.run)
    return parser


class _Plain(logging.Formatter):
    """Escapes control characters, since a record may quote a sandbox or a data set."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def main(words: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0: done. 1: something must be corrected. 2: wrong usage. 130: interrupted.
    """
    for stream in (sys.stdout, sys.stderr):  # names may contain characters that it cannot encode
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = arguments().parse_args(words)
    logging.basicConfig(level=logging.WARNING)
    logging.root.handlers[0].setFormatter(_Plain("%(levelname)s %(message)s"))
    try:
        return options.run(options)
    except SWEGymError as error:
        print(f"error: {shown(str(error))}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        again = " ".join(["python -m swe_gym_env", *(sys.argv[1:] if words is None else words)])
        print(f"\ninterrupted; what is finished is kept. Go on with:\n  {again}", file=sys.stderr)
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(130)  # without joining threads: their sandboxes end with this process
