"""``python -m experiments.report RUN_FOLDER`` writes the page again, for a killed run too."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.report import write_report


def main() -> None:
    parser = argparse.ArgumentParser(prog="experiments.report", description=__doc__)
    parser.add_argument("run_folder", type=Path)
    folder = parser.parse_args().run_folder
    if not folder.is_dir():
        parser.error(f"{folder} is not a folder; runs lie in runs/")
    print(write_report(folder))


if __name__ == "__main__":
    main()
