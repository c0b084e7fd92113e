// Small pieces of a page: elements, diffs, and what differs between two texts.
function make(tag, cls, text, ...children) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  if (text !== undefined && text !== null) node.textContent = text;
  node.append(...children);
  return node;
}
function button(cls, text, act) {
  const node = make("button", cls, text);
  node.type = "button";
  node.addEventListener("click", act);
  return node;
}
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
const words = (s) => s.replaceAll("_", " ");

function clipped(node, lines) {
  const text = node.textContent;
  let at = -1;
  for (let k = 0; k < lines; k++) {
    at = text.indexOf("\n", at + 1);
    if (at < 0) return [node];
  }
  node.classList.add("clip");
  const more = button("more", `show all ${text.split("\n").length} lines`, () => {
    const shut = node.classList.toggle("clip");
    more.textContent = shut ? `show all ${text.split("\n").length} lines` : "show less";
    more.setAttribute("aria-expanded", String(!shut));
  });
  more.setAttribute("aria-expanded", "false");
  return [node, more];
}

// Reasoning as prose, the fenced block as code; anything else as it stands.
function parts(text) {
  const found = /^([^]*?)```[^\n]*\n([^]*?)\n?```\s*([^]*)$/.exec(text);
  if (!found) return [[/^\s*[<{[]/m.test(text) ? "code" : "say", text]];
  return [["say", found[1].trim()], ["code", found[2]], ["rest", found[3].trim()]].filter(([, part]) => part);
}
function spoken(text, other) {
  // ``other``: a text to compare with; what is not in it is marked
  const theirs = other === undefined ? null : Object.fromEntries(parts(other));
  return parts(text).map(([kind, part]) => {
    const node = kind === "say" ? make("p", "say") : make("pre", "code");
    if (theirs && theirs[kind] !== part) node.append(...marked(part, theirs[kind] ?? ""));
    else node.textContent = part;
    return node;
  });
}
const pieces = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];
function marked(text, other) {
  // A longest common subsequence of words. Nothing is marked in long texts, nor in such as have
  // little in common: there every word differs.
  const a = pieces(text), b = pieces(other), width = b.length + 1;
  if (a.length * width > 400000) return [text];
  const best = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      best[i * width + j] = a[i] === b[j] ? best[(i + 1) * width + j + 1] + 1
        : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
    }
  }
  if (best[0] < 0.4 * Math.max(a.length, b.length)) return [text];
  const out = [];
  const add = (piece, own) => {
    const last = out.at(-1);
    if (last && last.own === own) last.text += piece;
    else out.push({ own, text: piece });
  };
  for (let i = 0, j = 0; i < a.length;) {
    if (j < b.length && a[i] === b[j]) { add(a[i], false); i++; j++; }
    else if (j < b.length && best[i * width + j + 1] > best[(i + 1) * width + j]) j++;
    else { add(a[i], true); i++; }
  }
  return out.map(({ own, text: run }) => (own && run.trim() ? make("mark", "", run) : document.createTextNode(run)));
}

function diffLines(text) {
  return text ? text.replace(/\n$/, "").split("\n") : [];
}
function diff(text, before) {
  // ``before``: the patch a turn earlier; lines that it lacks are fresh
  const pre = make("pre", "code diff");
  const old = new Map();
  for (const line of diffLines(before)) old.set(line, (old.get(line) ?? 0) + 1);
  let header = true;
  for (const line of diffLines(text)) {
    if (line.startsWith("diff ")) header = true;
    if (line.startsWith("@@")) header = false;
    const kind = header ? "file" : line.startsWith("@@") ? "hunk"
      : line.startsWith("+") ? "add" : line.startsWith("-") ? "del" : "";
    if (header && /^(index |--- |\+\+\+ )/.test(line)) continue;  // the line before names the file
    const left = old.get(line) ?? 0;
    if (left) old.set(line, left - 1);
    const fresh = before !== undefined && !left && (kind === "add" || kind === "del");
    pre.append(make("span", fresh ? `${kind} fresh` : kind, header ? line.replace(/^diff --git a\/(.*) b\/\1$/, "$1") : line));
  }
  return pre;
}
function changed(text) {
  let add = 0, del = 0, header = true;
  for (const line of diffLines(text)) {
    if (line.startsWith("diff ")) header = true;
    if (line.startsWith("@@")) header = false;
    if (!header && line.startsWith("+")) add++;
    if (!header && line.startsWith("-")) del++;
  }
  return `+${add} −${del}`;
}
