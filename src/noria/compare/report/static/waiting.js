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
      .map((row, i, mine) => ({ model: name, spread: spreadOf(row, "first_answer_ms"), nth: i + 1, of: mine.length })),
  );
  const spreads = ranked.map((row) => row.spread);
  const axis = chooseAxis(spreads.map((s) => s.median), spreads.flatMap((s) => [s.lowest, s.highest]));
  const time = (row) => row.spread.median;
  const x = (row) => onAxis(axis, time(row));
  const stroke = (row) => colour(row.model);
  const narrow = width < 620;
  const last = ranked.filter((row) => row.nth === row.of);
  const label = (row) => (narrow ? ms(time(row)) : `last ${ms(time(row))}`);
  const marginLeft = Math.ceil(Math.max(...names.map((name) => widthOf(name, 12)))) + 12;
  const marginRight = Math.ceil(Math.max(...last.map((row) => widthOf(label(row), 12, 600)))) + 16;
  const step = narrow ? 32 : 38;
  // Label the second client of a model that serves one client after the other.
  const hold = results.waiting.hold_ms;
  const queued = ranked.filter((row, i) => row.nth === 2 && isNumber(hold) && time(row) - time(ranked[i - 1]) >= 0.8 * hold);
  const spans = ranked.filter((row) => hasWhisker(row.spread));
  const ticks = ticksOf(axis, narrow ? 4 : 8);
  const svg = plot("waiting", "Time of each client's first answer, by model", {
    width,
    height: names.length * step + 64,
    marginTop: 20,
    marginLeft,
    marginRight,
    marginBottom: 44,
    x: scaleOf(axis),
    y: { type: "band", domain: names, padding: 0.34 },
    marks: [
      ...gridOf(axis, ticks, "x"),
      Plot.axisY({ tickSize: 0, label: null }),
      Plot.axisX(ticks, { tickSize: 0, text: threeDigits, fill: "var(--dim)", label: "ms from connecting to the first answer", labelAnchor: "center", labelArrow: "none", labelOffset: 38 }),
      axis.kind === "linear" ? Plot.ruleY(last, { x1: 0, x2: time, y: "model", stroke, strokeOpacity: 0.28, strokeWidth: 2 }) : null,
      // The bands of clients overlap: opaque, they show the range of all together.
      Plot.ruleY(spans, {
        x1: (row) => onAxis(axis, row.spread.lowest),
        x2: (row) => onAxis(axis, row.spread.highest),
        y: "model",
        stroke: (row) => `color-mix(in srgb, ${colour(row.model)} 38%, var(--card))`,
        strokeWidth: 9,
        className: "whisker",
      }),
      Plot.tickX(ranked, { x, y: "model", stroke, strokeWidth: 2 }),
      Plot.text(queued, { x, y: "model", text: (row) => `second client ${ms(time(row))}`, dx: -1, dy: -step / 2 - 1, textAnchor: "start", fill: "var(--dim)", fontSize: 11.5, ...halo }),
      Plot.text(last, { y: "model", text: label, frameAnchor: "right", dx: marginRight, textAnchor: "end", fontWeight: 600 }),
      Plot.tip(
        ranked,
        Plot.pointer({ ...tipLines, x, y: "model", stroke, title: (row) => `${row.model}\n${spreadLines(`client ${row.nth} of ${row.of}:`, row.spread, ms)}` }),
      ),
    ],
  });
  const rounds = mostRounds(spreads);
  return [
    heading("First answer of each client", ["less is better", axisWords(axis)]),
    legend([
      [rounds > 1 ? "one mark per client: median" : "one mark per client", '<path d="M14,1V13" stroke="currentColor" stroke-width="2"/>'],
      rounds > 1 && [`lowest to highest of ${rounds} rounds`, '<rect y="3" width="28" height="8" fill="currentColor" fill-opacity=".38"/>'],
    ]),
    svg,
  ];
};
