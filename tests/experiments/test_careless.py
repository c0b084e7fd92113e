"""What a careless user does ends in one message that says what to do, before anything is built."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from experiments import compare
from experiments.config import values
from experiments.console import cli, terminal
from experiments.console.cli import CONF
from experiments.console.progress import plain
from experiments.report import write_report
from experiments.results.tables import Table
from experiments.runs.folders import runs
from swe_gym_env.errors import SetupError
from swe_gym_env.types import Episode, Outcome
from tests.experiments.sample_run import HOSTILE, episode, write_lines
from tests.experiments.test_command_line import run
from tests.experiments.test_configuration import configuration

pytestmark = pytest.mark.xdist_group("configuration")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("seed=null", "seed=null: it is a whole number, 0 or more"),
        ("seed=-1", "seed=-1: it is a whole number"),
        ("rounds=three", "rounds=three: it is"),
        ("rounds=1.5", "rounds=1.5: it is a whole number"),
        ("rounds=true", "rounds=True: it is a whole number"),
        ("limits.max_turns=0", "limits.max_turns=0: it is a whole number, 1 or more"),
        ("limits.max_seconds=-5", "limits.max_seconds=-5: it is a number above 0"),
        ("limits.max_tokens=null", "limits.max_tokens=null: it is"),
        ("limits.output_limit=0", "limits.output_limit=0: it is"),
        ("limits.max_repeats=-2", "limits.max_repeats=-2: it is"),
        ("limits.command_timeout=0", "limits.command_timeout=0: it is"),
        ("sampling.temperature=-1", "sampling.temperature=-1: it is a number from 0 on"),
        ("sampling.top_p=0", "sampling.top_p=0: it is a number above 0 to 1"),
        ("sampling.top_p=nan", "sampling.top_p=nan: it is"),
        ("history=0", "history=0: it is a whole number, 1 or more, or null"),
        ("evaluation.samples=0", "evaluation.samples=0: it is"),
        ("evaluation.ids=calc-1", "evaluation.ids=calc-1: it is a list of names, or null"),
        ("evaluation.every_round=3", "evaluation.every_round=3: it is true or false"),
        ("episodes_per_round=0", "episodes_per_round=0: it is"),
        ("training.batch_size=0", "training.batch_size=0: it is"),
        ("training.lr=fast", "training.lr=fast: it is a number above 0"),
        ("training.warmup_steps=-1", "training.warmup_steps=-1: it is"),
        ("teacher.budget.calls=-1", "teacher.budget.calls=-1: it is"),
        ("workers.concurrency=0", "workers.concurrency=0: it is"),
        ("workers.build=zero", "workers.build=zero: it is"),
        ("serving.cache_gb=-1", "serving.cache_gb=-1: it is"),
        ("limits=3", "limits=3: it is a section of values: limits.NAME=..."),
        ("logging.level=loud", "logging.level=loud: it is one of DEBUG"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(given: str, message: str) -> None:
    with pytest.raises(SetupError) as caught:
        values.check(configuration(given))
    assert message in str(caught.value)


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(SetupError) as caught:
        values.check(configuration("rounds=-1", "limits.max_turns=0"))
    assert len(str(caught.value).splitlines()) == 2


def every_choice() -> list[str]:
    files = [path.relative_to(CONF).with_suffix("") for path in CONF.glob("*/**/*.yaml")]
    return sorted(f"{path.parts[0]}={'/'.join(path.parts[1:])}" for path in files)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("choice", every_choice())
def test_what_we_ship_has_only_values_that_can_be(choice: str) -> None:
    values.check(configuration(choice))


def test_nothing_to_do_is_said() -> None:
    cfg = configuration("evaluation.tasks=0")
    with pytest.raises(SetupError, match=r"evaluation\.tasks=0 leaves nothing to do"):
        values.check_some(cfg, "tasks.train", "evaluation.tasks")


@pytest.mark.e2e
def test_the_real_command_says_it_before_anything_is_built(tmp_path: Path) -> None:
    code, printed = run("limits.max_turns=-1", f"paths.runs={tmp_path / 'runs'}")
    assert code == 2 and "limits.max_turns=-1: it is" in printed and "Traceback" not in printed
    assert not list(tmp_path.glob("*"))


@pytest.mark.e2e
@pytest.mark.parametrize("module", ["run", "evaluate"])
@pytest.mark.parametrize("sweep", [False, True])
def test_runs_that_cannot_be_written_are_one_message(
    module: str, sweep: bool, tmp_path: Path
) -> None:
    (tmp_path / "a file").touch()
    given = [f"paths.runs='{tmp_path / 'a file' / 'runs'}'", "seed=1,2" if sweep else "seed=1"]
    code, printed = run(*(["-m"] if sweep else []), *given, module=f"experiments.{module}")
    assert code == 2 and "a file is a file where a folder is needed" in printed
    assert "Traceback" not in printed


def test_a_folder_at_home() -> None:
    cfg = OmegaConf.create({"paths": {"runs": "~/my runs"}})
    assert runs(cfg) == Path.home() / "my runs"


@pytest.mark.slow
def test_a_compared_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        rows = [episode(name, k, 0, k % 2 == 0) for k in range(4)]
        write_lines(tmp_path / name / "episodes.jsonl", rows)
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    words = [str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["compare", *words])
    with pytest.raises(SystemExit) as ended:
        compare.main()
    assert ended.value.code == 2
    assert "file is a file where a folder is needed" in capsys.readouterr().err


def test_text_of_others_does_not_steer_the_terminal() -> None:
    name = "[/red]\x1b[31m\x07a\r\u202eb\ud83d"
    out = io.StringIO()
    table = Table("t", f"Title {name}", (name, "n"), [(name, 1)])
    terminal.show(Console(file=out, width=200), table)
    message = out.getvalue()
    assert "[/red]" in message and not set("\x1b\x07\r\u202e\ud83d") & set(message)
    assert plain("one\n\ttwo") == "one\n\ttwo"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_another_encoding(encoding: str, tmp_path: Path) -> None:
    code = (
        "from experiments.console.progress import console; console().print('\\u25cf 95 \\u2013 x')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "x" in done.stdout, done.stderr


def hostile(one: Episode) -> Episode:
    return replace(
        one,
        instance_id=f"{HOSTILE}__{one.instance_id}",
        system_prompt=HOSTILE,
        stop_reason=HOSTILE,
        patch=HOSTILE,
        outcome=Outcome("unresolved", reason=HOSTILE, tests={HOSTILE: "FAILED"}),
    )


@pytest.mark.slow
def test_no_field_of_an_episode_reaches_the_pages_as_markup(tmp_path: Path) -> None:
    from experiments.view import write_view

    folder = tmp_path / "dagger-<img src=x onerror='window.pwned = 1'>"
    rows = [hostile(episode("round_001", k, 1, False)) for k in range(3)]
    write_lines(folder / "evaluations" / "round_001" / "episodes.jsonl", rows)
    write_lines(folder / "rounds" / "round_001" / "episodes.jsonl", rows)
    (folder / "config.yaml").write_text("seed: 0\n")
    version = dict.fromkeys(("command", "commit", "python", "machine"), "</script><script>")
    version |= {"changed": False, "packages": {"<img src=x>": "1"}}
    (folder / "versions.json").write_text(json.dumps([version]))
    for page in (write_report(folder), write_view(folder)):
        text = page.read_text("utf-8")
        assert "<img src=x" not in text and "<script>window.pwned" not in text
        assert "</script><script>" not in text


def test_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    from experiments.view import write_view

    folder = tmp_path / os.fsdecode(b"run-\xff")
    with contextlib.suppress(OSError):
        write_lines(
            folder / "evaluations" / "round_001" / "episodes.jsonl", [episode("a", 0, 1, True)]
        )
        assert write_view(folder).exists() and write_report(folder).exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("training.epoch=2", r"training\.epoch: there is no 'epoch' \(did you mean epochs\?\).*\n"),
        ("algorithm=nothing", r"(?s)In 'config': Could not find 'algorithm/nothing'.*dagger.*"),
    ],
)
def test_an_unknown_key_is_one_line_and_an_unknown_option_hydras_list(
    word: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments.run import main

    monkeypatch.setattr(sys, "argv", ["run", "--config-path", str(CONF), word])
    monkeypatch.setattr(cli, "_composed", False)
    before = sys.stderr
    with pytest.raises(SystemExit), cli.explain_unknown():
        main()
    assert sys.stderr is before and re.fullmatch(message, capsys.readouterr().err)


def test_what_is_said_before_the_configuration_is_there_comes_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run"])
    with cli.explain_unknown():
        print("a warning", file=sys.stderr)
        assert capsys.readouterr().err == ""
        sys.stderr.release()  # type: ignore[attr-defined]  # as guarded() does
        assert capsys.readouterr().err == "a warning\n"
        print("more", file=sys.stderr)
        assert capsys.readouterr().err == "more\n"
