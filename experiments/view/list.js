// Which episodes are listed, and a list of which only the visible rows are in the document.
const ROW = 50;
const measured = sets.findIndex((s) => s.round !== null) === 0 ? 0
  : Math.max(...sets.map((s, n) => (s.round === null ? n : 0)));
const ALL = { set: "*", outcome: "*", who: "*", repository: "*" };
const view = {
  ...ALL, set: String(measured), sort: "run", query: "", shown: [], job: 0,
  current: null, body: null, turn: -1, against: null, tokens: false,
};
const WHO = {
  "*": () => true,
  student: (e) => e.teacher === 0,
  teacher: (e) => e.teacher > 0,
  both: (e) => e.teacher > 0 && e.teacher < e.turns,
  apart: (e) => e.divergence >= 0,
};
const OUTCOME = {
  "*": () => true,
  resolved: (e) => e.status === "resolved",
  "not resolved": (e) => e.status !== "resolved",
};
const share = (e) => e.teacher / Math.max(e.turns, 1);
const SORT = {
  run: (a, b) => a.at - b.at,
  task: (a, b) => a.task.localeCompare(b.task) || a.at - b.at,
  "most turns": (a, b) => b.turns - a.turns || a.at - b.at,
  longest: (a, b) => b.seconds - a.seconds || a.at - b.at,
  "most of the teacher": (a, b) => share(b) - share(a) || a.at - b.at,
  "divergence, earliest": (a, b) => (a.divergence < 0) - (b.divergence < 0) || a.divergence - b.divergence || a.at - b.at,
};
function fits(e) {
  return (view.set === "*" || e.set === Number(view.set))
    && (OUTCOME[view.outcome] ?? ((x) => x.status === view.outcome))(e)
    && WHO[view.who](e) && (view.repository === "*" || e.repository === view.repository);
}
const asked = { query: "", found: new Map() };  // of the last search: episode -> whether it is a hit
async function relist() {
  const job = ++view.job, query = view.query.toLowerCase();
  if (query !== asked.query) {
    // what lacks a word lacks a longer one too
    const kept = asked.query && query.includes(asked.query) ? [...asked.found].filter(([, hit]) => !hit) : [];
    Object.assign(asked, { query, found: new Map(kept) });
  }
  let found = episodes.filter(fits);
  if (query) {
    const hits = [];
    let reported = performance.now();
    for (const [n, e] of found.entries()) {
      const hit = asked.found.get(e) ?? (e.task.toLowerCase().includes(query)
        || (texts.get(e.chunk) ?? await textsOf(e.chunk))[e.place].includes(query));
      if (job !== view.job) return;  // another key was pressed meanwhile
      asked.found.set(e, hit);
      if (hit) hits.push(e);
      if (performance.now() - reported > 100) {
        $("count").textContent = `searching, ${Math.round((100 * n) / found.length)} %`;
        await new Promise((go) => setTimeout(go));
        reported = performance.now();
      }
    }
    found = hits;
  }
  view.shown = found.sort(SORT[view.sort]);
  $("count").textContent = plural(found.length, "episode");
  $("rows").style.height = `${found.length * ROW}px`;
  if (found.includes(view.current)) reveal();
  else {
    $("list").scrollTop = 0;
    await open(found[0] ?? null);
  }
  drawList();
  highlight();
}
function rowNode(e, at) {
  const node = make("div", `row ${e.status}`);
  node.id = `row-${e.at}`;
  node.dataset.at = e.at;
  node.setAttribute("role", "option");
  node.setAttribute("aria-posinset", at + 1);
  node.setAttribute("aria-setsize", view.shown.length);
  node.setAttribute("aria-selected", String(e === view.current));
  node.style.top = `${at * ROW}px`;
  const name = make("b", "", e.task + (e.repeat ? ` #${e.repeat}` : ""));
  name.title = e.task;
  const facts = [words(e.status === "resolved" ? e.status : e.stop), plural(e.turns, "turn")];
  if (e.teacher && e.teacher < e.turns) facts.push(`teacher ${e.teacher}`);
  if (e.divergence >= 0) facts.push(`apart at ${e.divergence + 1}`);
  if (view.set === "*") facts.push(sets[e.set].name);
  node.append(name, make("small", "", facts.join(" · ")));
  return node;
}
function drawList() {
  const list = $("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const last = Math.ceil((list.scrollTop + (list.clientHeight || 600)) / ROW) + 5;
  $("rows").replaceChildren(...view.shown.slice(first, last).map((e, n) => rowNode(e, first + n)));
  if (view.current && $(`row-${view.current.at}`)) list.setAttribute("aria-activedescendant", `row-${view.current.at}`);
  else list.removeAttribute("aria-activedescendant");
}
function reveal() {
  const list = $("list"), top = view.shown.indexOf(view.current) * ROW;
  if (top < 0) return;
  if (top < list.scrollTop) list.scrollTop = top;
  else list.scrollTop = Math.max(list.scrollTop, top + ROW - list.clientHeight);
}
