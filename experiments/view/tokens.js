// Tokens as they were sampled, in the color of who acted; the shade is the weight in the loss.
const STREAM = { ce: "cross-entropy", pg: "policy gradient", kl: "divergence" };

function weightOf(track, n) {
  return ["ce", "pg", "kl"].reduce((sum, name) => sum + (track[name]?.[n] ?? 0), 0);
}
function tokenNodes(track, most) {
  return track.text.map((text, n) => {
    const node = make("span", "tok", text === "" ? "·" : text.replaceAll("\n", "⏎\n"));
    const parts = [`token ${track.ids[n]}`];
    if (track.logprobs) parts.push(`log-prob ${track.logprobs[n]}`);
    for (const name of Object.keys(STREAM)) if (track[name]?.[n]) parts.push(`${STREAM[name]} ${track[name][n]}`);
    const weight = weightOf(track, n);
    if (weight) {
      const shade = 8 + 20 * Math.min(1, Math.abs(weight) / (most || 1));
      node.style.background = `color-mix(in srgb, var(--${weight > 0 ? "good" : "bad"}) ${shade.toFixed(0)}%, transparent)`;
      node.classList.add(weight > 0 ? "up" : "down");
    }
    node.title = parts.join("\n");
    return node;
  });
}
function tokenBlock(track, most) {
  return make("pre", "code tokens", null, ...tokenNodes(track, most));
}
function tokenLegend(body) {
  const set = sets[view.current.set];
  if (set.missing) return make("p", "note", set.missing);
  const note = make("p", "note legend");
  note.append("Tokens: ", make("b", "student", "student’s"), " and ", make("b", "teacher", "teacher’s"), ". ");
  if (body.trained) {
    note.append(`Shade: weight in the loss of round ${set.round}, `, make("span", "tok up", "raised"), " or ",
      make("span", "tok down", "lowered"), `, the strongest at ${set.most}; without a shade it trains nothing. Hover for numbers.`);
  } else note.append(set.round === null ? "An evaluation trains nothing, so none is shaded." : "This episode was not trained on in its round.");
  return note;
}
