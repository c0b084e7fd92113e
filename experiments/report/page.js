"use strict";
// Light or dark as the reader's system has it, until the button says otherwise.
const root = document.documentElement;
const preferred = matchMedia("(prefers-color-scheme: dark)");
let chosen = null;
try { chosen = localStorage.getItem("theme"); } catch { /* a file:// page may have no storage */ }
const paint = () => { root.dataset.theme = chosen || (preferred.matches ? "dark" : "light"); };
preferred.addEventListener("change", paint);
document.getElementById("theme").addEventListener("click", () => {
  chosen = root.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("theme", chosen); } catch { /* see above */ }
  paint();
});
paint();
// What a point says to a screen reader is shown to a mouse as well.
for (const mark of document.querySelectorAll("figure svg .mark-symbol path[aria-label]")) {
  const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
  title.textContent = mark.getAttribute("aria-label");
  mark.append(title);
}
