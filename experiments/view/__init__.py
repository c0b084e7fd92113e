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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from experiments.view.data import EpisodeSet, body, episode_sets, row

__all__ = ["write_view"]

HERE = Path(__file__).parent
PALETTE = HERE.parent / "report" / "palette.css"
SCRIPTS = ("store", "text", "list", "tokens", "episode", "main")
CHUNK = 200_000  # characters of JSON after which the next chunk begins


def write_view(run_folder: Path) -> Path:
    """Writes ``episodes.html`` into ``run_folder`` and returns its path.

    ``run_folder`` is that of a run, of an evaluation, or one that holds several runs. Raises
    SetupError where there are no episodes in it.
    """
    folder = Path(run_folder).resolve()
    sets = episode_sets(folder)
    rows, chunks = _packed(sets)
    index = {"sets": [{"name": one.name, "round": one.round} for one in sets], "episodes": rows}
    index["tokens"] = {"missing": "No tokens yet."}
    env = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    html = env.get_template("page.html.j2").render(
        name=folder.name,
        index=_embedded(index),
        chunks=chunks,
        css=Markup(PALETTE.read_text("utf-8") + (HERE / "page.css").read_text("utf-8")),
        js=Markup("\n".join((HERE / f"{name}.js").read_text("utf-8") for name in SCRIPTS)),
    )
    path = folder / "episodes.html"
    aside = path.with_name(".episodes.html")
    aside.write_text(html, "utf-8")
    aside.replace(path)
    return path


def _packed(sets: list[EpisodeSet]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of all episodes, each with the chunk and the place in it where its body is."""
    rows: list[dict[str, Any]] = []
    chunks: list[str] = []
    waiting: list[str] = []
    for number, (listed, text) in _episodes(sets):
        if sum(map(len, waiting)) > CHUNK:
            chunks.append(_chunk(waiting))
            waiting = []
        rows.append({"set": number, **listed, "chunk": len(chunks), "place": len(waiting)})
        waiting.append(text)
    return rows, [*chunks, _chunk(waiting)]


def _episodes(sets: list[EpisodeSet]) -> Iterator[tuple[int, tuple[dict[str, Any], str]]]:
    for number, one in enumerate(sets):
        episodes, labels = one.read()
        for episode in episodes:
            yield number, (row(episode, labels), _json(body(episode, labels)))


def _chunk(bodies: list[str]) -> str:
    packed = gzip.compress(f"[{','.join(bodies)}]".encode(), 6, mtime=0)
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
