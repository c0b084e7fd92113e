"use strict";
// The episode reader. Text of episodes is hostile: it reaches the page through textContent alone.
// Only the list and the chosen episode are in the document, so that a thousand episodes stay quick.
const episodes = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const root = document.documentElement;

function make(tag, cls, text, ...children) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  if (text !== undefined && text !== null) node.textContent = text;
  node.append(...children);
  return node;
}
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
const words = (s) => s.replaceAll("_", " ");
const tone = (e) => (e.status === "resolved" ? "good" : "bad");

// ---- theme
const preferred = matchMedia("(prefers-color-scheme: dark)");
let chosen = null;
try { chosen = localStorage.getItem("theme"); } catch { /* a file:// page may have no storage */ }
const paint = () => { root.dataset.theme = chosen || (preferred.matches ? "dark" : "light"); };
preferred.addEventListener("change", paint);
$("theme").addEventListener("click", () => {
  chosen = root.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("theme", chosen); } catch { /* see above */ }
  paint();
});
paint();

// ---- which episodes are listed
const sets = [...new Set(episodes.map((e) => e.set))];
const byTask = new Map();
episodes.forEach((e, i) => {
  e.at = i;
  if (!byTask.has(e.task)) byTask.set(e.task, []);
  byTask.get(e.task).push(e);
});
const measured = sets.filter((s) => !s.startsWith("training"));
const view = { set: measured.at(-1) ?? sets[0], verdict: "all", query: "", shown: [], current: null, turn: -1 };

function haystack(e) {
  e.hay ??= [e.task, e.stop, e.status, e.why, e.patch, e.final,
    ...e.turns.flatMap((t) => [t.seen, t.text, t.label?.text ?? ""])].join("\n").toLowerCase();
  return e.hay;
}
function fits(e) {
  if (view.set !== "*" && e.set !== view.set) return false;
  if (view.verdict !== "all" && (e.status === "resolved") !== (view.verdict === "resolved")) return false;
  return !view.query || haystack(e).includes(view.query);
}
function row(e) {
  const li = make("li", e.status);
  li.dataset.at = e.at;
  const where = view.set === "*" ? ` · ${e.set}` : "";
  const name = make("b", "", e.task + (e.repeat ? ` #${e.repeat}` : ""));
  name.title = e.task;
  li.append(name, make("small", "", `${words(e.stop)} · ${plural(e.turns.length, "turn")}${where}`));
  return li;
}
function relist() {
  view.shown = episodes.filter(fits);
  $("list").replaceChildren(...view.shown.map(row));
  $("count").textContent = plural(view.shown.length, "episode");
  if (!view.shown.includes(view.current)) open(view.shown[0] ?? null);
  else mark();
}
function mark() {
  for (const li of $("list").children) {
    if (view.current && Number(li.dataset.at) === view.current.at) {
      li.setAttribute("aria-current", "true");
      const list = $("list"), top = li.offsetTop - list.offsetTop;  // not scrollIntoView: it moves the page
      if (top < list.scrollTop) list.scrollTop = top;
      else list.scrollTop = Math.max(list.scrollTop, top + li.offsetHeight - list.clientHeight);
    } else li.removeAttribute("aria-current");
  }
}

