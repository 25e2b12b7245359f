// Figure 4: the cost of a message beside idle connections.
"use strict";

const idle = (width) => {
  const rows = rowsOf("idle").filter((row) => isNumber(row.idle));
  return sideBySide(width, 820, (each) => [
    idleCurves(each, rows, "cpu_us_per_message", "CPU time per message"),
    idleCurves(each, rows, "us_per_message", "Round-trip time of a message"),
  ]);
};

const idleCurves = (width, all, key, title) => {
  const rows = all.filter((row) => isNumber(row[key]) && row[key] > 0);
  if (!rows.length) return null;
  const names = modelNames(rows);
  const counts = distinctValues(all, "idle");
  const points = rows.map((row) => ({ row, model: row.model, n: row.idle, spread: spreadOf(row, key) }));
  const spreads = points.map((point) => point.spread);
  const axis = chooseAxis(spreads.map((s) => s.median), spreads.flatMap((s) => [s.lowest, s.highest]));
  const marginRight = Math.ceil(Math.max(...names.map((name) => widthOf(name, 12, 600)))) + 28;
  const height = Math.round(Math.min(420, Math.max(320, width * 0.66)));
  const frame = { top: 26, right: width - marginRight, bottom: height - 42, left: 46 };
  // A log axis has no 0: 0 is drawn at 1, with the label 0.
  const beside = dodge(counts, names, frame.right - frame.left);
  const x = (point) => beside.place(point.n, point.model);
  const y = (point) => onAxis(axis, point.spread.median);
  const stroke = (point) => colour(point.model);
  const series = names.map((name) => {
    const mine = points.filter((point) => point.model === name).sort((a, b) => a.n - b.n);
    const end = mine[mine.length - 1].n;
    const refused = all.some((row) => row.model === name && row.idle > end && !isNumber(row[key]));
    return { name, points: mine, stops: refused && mine.length > 1 };
  });
  const limit = series.find((one) => one.name === "select" && one.stops);
  const ticks = ticksOf(axis, 5);
  const svg = plot("idle", `${title} by number of idle connections`, {
    width,
    height,
    marginTop: frame.top,
    marginRight,
    marginBottom: 42,
    marginLeft: frame.left,
    x: { type: "log", domain: beside.domain },
    y: scaleOf(axis),
    marks: [
      ...gridOf(axis, ticks, "y"),
      Plot.axisY(ticks, { tickSize: 0, fill: "var(--dim)", label: null, text: compact }),
      Plot.axisX([...new Set(counts.map((n) => Math.max(n, 1)))], {
        tickSize: 4,
        text: (n) => (n === 1 && counts.includes(0) ? "0" : n >= 1000 && width < 480 ? `${n / 1000}k` : grouped(n)),
        fill: "var(--dim)",
        label: "idle connections",
        labelAnchor: "center",
        labelArrow: "none",
      }),
      limit ? Plot.ruleX([1024], { stroke: colour("select"), strokeDasharray: "3,4", strokeOpacity: 0.8 }) : null,
      ...series.map((one) => Plot.line(one.points, { x, y, stroke: colour(one.name), strokeWidth: 2 })),
      ...whiskers(points, "y", { x }, { stroke, from: axis.low }),
      Plot.dot(
        series.flatMap((one) => (one.stops ? one.points.slice(0, -1) : one.points)),
        { x, y, r: 3.2, fill: stroke, stroke: "var(--card)", strokeWidth: 1.2 },
      ),
      Plot.tip(
        points,
        Plot.pointer({
          ...tipLines,
          x,
          y,
          stroke,
          title: ({ row, spread }) => [`${row.model}, ${grouped(row.idle)} idle`, spreadLines("per message", spread, us), row.note || ""].filter(Boolean).join("\n"),
        }),
      ),
    ],
  });
  const [sx, sy] = [svg.scale("x"), svg.scale("y")];
  if (limit) {
    const words = width < 480 ? "fd 1024" : "fd 1024: select's limit";
    text(d3.select(svg), sx.apply(1024), frame.top - 12, words, { anchor: "middle", size: 11, fill: colour("select") });
  }
  labelLineEnds(svg, series, (point) => sx.apply(x(point)), (point) => sy.apply(y(point)), { ...frame, beside: beside.pixels });
  return [heading(title, ["µs", axisWords(axis)]), legend([whiskerEntry(mostRounds(spreads), "dot")]), svg];
};
