// The figures of `noria compare loops`: small panels of ratios, one per row of the comparison.
"use strict";

// noria's loops have the colours of their models, the others those that no loop of noria's has.
const LOOP_COLOURS = { asyncio: "blocking", uvloop: "threaded", rloop: "nonblocking" };
const loopColour = (name) => (name.startsWith("noria-") ? colour(name.slice(6)) : colour(LOOP_COLOURS[name] || "other"));

const ratios = (width, chart) => {
  const panels = (results.drawn || {})[chart.dataset.name] || [];
  const coloured = panels.map((panel) => ({
    ...panel,
    items: panel.items.map((item) => ({ ...item, colour: loopColour(item.name) })),
  }));
  return ratioPanels(width, coloured);
};

const drawings = { noise, ratios };

for (const chip of document.querySelectorAll("[data-loop]")) chip.style.background = loopColour(chip.dataset.loop);