// ---- one episode
function clipped(node, lines) {
  if (node.textContent.split("\n").length <= lines) return [node];
  node.classList.add("clip");
  const more = make("button", "more", "show all");
  more.type = "button";
  more.addEventListener("click", () => {
    more.textContent = node.classList.toggle("clip") ? "show all" : "show less";
  });
  return [node, more];
}
function spoken(text) {
  // Reasoning as prose, the fenced block as code; anything else as it stands.
  const parts = /^([^]*?)```[^\n]*\n([^]*?)\n?```\s*([^]*)$/.exec(text);
  if (!parts) return [make("pre", "code", text)];
  const out = [];
  if (parts[1].trim()) out.push(make("p", "say", parts[1].trim()));
  out.push(make("pre", "code", parts[2]));
  if (parts[3].trim()) out.push(make("pre", "", parts[3]));
  return out;
}
function act(cls, who, note, text) {
  return make("div", `act ${cls}`, null, make("p", "who", null, make("b", "", who), note ? ` ${note}` : ""), ...spoken(text));
}
function turnNode(t, i) {
  const acts = make("div", "acts");
  const notes = [];
  if (!t.valid) notes.push("no valid action");
  if (t.label?.same && t.who === "student") notes.push(`${t.label.by} would have done the same`);
  notes.push(`${t.seconds} s`);
  acts.append(act(t.who, t.who, `· ${notes.join(" · ")}`, t.text));
  if (t.label && !t.label.same) {
    acts.classList.add("beside");
    acts.append(t.label.text === null
      ? act("label", t.label.by, "gave no label", t.label.error || "")
      : act("label", t.label.by, "would have done · the label", t.label.text));
  }
  const body = make("div", "", null, ...clipped(make("pre", "seen", t.seen), 24), acts);
  return make("div", "turn", null, make("span", "no", String(i + 1)), body);
}
function diff(text) {
  const pre = make("pre", "code diff");
  for (const line of text.replace(/\n$/, "").split("\n")) {
    const kind = /^(diff |index |\+\+\+|---)/.test(line) ? "file" : line.startsWith("@@") ? "hunk"
      : line.startsWith("+") ? "add" : line.startsWith("-") ? "del" : "";
    pre.append(make("span", kind, line));
  }
  return pre;
}
function tests(t) {
  const counts = Object.entries(t.counts).map(([status, n]) => `${n} ${status.toLowerCase()}`);
  const table = make("table", "tests");
  for (const [name, status] of t.listed) {
    table.append(make("tr", "", null, make("td", "", name), make("td", "n bad", status.toLowerCase())));
  }
  return [make("p", "meta", counts.join(" · ") || "No tests were run."), table];
}
function others(e) {
  const line = make("p", "others");
  const rest = byTask.get(e.task).filter((other) => other !== e);
  if (rest.length) line.append("Same task: ");
  for (const other of rest.slice(0, 12)) {
    const link = make("button", "", `${other.set}, ${words(other.status)}`);
    link.type = "button";
    link.addEventListener("click", () => show(other));
    line.append(link);
  }
  return line;
}
function open(e) {
  view.current = e;
  view.turn = -1;
  const pane = $("episode");
  if (!e) {
    pane.replaceChildren(make("p", "empty", "No episode fits."));
    return;
  }
  const facts = [e.set, `ended: ${words(e.stop)}`, plural(e.turns.length, "turn"), `${e.seconds} s`];
  if (e.share > 0) facts.push(`teacher took ${Math.round(e.share * 100)} %`);
  if (e.why) facts.push(e.why);
  const system = make("details", "", null, make("summary", "", "System prompt"), make("pre", "code", e.system));
  pane.replaceChildren(
    make("h3", "", e.task),
    make("p", "meta", null, make("span", tone(e), words(e.status)), ` · ${facts.join(" · ")}`),
    others(e), system, make("p"),
    ...e.turns.map(turnNode),
    ...(e.final ? [make("div", "turn", null, make("span", "no", "end"), make("div", "", null, ...clipped(make("pre", "seen", e.final), 24)))] : []),
    make("h4", "", "Patch"), e.patch.trim() ? diff(e.patch) : make("p", "meta", "No change was left behind."),
    make("h4", "", "Tests"), ...tests(e.tests),
  );
  pane.scrollTop = 0;
  history.replaceState(null, "", `#episode-${e.at}`);
  mark();
}
function show(e) {
  if (!fits(e)) {
    Object.assign(view, { set: e.set, verdict: "all", query: "" });
    $("search").value = "";
    view.current = e;
    controls();
    relist();
  }
  open(e);
}

// ---- controls
function controls() {
  $("set").value = view.set;
  for (const b of $("verdicts").children) b.setAttribute("aria-pressed", String(b.dataset.verdict === view.verdict));
}
function step(by) {
  const at = view.shown.indexOf(view.current);
  const next = view.shown[Math.min(Math.max(at + by, 0), view.shown.length - 1)];
  $("reader").scrollIntoView({ block: "start" });
  if (next && next !== view.current) open(next);
}
function turnStep(by) {
  const turns = [...$("episode").querySelectorAll(".turn")];
  if (!turns.length) return;
  view.turn = Math.min(Math.max(view.turn + by, 0), turns.length - 1);
  turns.forEach((node, i) => node.classList.toggle("here", i === view.turn));
  $("reader").scrollIntoView({ block: "start" });
  turns[view.turn].scrollIntoView({ block: "start" });
}
function verdict(value) { view.verdict = value; controls(); relist(); }

for (const s of [...sets, "*"]) {
  const n = s === "*" ? episodes.length : episodes.filter((e) => e.set === s).length;
  const option = make("option", "", `${s === "*" ? "everything" : s} (${n})`);
  option.value = s;
  $("set").append(option);
}
$("set").addEventListener("change", (ev) => { view.set = ev.target.value; relist(); });
$("search").addEventListener("input", (ev) => { view.query = ev.target.value.trim().toLowerCase(); relist(); });
$("verdicts").addEventListener("click", (ev) => { if (ev.target.dataset.verdict) verdict(ev.target.dataset.verdict); });
$("list").addEventListener("click", (ev) => {
  const li = ev.target.closest("li");
  if (li) open(episodes[Number(li.dataset.at)]);
});
document.addEventListener("keydown", (ev) => {
  if (ev.ctrlKey || ev.metaKey || ev.altKey) return;
  if (ev.target.matches("input, select")) {
    if (ev.key === "Escape" || ev.key === "Enter") ev.target.blur();
    return;
  }
  const order = ["all", "resolved", "unresolved"];
  const keys = {
    j: () => step(1), k: () => step(-1), n: () => turnStep(1), p: () => turnStep(-1),
    f: () => verdict(order[(order.indexOf(view.verdict) + 1) % 3]),
    "/": () => $("search").focus(),
  };
  if (keys[ev.key]) { ev.preventDefault(); keys[ev.key](); }
});
const linked = episodes[Number(/^#episode-(\d+)$/.exec(location.hash)?.[1] ?? NaN)];
if (linked) view.set = linked.set;
controls();
view.current = linked ?? null;
relist();
if (linked) { open(linked); $("reader").scrollIntoView(); }
