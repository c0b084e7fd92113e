// One episode: the task, its turns with what the other would have done, the patch beside them, tests.
const STOPPED = {
  finished: "the agent said that it was done",
  max_turns: "it ran out of turns",
  max_tokens: "it ran out of tokens",
  max_seconds: "it ran out of time",
  max_repeats: "it repeated one command too often",
  max_format_errors: "too many turns in a row held no valid action",
  context_full: "the model’s context was full",
  infra_error: "the infrastructure around the agent failed",
};
function tone(e) { return e.status === "resolved" ? "good" : e.status === "infra_error" ? "" : "bad"; }

function patches(e, body) {
  // The patch after each turn; null where it was not written down turn by turn.
  const known = body.turns.length < 2 || body.turns[0].patch !== null;
  let now = "";
  return body.turns.map((t, i) => {
    if (i === body.turns.length - 1) return body.patch;
    now = t.patch ?? now;
    return known ? now : null;
  });
}
function act(cls, who, note, nodes) {
  const head = make("p", "who", null, make("b", "", who), note ? ` · ${note}` : "");
  return make("div", `act ${cls}`, null, head, ...nodes);
}
function said(t, track, other) {
  return view.tokens && track ? [tokenBlock(track, sets[view.current.set].most)] : spoken(t, other);
}
function turnNode(t, i, body, states, rival) {
  const acts = make("div", "acts"), notes = [];
  const differ = t.labels.filter((l) => l.text !== null && !l.same);
  for (const l of t.labels.filter((l) => l.same)) notes.push(`${l.by} would have done the same`);
  if (!t.valid) notes.push("no valid action");
  notes.push(`${t.seconds} s`);
  const beside = rival?.turns[i];
  acts.append(act(t.who, t.who, notes.join(" · "), said(t.text, t.tokens, beside?.text ?? differ[0]?.text)));
  for (const l of t.labels) {
    if (l.text === null) acts.append(act("label", l.by, "gave no label", [make("p", "say", l.error)]));
    else if (!l.same || (view.tokens && l.tokens)) {
      acts.append(act("label", l.by, l.same ? "the label" : "would have done this", said(l.text, l.tokens, t.text)));
      acts.classList.add("beside");
    }
  }
  if (rival) {
    acts.classList.add("beside");
    acts.append(beside
      ? act(`other ${beside.who}`, sets[view.against.set].name, beside.who, [
        ...(beside.seen === t.seen ? [] : clipped(make("pre", "seen", beside.seen), 6)), ...spoken(beside.text, t.text)])
      : act("other", sets[view.against.set].name, "had ended by now", []));
  }
  const task = i === 0;
  const node = make("div", "turn", null, make("span", "no", String(i + 1)), make("div", "", null,
    ...(task ? [] : clipped(make("pre", "seen", t.seen), 24)), acts, ...inlinePatch(states, i)));
  if (differs(t, i, rival)) node.classList.add("apart");
  node.dataset.turn = i;
  return node;
}
function inlinePatch(states, i) {
  // on a narrow page, where nothing stands beside the turns
  const now = states[i], before = i ? states[i - 1] : "";
  if (now === null || now === before || i === states.length - 1) return [];
  return [make("details", "inline", null, make("summary", "", `Patch after this turn ${changed(now)}`), diff(now, before))];
}
function differs(t, i, rival) {
  if (rival) return rival.turns[i]?.text !== t.text;
  return t.labels.some((l) => l.text !== null && !l.same);
}
function testNodes(t) {
  const counts = Object.entries(t.counts).map(([status, n]) => `${n} ${status.toLowerCase()}`);
  const out = [make("p", "meta", counts.join(" · ") || "No tests were run.")];
  if (t.listed.length) {
    const table = make("table", "tests");
    for (const [name, status] of t.listed) {
      table.append(make("tr", "", null, make("td", "", name), make("td", "n bad", status.toLowerCase())));
    }
    out.push(table);
  }
  if (t.more) out.push(make("p", "note", `and ${t.more} more that did not pass`));
  return out;
}
function others(e) {
  const rest = byTask.get(e.task).filter((other) => other !== e);
  if (!rest.length) return [];
  const line = make("p", "others", "Same task: ");
  for (const other of rest.slice(0, 12)) {
    const again = other.set === e.set ? `, repeat ${other.repeat}` : "";
    line.append(button("", `${sets[other.set].name}${again}, ${words(other.status)}`, () => show(other)));
    const on = view.against === other;
    const beside = button("beside", on ? "alone again" : "beside", () => compare(on ? null : other));
    beside.setAttribute("aria-label", on ? "show this episode alone" : `compare with ${sets[other.set].name}`);
    beside.setAttribute("aria-pressed", String(on));
    line.append(beside);
  }
  return [line];
}
function facts(e, body) {
  const out = [sets[e.set].name, STOPPED[e.stop] ?? words(e.stop), plural(e.turns, "turn"), `${e.seconds} s`];
  if (e.teacher) out.push(`the teacher took ${e.teacher}`);
  if (body.why) out.push(body.why);
  return make("p", "meta", null, make("b", tone(e), words(e.status)), ` · ${out.join(" · ")}`);
}
async function open(e, turn = -1) {
  const against = view.against && e && view.against !== e && view.against.task === e.task ? view.against : null;
  Object.assign(view, { current: e, against });
  document.body.classList.toggle("comparing", Boolean(against));
  if (!e) {
    view.body = null;
    $("episode").replaceChildren(make("p", "empty", "No episode fits."));
    showPatch();
    return;
  }
  reveal();
  drawList();
  const [body, rival] = await Promise.all([bodyOf(e), against ? bodyOf(against) : null]);
  if (view.current !== e || view.against !== against) return;  // another was opened meanwhile
  Object.assign(view, { body, rival, states: patches(e, body), turn: -1 });
  const task = make("div", "task", null, ...(body.turns.length ? clipped(make("pre", "seen", body.turns[0].seen), 40) : []),
    make("details", "", null, make("summary", "", "System prompt"), make("pre", "code", body.system)));
  $("episode").replaceChildren(
    button("back", "‹ all episodes", () => document.body.classList.remove("reading")),
    make("h2", "", e.task), facts(e, body), ...others(e), ...(view.tokens ? [tokenLegend(body)] : []), task,
    ...body.turns.map((t, i) => turnNode(t, i, body, view.states, rival)),
    ...(body.final ? [make("div", "turn end", null, make("span", "no", "end"), make("div", "", null, ...clipped(make("pre", "seen", body.final), 24)))] : []),
    make("h3", "last", "Patch at the end"), body.patch.trim() ? diff(body.patch) : make("p", "meta", "No change was left behind."),
    make("h3", "", "Tests"), ...testNodes(body.tests),
  );
  $("episode").scrollTop = 0;
  toTurn(turn);
  highlight();
}
function compare(other) {
  view.against = other;
  open(view.current);
}
function showPatch() {
  const pane = $("patch"), body = view.body, last = view.states?.length - 1;
  if (!body || !body.turns.length) { pane.replaceChildren(); return; }
  const i = view.turn < 0 ? last : Math.min(view.turn, last);  // before the first turn, how it ends
  const now = view.states[i], before = i > 0 ? view.states[i - 1] : "";
  const head = make("h3", "", now === null ? "Patch" : i === last ? "Patch at the end" : `Patch after turn ${i + 1}`);
  if (now === null) {
    pane.replaceChildren(head, make("p", "note", "Not known: this episode was stored before patches were, turn by turn. What was left at the end stands below the last turn."));
    return;
  }
  if (now.trim()) head.append(make("small", "", ` ${changed(now)}${view.turn >= 0 && now === before ? ", as before" : ""}`));
  pane.replaceChildren(head, now.trim() ? diff(now, view.turn < 0 ? undefined : before ?? undefined) : make("p", "note", before ? "Nothing is changed any more." : i === last ? "Nothing was changed." : "Nothing is changed yet."));
}
