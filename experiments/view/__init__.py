"""The episode reader: one self-contained page in which every episode of a run can be read.

A table can hide that a student games its tests or is saved by a lucky format; its episodes cannot.
The page needs no server, no network and no file beside it. A browser that parsed a thousand
episodes at once would stall, so they lie in the page compressed, a few to a chunk, and are inflated
when one of them is opened or searched; only the small rows of the list are read at once.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from experiments.runs import episode_sets
from experiments.runs.folders import RunFolder
from experiments.runs.reader import EpisodeSet
from experiments.view.data import body, row
from experiments.view.tokens import RunTokens, Trained
from swe_gym_env.disk import collection_paused, write_text
from swe_gym_env.errors import SetupError

__all__ = ["write_view"]

HERE = Path(__file__).parent
PALETTE = HERE.parent / "report" / "palette.css"
SCRIPTS = ("store", "text", "list", "tokens", "episode", "main")
UNASKED = "The page was written without tokens: python -m experiments.view FOLDER --tokens."
CHUNK = 200_000  # characters of JSON after which the next chunk begins
LEVEL = 4  # of gzip: half the time of 6, and 5 % more bytes


def write_view(run_folder: Path, tokens: Callable[[Path], Trained] | None = None) -> Path:
    """Writes ``episodes.html`` into ``run_folder`` and returns its path.

    Args:
        run_folder: Of a run, an evaluation or a sweep, or one that holds several runs.
        tokens: Gives what the run in a folder was trained on. With it, the page shows each turn in
            tokens, which takes the tokenizer of the run and makes the page larger.

    Raises:
        SetupError: There are no episodes in it.
    """
    folder = Path(run_folder).resolve()
    sets = episode_sets.find(folder)
    with collection_paused():
        index, chunks = _packed(sets, tokens)
    env = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    html = env.get_template("page.html.j2").render(
        name=folder.name,
        index=_embedded(index),
        chunks=chunks,
        css=Markup(PALETTE.read_text("utf-8") + (HERE / "page.css").read_text("utf-8")),
        js=Markup("\n".join((HERE / f"{name}.js").read_text("utf-8") for name in SCRIPTS)),
    )
    path = RunFolder(folder).episodes_page
    write_text(path, html)
    return path


def _packed(
    sets: list[EpisodeSet], tokens: Callable[[Path], Trained] | None
) -> tuple[dict[str, Any], list[str]]:
    """The rows of sets and episodes, and the bodies; a row says in which chunk, and where in it,
    the episode's body is."""
    listed: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    chunks: list[str] = []
    waiting: list[str] = []
    runs: dict[Path | None, RunTokens] = {}
    for number, one in enumerate(sets):
        index = one.round if one.training else None
        entry: dict[str, Any] = {"name": one.name, "round": index, "missing": UNASKED}
        if tokens:
            if one.run not in runs:
                runs[one.run] = RunTokens(one.run, tokens)
            found = _with_tokens(one, entry, runs[one.run])
        else:
            found = _plain(one)
        for listing, text in found:
            if sum(map(len, waiting)) > CHUNK:
                chunks.append(_chunk(waiting))
                waiting = []
            rows.append({"set": number, **listing, "chunk": len(chunks), "place": len(waiting)})
            waiting.append(text)
        listed.append(entry)
    return {"sets": listed, "episodes": rows}, [*chunks, _chunk(waiting)]


def _plain(one: EpisodeSet) -> Iterator[tuple[dict[str, Any], str]]:
    episodes, labels = one.read()
    for episode in episodes:
        yield row(episode, labels), _json(body(episode, labels))


def _with_tokens(
    one: EpisodeSet, entry: dict[str, Any], run: RunTokens
) -> Iterator[tuple[dict[str, Any], str]]:
    """Also puts into ``entry`` the largest weight of the set, or why there are no tokens."""
    entry["missing"], entry["most"], trained = run.missing, 0.0, {}
    if not run.missing and one.training and one.round is not None:
        try:
            trained = run.trained(one.round)
        except SetupError as error:
            entry["missing"] = f"What this round was trained on is not known any more: {error}"
    episodes, labels = one.read()
    for episode in episodes:
        text = body(episode, labels)
        if not entry["missing"]:
            largest = run.add(text, episode, trained.get(episode.episode_id))
            entry["most"] = max(entry["most"], largest)
        yield row(episode, labels), _json(text)


def _chunk(bodies: list[str]) -> str:
    packed = gzip.compress(f"[{','.join(bodies)}]".encode(), LEVEL, mtime=0)
    return base64.b64encode(packed).decode()


def _json(value: Any) -> str:
    """In ASCII: lone surrogates, which an episode may hold, have no UTF-8 form."""
    return json.dumps(value, separators=(",", ":"))


def _embedded(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in, whatever an episode printed."""
    text = _json(value)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
