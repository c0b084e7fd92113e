"""Writes a collected round as plain sequences, for supervised fine-tuning in another trainer.

    python -m experiments.export RUN ROUND --out FILE [--format tokens|messages]
    python -m experiments.export STORE --model MODEL --out FILE [--format tokens|messages]

RUN is a run folder. STORE is a folder that swe_gym_env.Rollout(store=...) has filled: its labels
and the turns of its teacher become rows, as with DAgger, for the tokenizer and chat template of
MODEL.

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swe_gym_env.disk import make_folder, room_for
from swe_gym_env.errors import SetupError
from swe_gym_env.rollout.store import Round, RoundFolder

if TYPE_CHECKING:
    from algorithms.base import TrainingExample
    from algorithms.engine.export import TokenSequence
    from algorithms.engine.rendering import Renderer, Thinking

FORMATS = ("tokens", "messages")
SUFFIXES = (".jsonl", ".parquet")


def export(folder: Path, index: int | None, kind: str, out: Path, model: str | None = None) -> int:
    """Writes the rows of one round to ``out`` and returns how many there are.

    Args:
        folder: A run folder, or a store of a roll-out.
        index: The round of the run; None for a store, which holds one round.
        kind: One of ``FORMATS``.
        out: A file whose name ends in one of ``SUFFIXES``.
        model: Folder of the model that a store is exported for, or "smollm2"; None for a run, which
            names its own, and for messages.

    Raises:
        SetupError: The round is not there, or plain sequences cannot carry its loss.
    """
    if out.suffix not in SUFFIXES:
        raise SetupError(f"--out {out}: the file's name ends in {' or '.join(SUFFIXES)}")
    stored = RoundFolder(folder).read(0)
    if stored.episodes:
        if index is not None:
            raise SetupError(f"{folder} is a store, which holds one round: leave ROUND out")
        made = _of_store(folder, stored, kind, model)
    else:
        if index is None:
            raise SetupError(f"{folder} holds no episodes; of a run folder, give ROUND too")
        made = _of_run(folder, index, kind)
    make_folder(out.absolute().parent)
    with room_for(out):
        _write(made, out)
    return len(made)


def _of_run(run: Path, index: int, kind: str) -> list[dict[str, Any]]:
    from algorithms.engine.export import check_exportable
    from experiments.pipeline.build import stored_context
    from experiments.pipeline.round import training_examples
    from experiments.runs.folders import RunFolder

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
    return _rows(examples, kind, lambda: context.student.renderer, context.cfg.model.thinking)


def _of_store(folder: Path, stored: Round, kind: str, model: str | None) -> list[dict[str, Any]]:
    from algorithms.dagger import DAgger
    from algorithms.schedules import Schedule

    if len(rounds := sorted({episode.round for episode in stored.episodes})) > 1:
        raise SetupError(f"{folder} holds episodes of the rounds {rounds}: a store holds one round")
    examples = list(DAgger(Schedule("linear", rounds=1)).examples([stored]))
    if not any(example.targets for example in examples):
        raise SetupError(f"{folder} holds no labels and no turns of a teacher: nothing to learn")

    def renderer() -> Renderer:
        from algorithms.engine.checkpoint import load_tokenizer
        from algorithms.engine.models import fetch
        from algorithms.engine.rendering import Renderer

        if model is None:
            raise SetupError("--format tokens of a store needs --model: the folder of the student")
        return Renderer(load_tokenizer(fetch(model)))

    return _rows(examples, kind, renderer, "kept")


def _rows(
    examples: list[TrainingExample],
    kind: str,
    renderer: Callable[[], Renderer],
    thinking: Thinking,
) -> list[dict[str, Any]]:
    from algorithms.engine.export import conversations

    if kind == "tokens":
        return [vars(row) | {"labels": row.labels} for row in _sequences(examples, renderer())]
    return [vars(row) for row in conversations(examples, thinking)]


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
    parser.add_argument("folder", type=Path, metavar="RUN|STORE", help="a run folder or a store")
    parser.add_argument(
        "round", type=int, nargs="?", metavar="ROUND", help="a round of a run; 0 is iteration 0"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", required=True)
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0])
    parser.add_argument("--model", help="of a store: a Hugging Face folder, or smollm2")
    args = parser.parse_args()
    try:
        count = export(args.folder, args.round, args.format, args.out, args.model)
    except SetupError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{count} sequences: {args.out}")


if __name__ == "__main__":
    main()
