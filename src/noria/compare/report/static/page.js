// Draws the figures and draws them again when their width changes. The sentences and tables are in the
// page already: if a script fails, the page is complete in words.
"use strict";

const draw = (chart) => {
  const width = Math.floor(chart.clientWidth);
  if (width < 60 || chart.drawnAt === width) return;
  chart.drawnAt = width;
  const elements = drawings[chart.dataset.chart](width, chart);
  chart.replaceChildren(...elements);
  // A chart without data is hidden, and the sentence says that nothing was measured. It is hidden
  // only now, because a hidden element has no width.
  chart.classList.toggle("nothing", !elements.length);
};

// #only=NAME shows one figure.
const applySelection = () => {
  const only = hashOptions().get("only");
  if ([...document.querySelectorAll(".figure")].some((section) => section.dataset.figure === only)) root.dataset.only = only;
  else delete root.dataset.only;
  for (const section of document.querySelectorAll(".figure")) {
    section.toggleAttribute("data-picked", section.dataset.figure === only);
  }
};

for (const chip of document.querySelectorAll(".chip[data-model]")) chip.style.background = colour(chip.dataset.model);

// A reader of a printed page cannot open the tables: print them open.
let openedForPrint = [];
addEventListener("beforeprint", () => {
  openedForPrint = [...document.querySelectorAll("main details:not([open])")];
  for (const details of openedForPrint) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of openedForPrint) details.open = false;
});

addEventListener("hashchange", applySelection);
applySelection();
const charts = [...document.querySelectorAll(".chart")];
charts.forEach(draw);
const observer = new ResizeObserver((entries) => {
  requestAnimationFrame(() => entries.forEach((entry) => draw(entry.target)));
});
charts.forEach((chart) => observer.observe(chart));
root.dataset.drawn = String(document.querySelectorAll(".chart svg").length);
