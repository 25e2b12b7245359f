// Figure 4: the cost of a message beside idle connections.
"use strict";

const idle = (width) => {
  const rows = rowsOf("idle").filter((row) => isNumber(row.idle));
  const wide = width >= 820;
  const each = wide ? Math.floor((width - 28) / 2) : width;
  const drawn = [
    ["cpu_us_per_message", "CPU time per message"],
    ["us_per_message", "Round-trip time of a message"],
  ]
    .map(([key, title]) => idleCurves(each, rows, key, title))
    .filter(Boolean);
  if (!drawn.length) return [];
  const pair = document.createElement("div");
  pair.className = "pair";
  pair.style.gridTemplateColumns = wide && drawn.length > 1 ? "1fr 1fr" : "1fr";
  for (const parts of drawn) {
    const cell = document.createElement("div");
    cell.append(...parts);
    pair.append(cell);
  }
  return [pair];
};

const idleCurves = (width, all, key, title) => {
  const rows = all.filter((row) => isNumber(row[key]) && row[key] > 0);
  if (!rows.length) return null;
  const names = modelNames(rows);
  const counts = distinctValues(all, "idle");
  // A log axis has no 0: 0 is drawn at 1, with the label 0.
  const x = (row) => Math.max(row.idle, 1);
  const y = (row) => row[key];
  const marginRight = Math.ceil(Math.max(...names.map((name) => widthOf(name, 12, 600)))) + 28;
  const height = Math.round(Math.min(400, Math.max(300, width * 0.62)));
  const frame = { top: 26, right: width - marginRight, bottom: height - 42, left: 46 };
  const series = names.map((name) => {
    const points = rows.filter((row) => row.model === name).sort((a, b) => a.idle - b.idle);
    const end = points[points.length - 1].idle;
    const refused = all.some((row) => row.model === name && row.idle > end && !isNumber(row[key]));
    return { name, points, stops: refused && points.length > 1 };
  });
  const limit = series.find((one) => one.name === "select" && one.stops);
  const top = Math.max(counts[counts.length - 1], 1);
  const [low, high] = [d3.min(rows, y) / 1.5, d3.max(rows, y) * 1.4];
  const svg = plot("idle", `${title} by number of idle connections`, {
    width,
    height,
    marginTop: frame.top,
    marginRight,
    marginBottom: 42,
    marginLeft: frame.left,
    x: { type: "log", domain: [0.9, Math.max(top, 2) * 1.05] },
    y: { type: "log", domain: [low, high] },
    marks: [
      Plot.gridY(logTicks(low, high), grid),
      Plot.axisY(logTicks(low, high), { tickSize: 0, fill: "var(--dim)", label: null, tickFormat: compact }),
      Plot.axisX([...new Set(counts.map((n) => Math.max(n, 1)))], {
        tickSize: 4,
        tickFormat: (n) => (n === 1 && counts.includes(0) ? "0" : n >= 1000 && width < 480 ? `${n / 1000}k` : grouped(n)),
        fill: "var(--dim)",
        label: "idle connections",
        labelAnchor: "center",
        labelArrow: "none",
      }),
      limit ? Plot.ruleX([1024], { stroke: colour("select"), strokeDasharray: "3,4", strokeOpacity: 0.8 }) : null,
      ...series.map(({ name, points }) => Plot.line(points, { x, y, stroke: colour(name), strokeWidth: 2.25 })),
      Plot.dot(
        series.flatMap(({ points, stops }) => (stops ? points.slice(0, -1) : points)),
        { x, y, r: 3.4, fill: (row) => colour(row.model), stroke: "var(--card)", strokeWidth: 1.2 },
      ),
      Plot.tip(
        rows,
        Plot.pointer({
          x,
          y,
          stroke: (row) => colour(row.model),
          title: (row) => [`${row.model}, ${grouped(row.idle)} idle`, `${us(y(row))} per message`, row.note || ""].filter(Boolean).join("\n"),
        }),
      ),
    ],
  });
  const [sx, sy] = [svg.scale("x"), svg.scale("y")];
  if (limit) {
    const words = width < 480 ? "fd 1024" : "fd 1024: select's limit";
    text(d3.select(svg), sx.apply(1024), frame.top - 12, words, { anchor: "middle", size: 11, fill: colour("select") });
  }
  labelLineEnds(svg, series, (row) => sx.apply(x(row)), (row) => sy.apply(y(row)), frame);
  return [heading(title, "µs"), svg];
};
