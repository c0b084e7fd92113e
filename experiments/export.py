"""Writes a collected round as plain sequences, for supervised fine-tuning in another trainer.

    python -m experiments.export RUN ROUND --out FILE [--format tokens|messages]

A row is one sequence: a path through the round's token trees. A token or message that several
sequences share is trained in one of them and is context, with weight 0, in the others.

    tokens      input_ids, labels (-100 for context) and weights, exactly as our trainer learns
                them. TRL's SFTTrainer reads these rows as they are; give it max_length=None.
    messages    role and content of each message; the assistant's also say whether they are trained
                (trainable, as verl reads it) and with which weight. The trainer's chat template
                makes the tokens, so they can differ from those that were sampled.

FILE ends in .jsonl or .parquet (verl reads only the latter). Methods with another loss than
cross-entropy, such as GRPO, cannot be exported. docs/guides/own-trainer.md shows both trainers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swe_gym_env.disk import make_folder, room_for
from swe_gym_env.errors import SetupError

if TYPE_CHECKING:
    from algorithms.base import TrainingExample
    from algorithms.engine.export import TokenSequence
    from algorithms.engine.rendering import Renderer

FORMATS = ("tokens", "messages")
SUFFIXES = (".jsonl", ".parquet")


def export(run: Path, index: int, kind: str, out: Path) -> int:
    """Writes the rows of round ``index`` to ``out`` and returns how many there are.

    Raises:
        SetupError: The round is not there, or plain sequences cannot carry its loss.
    """
    from algorithms.engine.export import check_exportable, conversations
    from experiments.pipeline.build import stored_context
    from experiments.pipeline.round import training_examples
    from experiments.runs.folders import RunFolder

    if out.suffix not in SUFFIXES:
        raise SetupError(f"--out {out}: the file's name ends in {' or '.join(SUFFIXES)}")
    context, folder = stored_context(run), RunFolder(run)
    folders = [folder.round(number) for number in range(index + 1)]
    algorithm = context.algorithm_of(index)
    scored = algorithm.scoring is None or folders[-1].is_done("score")
    if not folders[-1].is_done("collect") or not scored:
        raise SetupError(f"{folders[-1].path} holds no round that was collected to its end")
    examples = training_examples(algorithm, folders)
    try:
        check_exportable(examples)
    except ValueError as error:
        raise SetupError(f"algorithm={algorithm.name} cannot be exported: {error}") from None
    if kind == "tokens":
        sequences = _sequences(examples, context.student.renderer)
        made = [vars(row) | {"labels": row.labels} for row in sequences]
    else:
        made = [vars(row) for row in conversations(examples, context.cfg.model.thinking)]
    make_folder(out.absolute().parent)
    with room_for(out):
        _write(made, out)
    return len(made)


def _sequences(examples: list[TrainingExample], renderer: Renderer) -> Iterator[TokenSequence]:
    from algorithms.engine.examples import example_trees
    from algorithms.engine.export import token_sequences

    try:
        yield from token_sequences(example_trees(examples, renderer))
    except ValueError as error:
        raise SetupError(str(error)) from None


def _write(rows: list[dict[str, Any]], out: Path) -> None:
    """The file is there whole or not at all."""
    aside = out.with_name(f".{out.name}.tmp")
    if out.suffix == ".parquet":
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise SetupError("pyarrow is not installed: pip install pyarrow") from None
        parquet.write_table(pyarrow.Table.from_pylist(rows), aside)
    else:
        with aside.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    aside.replace(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("round", type=int, metavar="ROUND", help="a round; 0 is iteration 0")
    parser.add_argument("--out", type=Path, metavar="FILE", required=True)
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0])
    args = parser.parse_args()
    try:
        count = export(args.run, args.round, args.format, args.out)
    except SetupError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{count} sequences: {args.out}")


if __name__ == "__main__":
    main()
