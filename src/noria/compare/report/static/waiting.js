// Figure 3: when each of the waiting clients has its first answer.
"use strict";

const waiting = (width) => {
  const rows = rowsOf("waiting").filter((row) => isNumber(row.first_answer_ms));
  if (!rows.length) return [];
  const names = modelNames(rows);
  const ranked = names.flatMap((name) =>
    rows
      .filter((row) => row.model === name)
      .sort((a, b) => a.first_answer_ms - b.first_answer_ms)
      .map((row, i, mine) => ({ model: name, ms: row.first_answer_ms, nth: i + 1, of: mine.length })),
  );
  const narrow = width < 620;
  const last = ranked.filter((row) => row.nth === row.of);
  const label = (row) => (narrow ? ms(row.ms) : `last ${ms(row.ms)}`);
  const marginLeft = Math.ceil(Math.max(...names.map((name) => widthOf(name, 12)))) + 12;
  const marginRight = Math.ceil(Math.max(...last.map((row) => widthOf(label(row), 12, 600)))) + 14;
  const step = narrow ? 30 : 36;
  // Label the second client of a model that serves one client after the other.
  const hold = results.waiting.hold_ms;
  const queued = ranked.filter((row, i) => row.nth === 2 && isNumber(hold) && row.ms - ranked[i - 1].ms >= 0.8 * hold);
  const svg = plot("waiting", "Time of each client's first answer, by model", {
    width,
    height: names.length * step + 64,
    marginTop: 20,
    marginLeft,
    marginRight,
    marginBottom: 44,
    x: { domain: [0, d3.max(ranked, (row) => row.ms)] },
    y: { type: "band", domain: names, padding: 0.34 },
    marks: [
      Plot.gridX({ ticks: narrow ? 4 : 8, ...grid }),
      Plot.axisY({ tickSize: 0, label: null }),
      Plot.axisX({ ticks: narrow ? 4 : 8, tickSize: 0, fill: "var(--dim)", label: "ms from connecting to the first answer", labelAnchor: "center", labelArrow: "none", labelOffset: 38 }),
      Plot.ruleY(last, { x1: 0, x2: "ms", y: "model", stroke: (row) => colour(row.model), strokeOpacity: 0.28, strokeWidth: 2 }),
      Plot.tickX(ranked, { x: "ms", y: "model", stroke: (row) => colour(row.model), strokeWidth: 2.5 }),
      Plot.text(queued, { x: "ms", y: "model", text: (row) => `second client ${ms(row.ms)}`, dx: -1, dy: -step / 2 - 1, textAnchor: "start", fill: "var(--dim)", fontSize: 11.5, ...halo }),
      Plot.text(last, { x: "ms", y: "model", text: label, dx: 9, textAnchor: "start", fontWeight: 600, ...halo, fill: "currentColor" }),
      Plot.tip(
        ranked,
        Plot.pointer({
          x: "ms",
          y: "model",
          stroke: (row) => colour(row.model),
          title: (row) => `${row.model}\nclient ${row.nth} of ${row.of}: ${ms(row.ms)}`,
        }),
      ),
    ],
  });
  return [heading("First answer of each client", "one mark per client"), svg];
};
