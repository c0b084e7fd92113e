// Controls, keys, links, light and dark.
const root = document.documentElement;
const preferred = matchMedia("(prefers-color-scheme: dark)");
let chosen = null;
try { chosen = localStorage.getItem("theme"); } catch { /* a file:// page may have no storage */ }
const paint = () => { root.dataset.theme = chosen || (preferred.matches ? "dark" : "light"); };
function turnLight() {
  chosen = root.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("theme", chosen); } catch { /* see above */ }
  paint();
}
preferred.addEventListener("change", paint);
paint();

// ---- moving
let held = false;  // the turn was chosen by key: scrolling that follows from it chooses none
function step(by) {
  const at = view.shown.indexOf(view.current);
  const next = view.shown[Math.min(Math.max(at + by, 0), view.shown.length - 1)];
  return next && next !== view.current ? open(next) : undefined;
}
function toTurn(i) {
  const turns = $("episode").querySelectorAll(".turn");
  view.turn = Math.min(i, turns.length - 1);
  if (view.turn >= 0) {
    held = true;
    turns[view.turn].scrollIntoView({ block: "start" });
  }
  here();
}
function here() {
  $("episode").querySelectorAll(".turn").forEach((node, i) => {
    if (i === view.turn) node.setAttribute("aria-current", "step"); else node.removeAttribute("aria-current");
  });
  showPatch();
  const link = new URLSearchParams();
  if (view.current) link.set("episode", nameOf(view.current));
  if (view.turn >= 0) link.set("turn", view.turn + 1);
  if (view.against) link.set("beside", nameOf(view.against));
  history.replaceState(null, "", `#${link}`);
}
function follow() {
  if (held || !view.body) return;
  const top = Math.max($("episode").getBoundingClientRect().top, 0) + 90;
  let now = -1;
  $("episode").querySelectorAll(".turn").forEach((node, i) => { if (node.getBoundingClientRect().top <= top) now = i; });
  if (now !== view.turn) { view.turn = now; here(); }
}
function divergence() {
  const i = view.body?.turns.findIndex((t, n) => differs(t, n, view.rival)) ?? -1;
  if (i >= 0) toTurn(i);
  else announce(view.rival ? "The two never differ." : "Nobody would have done otherwise, or nobody was asked.");
}
function announce(text) {
  $("said").textContent = text;
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => { $("said").textContent = ""; }, 4000);
}
async function toggleTokens() {
  view.tokens = !view.tokens;
  $("tokens").setAttribute("aria-pressed", String(view.tokens));
  if (view.current) await open(view.current, view.turn);
}
function highlight() {
  // Registered ranges, not elements: the text of an episode stays as it is.
  if (!window.CSS?.highlights) return;
  CSS.highlights.delete("hit");
  const query = view.query.toLowerCase();
  if (query.length < 2) return;
  const ranges = [], walk = document.createTreeWalker($("episode"), NodeFilter.SHOW_TEXT);
  while (walk.nextNode() && ranges.length < 500) {
    const text = walk.currentNode.data.toLowerCase();
    if (text.length !== walk.currentNode.data.length) continue;
    for (let at = text.indexOf(query); at >= 0; at = text.indexOf(query, at + query.length)) {
      const range = new Range();
      range.setStart(walk.currentNode, at);
      range.setEnd(walk.currentNode, at + query.length);
      ranges.push(range);
    }
  }
  CSS.highlights.set("hit", new Highlight(...ranges));
}

// ---- controls
const FILTERS = ["set", "outcome", "who", "repository", "sort"];
const count = (test) => episodes.filter(test).length;
function fill(id, options) {
  for (const [value, text] of options) {
    const option = make("option", "", text);
    option.value = value;
    $(id).append(option);
  }
}
function controls() {
  for (const id of FILTERS) $(id).value = view[id];
  $("search").value = view.query;
}
function choose(id, value) { view[id] = value; controls(); return relist(); }
async function show(e, turn = -1, against = null) {
  if (!fits(e) || view.query) Object.assign(view, ALL, { set: String(e.set), query: "" });
  Object.assign(view, { current: e, against });
  controls();
  await relist();
  await open(e, turn);
}
fill("set", [...sets.map((s, n) => [String(n), `${s.name} (${count((e) => e.set === n)})`]), ["*", `everything (${episodes.length})`]]);
const statuses = [...new Set(episodes.map((e) => e.status))].sort();
fill("outcome", [["*", "any outcome"], ["resolved", "resolved"], ["not resolved", "not resolved"],
  ...statuses.filter((s) => s !== "resolved").map((s) => [s, words(s)])]);
