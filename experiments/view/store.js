"use strict";
// Text of episodes is hostile: it reaches the page through textContent alone.
// Rows of the list are parsed at once; bodies are inflated by the chunk, and few are kept.
const index = JSON.parse(document.getElementById("index").textContent);
const episodes = index.episodes;
const sets = index.sets;
const $ = (id) => document.getElementById(id);
const KEPT_CHUNKS = 12;
const KEPT_TEXT = 60e6;  // characters of lower-cased text, beyond which a search inflates again

const bodies = new Map();  // chunk -> promise of its bodies, the least recently used first
const texts = new Map();   // chunk -> what is searched in its bodies
let textSize = 0;

async function inflate(chunk) {
  const packed = atob(document.getElementById(`chunk-${chunk}`).textContent);
  const bytes = Uint8Array.from(packed, (sign) => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}
function chunkOf(chunk) {
  const found = bodies.get(chunk) ?? inflate(chunk);
  bodies.delete(chunk);
  bodies.set(chunk, found);
  if (bodies.size > KEPT_CHUNKS) bodies.delete(bodies.keys().next().value);
  return found;
}
const bodyOf = async (e) => (await chunkOf(e.chunk))[e.place];

function searched(body) {
  return [body.why, body.patch, body.final, ...body.tests.listed.map(([name]) => name),
    ...body.turns.flatMap((t) => [t.seen, t.text, ...t.labels.map((l) => l.text ?? "")])]
    .join("\n").toLowerCase();
}
async function textsOf(chunk) {
  if (texts.has(chunk)) return texts.get(chunk);
  const found = (await (bodies.get(chunk) ?? inflate(chunk))).map(searched);
  const size = found.reduce((sum, text) => sum + text.length, 0);
  if (textSize + size <= KEPT_TEXT) {
    texts.set(chunk, found);
    textSize += size;
  }
  return found;
}

const byTask = new Map();
episodes.forEach((e, at) => {
  e.at = at;
  const known = byTask.get(e.task);
  if (known) known.push(e); else byTask.set(e.task, [e]);
});
const nameOf = (e) => `${sets[e.set].name}/${e.id}`;
const byName = new Map(episodes.map((e) => [nameOf(e), e]));
