// Figure 5: how often unread data is reported, level- and edge-triggered.
"use strict";

const triggers = (width) => {
  const rows = rowsOf("triggers").filter((row) => isNumber(row.told) && isNumber(row.asks) && row.asks > 0);
  if (!rows.length) return [];
  const several = distinctValues(rows, "unread_bytes").length > 1;
  const label = (row) => row.model + (several ? `, ${grouped(row.unread_bytes)} B` : "");
  const most = d3.max(rows, (row) => row.asks);
  const cells = rows.flatMap((row) =>
    d3.range(Math.min(row.asks, 40)).map((i) => ({ ...row, label: label(row), i: i + 1, reported: i < row.told })),
  );
  const names = rows.map(label);
  const narrow = width < 620;
  const marginLeft = Math.ceil(Math.max(...names.map((name) => widthOf(name, 12)))) + (narrow ? 12 : 66);
  const countLabel = (row) => `${row.told} of ${row.asks}`;
  const marginRight = Math.ceil(Math.max(...rows.map((row) => widthOf(countLabel(row), 12, 600)))) + 16;
  const step = 34;
  // A square per poll, at most 64 pixels wide.
  const room = Math.min(width - marginLeft - marginRight, Math.min(most, 40) * 64);
  const svg = plot("triggers", "Which polls reported the unread data, by model", {
    width,
    height: rows.length * step + 28,
    marginTop: 24,
    marginLeft,
    marginRight: width - marginLeft - room,
    marginBottom: 4,
    x: { type: "band", domain: d3.range(1, Math.min(most, 40) + 1), padding: 0.12 },
    y: { type: "band", domain: names, padding: 0.22 },
    marks: [
      Plot.axisX({ anchor: "top", tickSize: 0, label: null, fill: "var(--dim)", tickFormat: (n) => (most <= 12 || n % 5 === 0 ? `${n === 1 && !narrow ? "poll " : ""}${n}` : "") }),
      Plot.axisY({ tickSize: 0, label: null }),
      Plot.cell(cells.filter((c) => c.reported), { x: "i", y: "label", fill: (c) => colour(c.model), rx: 3 }),
      Plot.cell(cells.filter((c) => !c.reported), { x: "i", y: "label", fill: "none", stroke: (c) => colour(c.model), strokeOpacity: 0.55, strokeDasharray: "3,3", rx: 3, inset: 0.5 }),
      Plot.text(rows, { y: label, text: countLabel, frameAnchor: "right", dx: 10, textAnchor: "start", fontWeight: 600 }),
      narrow ? null : Plot.text(rows, { y: label, text: (row) => row.trigger || "", frameAnchor: "left", dx: 10 - marginLeft, textAnchor: "start", fill: "var(--dim)" }),
      Plot.tip(
        cells,
        Plot.pointer({
          ...tipLines,
          x: "i",
          y: "label",
          stroke: (c) => colour(c.model),
          title: (c) => `${c.label}, ${c.trigger}\npoll ${c.i}: ${c.reported ? "readiness reported" : "nothing reported, the data still unread"}`,
        }),
      ),
    ],
  });
  return [heading("Polls that reported the same unread data", ["full: reported; dashed: not reported"]), svg];
};