fill("who", [["*", "anyone acted"], ["student", "student alone"], ["teacher", "teacher acted"], ["both", "both acted"], ["apart", "label differs"]]);
fill("repository", [["*", "any repository"], ...[...new Set(episodes.map((e) => e.repository))].sort().map((r) => [r, r])]);
fill("sort", Object.keys(SORT).map((name) => [name, `sorted: ${name}`]));
for (const id of FILTERS) $(id).addEventListener("change", (ev) => choose(id, ev.target.value));
$("search").addEventListener("input", (ev) => choose("query", ev.target.value.trim()));
$("theme").addEventListener("click", turnLight);
$("tokens").addEventListener("click", toggleTokens);
$("keys").addEventListener("click", () => $("help").showModal());
$("more").addEventListener("click", (ev) => {
  ev.target.setAttribute("aria-expanded", String(document.body.classList.toggle("filters")));
});
$("list").addEventListener("scroll", () => requestAnimationFrame(drawList), { passive: true });
$("list").addEventListener("click", async (ev) => {
  const row = ev.target.closest(".row");
  if (!row) return;
  document.body.classList.add("reading");
  await open(episodes[Number(row.dataset.at)]);
  scrollTo(0, 0);
});
addEventListener("resize", () => drawList());
for (const [node, name] of [[$("episode"), "scroll"], [window, "scroll"]]) {
  node.addEventListener(name, () => requestAnimationFrame(follow), { passive: true });
}
for (const name of ["wheel", "touchmove", "pointerdown"]) addEventListener(name, () => { held = false; }, { passive: true });

const KEYS = {
  j: () => step(1), k: () => step(-1),
  n: () => toTurn(view.turn + 1), p: () => toTurn(Math.max(view.turn - 1, 0)),
  d: divergence, t: toggleTokens, "/": () => $("search").focus(), "?": () => $("help").showModal(),
  f: () => { const order = Object.keys(OUTCOME); return choose("outcome", order[(order.indexOf(view.outcome) + 1) % order.length]); },
  b: () => {
    const rest = view.current ? byTask.get(view.current.task).filter((e) => e !== view.current) : [];
    if (!rest.length) return announce("No other episode of this task is here.");
    return compare([...rest, null][(rest.indexOf(view.against) + 1) % (rest.length + 1)]);
  },
  Escape: () => document.body.classList.remove("reading"),
};
document.addEventListener("keydown", (ev) => {
  if (ev.ctrlKey || ev.metaKey || ev.altKey || $("help").open) return;
  if (ev.target.matches("input, select")) {
    if (ev.key === "Escape" || ev.key === "Enter") { ev.target.blur(); $("episode").focus({ preventScroll: true }); }
    return;
  }
  const onList = ev.target === $("list") ? { ArrowDown: KEYS.j, ArrowUp: KEYS.k, Enter: () => $("episode").focus() } : {};
  const job = onList[ev.key] ?? KEYS[ev.key];
  if (job) { ev.preventDefault(); job(); }
  else if (ev.key.startsWith("Arrow") || ev.key.startsWith("Page")) held = false;
});
function linked() {
  const link = new URLSearchParams(location.hash.slice(1));
  const e = byName.get(link.get("episode"));
  if (!e) return null;
  document.body.classList.add("reading");
  return show(e, Number(link.get("turn") ?? 0) - 1, byName.get(link.get("beside")) ?? null);
}
addEventListener("hashchange", linked);
controls();
const ready = linked() ?? relist();
