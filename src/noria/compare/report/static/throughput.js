// Figure 1: messages per second, latency, CPU time and system calls by number of connections.
"use strict";

const throughput = (width) => {
  const rows = rowsOf("throughput").filter((row) => isNumber(row.connections));
  const measured = rows.filter((row) => isNumber(row.messages_per_second));
  if (!measured.length) return [];
  return [...throughputLines(width, measured), ...latencies(width, rows), ...cpuTimes(width, rows), ...syscalls(width, rows)];
};

const throughputLines = (width, rows) => {
  const names = modelNames(rows);
  const counts = distinctValues(rows, "connections");
  const marginRight = Math.ceil(Math.max(...names.map((name) => widthOf(name, 12, 600)))) + 30;
  const height = Math.round(Math.min(430, Math.max(290, width * 0.46)));
  const frame = { top: 14, right: width - marginRight, bottom: height - 40, left: 46 };
  const points = rows.map((row) => ({ row, model: row.model, n: row.connections, spread: spreadOf(row, "messages_per_second") }));
  const spreads = points.map((point) => point.spread);
  const axis = chooseAxis(spreads.map((s) => s.median), spreads.map((s) => s.highest));
  const beside = dodge(counts, names, frame.right - frame.left);
  const x = (point) => beside.place(point.n, point.model);
  const y = (point) => onAxis(axis, point.spread.median);
  const stroke = (point) => colour(point.model);
  const series = names.map((name) => ({
    name,
    points: points.filter((point) => point.model === name).sort((a, b) => a.n - b.n),
  }));
  const svg = plot("throughput", "Messages per second by number of connections", {
    width,
    height,
    marginTop: frame.top,
    marginRight,
    marginBottom: 40,
    marginLeft: frame.left,
    x: { type: "log", domain: beside.domain },
    y: scaleOf(axis),
    marks: [
      ...gridOf(axis, ticksOf(axis, 5), "y"),
      axis.kind === "linear" ? Plot.ruleY([0], { stroke: "var(--dim)" }) : null,
      Plot.axisY(ticksOf(axis, 5), { tickSize: 0, text: compact, fill: "var(--dim)", label: null }),
      Plot.axisX(counts, { tickSize: 4, text: grouped, fill: "var(--dim)", label: "connections", labelAnchor: "center", labelArrow: "none" }),
      ...series.map((one) => Plot.line(one.points, { x, y, stroke: colour(one.name), strokeWidth: 2, curve: "linear" })),
      ...whiskers(points, "y", { x }, { stroke, from: axis.low }),
      Plot.dot(points, { x, y, r: 3.4, fill: stroke, stroke: "var(--card)", strokeWidth: 1.2 }),
      Plot.tip(
        points,
        Plot.pointer({
          ...tipLines,
          x,
          y,
          stroke,
          title: ({ row, spread }) =>
            [
              `${row.model}, ${plural(row.connections, "connection")}`,
              spreadLines("", spread, (value) => grouped(Math.round(value))) + (spread.rounds > 1 ? "" : " messages per second"),
              isNumber(row.served) && row.served < row.connections ? `serves ${plural(row.served, "client")} at once` : "",
              row.note || "",
            ]
              .filter(Boolean)
              .join("\n"),
        }),
      ),
    ],
  });
  const [sx, sy] = [svg.scale("x"), svg.scale("y")];
  labelLineEnds(svg, series, (point) => sx.apply(x(point)), (point) => sy.apply(y(point)), { ...frame, beside: beside.pixels });
  return [
    heading("Messages per second", ["more is better", axisWords(axis)]),
    legend([whiskerEntry(mostRounds(spreads), "dot")]),
    svg,
  ];
};

// The layout of small panels, one per number of connections, as many in a row as fit.
const panels = (width, rows, step) => {
  const counts = distinctValues(rows, "connections");
  const columns = width < 560 ? Math.min(2, counts.length) : counts.length;
  const place = (row) => counts.indexOf(row.connections);
  const names = modelNames(rows);
  const lines = Math.ceil(counts.length / columns);
  const marginLeft = Math.ceil(Math.max(...names.map((name) => widthOf(name, 12)))) + 10;
  return {
    names,
    fx: (row) => place(row) % columns,
    fy: (row) => Math.floor(place(row) / columns),
    // The facets of all panels, for marks that each of them has.
    facets: counts.map((connections) => ({ connections })),
    panelWidth: ((width - marginLeft - 14) / columns) * (columns > 1 ? 0.9 : 1),
    options: {
      width,
      height: lines * (names.length * step + (lines > 1 ? 34 : 6)) + (lines > 1 ? 14 : 42),
      marginTop: 18,
      marginLeft,
      marginRight: 14,
      marginBottom: 24,
      y: { type: "band", domain: names, padding: 0.28 },
      fx: { axis: null, paddingInner: columns > 1 ? 0.1 : 0, paddingOuter: 0, domain: d3.range(columns) },
      fy: { axis: null, paddingInner: lines > 1 ? 0.2 : 0, paddingOuter: 0, domain: d3.range(lines) },
    },
    titles: Plot.text(counts, {
      text: (n) => plural(n, "connection"),
      fx: (n) => counts.indexOf(n) % columns,
      fy: (n) => Math.floor(counts.indexOf(n) / columns),
      frameAnchor: "top-left",
      dy: -15,
      fill: "var(--dim)",
    }),
    axisY: Plot.axisY({ tickSize: 0, label: null, fill: "currentColor" }),
    narrow: width < 560,
  };
};

// The ticks of a panel's axis; a narrow one labels every second tick of a log axis.
const panelAxis = (axis, width, narrow, tickFormat) => {
  const ticks = ticksOf(axis, Math.max(2, Math.floor(width / 46)));
  const sparse = narrow && axis.kind === "log" && ticks.length > 2;
  return [
    ...gridOf(axis, ticks, "x"),
    Plot.frame({ anchor: "bottom", stroke: "var(--line)" }),
    Plot.axisX(ticks, { tickSize: 0, fill: "var(--dim)", label: null, text: (v, i) => (sparse && i % 2 ? "" : tickFormat(v)) }),
  ];
};

const LATENCIES = [
  { key: "p50_us", word: "p50", dy: -6 },
  { key: "p99_us", word: "p99", dy: 0 },
  { key: "p999_us", word: "p99.9", dy: 6 },
];

const latencies = (width, all) => {
  const rows = all.filter((row) => isNumber(row.p50_us) && isNumber(row.p99_us) && row.p50_us > 0);
  if (!rows.length) return [];
  const { fx, fy, panelWidth, options, titles, axisY, narrow } = panels(width, rows, 24);
  const y = "model";
  const stroke = (row) => colour(row.model);
  const lanes = LATENCIES.map((lane) => ({
    ...lane,
    points: rows
      .map((row) => ({ row, model: row.model, connections: row.connections, spread: spreadOf(row, lane.key) }))
      .filter((point) => point.spread),
  }));
  const spreads = lanes.flatMap((lane) => lane.points.map((point) => point.spread));
  const axis = chooseAxis(spreads.map((s) => s.median), spreads.flatMap((s) => [s.lowest, s.highest]));
  const x = (point) => onAxis(axis, point.spread.median);
  const title = (row) =>
    [`${row.model}, ${plural(row.connections, "connection")}`, ...LATENCIES.map(({ key, word }) => spreadLines(word, spreadOf(row, key), us))]
      .filter(Boolean)
      .join("\n");
  const [p50, p99, p999] = lanes;
  return [
    heading("Latency", ["less is better", axisWords(axis)]),
    legend([
      ["p50", '<circle cx="14" cy="7" r="4" fill="currentColor"/>'],
      ["p99", '<path d="M14,2V12" stroke="currentColor" stroke-width="3"/>'],
      ["p99.9", '<circle cx="14" cy="7" r="3" fill="none" stroke="currentColor" stroke-width="1.5"/>'],
      whiskerEntry(mostRounds(spreads)),
    ]),
    plot("throughput", "Latency by model and number of connections, p50 to p99.9", {
      ...options,
      x: scaleOf(axis),
      marks: [
        ...panelAxis(axis, panelWidth, narrow, us),
        titles,
        axisY,
        Plot.ruleY(p99.points, { x1: (point) => onAxis(axis, point.row.p50_us), x2: x, y, fx, fy, stroke, strokeWidth: 9, strokeOpacity: 0.16 }),
        ...lanes.flatMap((lane) => whiskers(lane.points, "x", { y, fx, fy }, { stroke, from: axis.low, dy: lane.dy })),
        Plot.dot(p999.points, { x, y, fx, fy, dy: p999.dy, stroke, fill: "var(--card)", r: 2.6, strokeWidth: 1.5 }),
        Plot.dot(p99.points, { x, y, fx, fy, dy: p99.dy, stroke, strokeWidth: 3, symbol: uprightCap, r: 3 }),
        Plot.dot(p50.points, { x, y, fx, fy, dy: p50.dy, fill: stroke, r: 3.6 }),
        Plot.tip(rows, Plot.pointer({ ...tipLines, x: (row) => onAxis(axis, row.p50_us), y, fx, fy, title, stroke })),
      ],
    }),
  ];
};

const cpuTimes = (width, all) => {
  const points = all
    .filter((row) => isNumber(row.user_us) && isNumber(row.kernel_us))
    .map((row) => ({
      row,
      model: row.model,
      connections: row.connections,
      spread: spreadOf(row, "cpu_us") || spreadOfSum(row, ["user_us", "kernel_us"]),
    }));
  if (!points.length) return [];
  const { fx, fy, facets, panelWidth, options, titles, axisY, narrow } = panels(width, points, 20);
  const y = "model";
  const fill = (point) => colour(point.model);
  const total = (point) => point.spread.median;
  const axis = chooseAxis(points.map(total), points.map((point) => point.spread.highest), { bars: true });
  const isCut = (point) => axis.kind === "broken" && total(point) > axis.high;
  const label = (point) => threeDigits(total(point));
  // Bars end at the break; their values need room beside it.
  const beyond = axis.kind === "broken" ? 26 : 0;
  const words = Math.max(...points.filter((point) => isCut(point) || axis.kind !== "broken").map((point) => widthOf(label(point), 11, 600)), 30) + 8 + beyond;
  const end = axis.high * (panelWidth / Math.max(panelWidth - words, panelWidth * 0.35));
  const perPixel = end / panelWidth;
  const edge = axis.high + beyond * perPixel;
  const at = axis.high + (beyond * perPixel) / 2;
  const clipped = (value) => (axis.kind === "broken" && value > axis.high ? edge : value);
  const title = ({ row, spread }) =>
    [
      `${row.model}, ${plural(row.connections, "connection")}`,
      spreadLines("CPU time", spread, us),
      spreadLines("user", spreadOf(row, "user_us"), us),
      spreadLines("kernel", spreadOf(row, "kernel_us"), us),
    ]
      .filter(Boolean)
      .join("\n");
  // Bars that are cut, and whiskers that go beyond the break.
  const cut = points.filter((point) => axis.kind === "broken" && point.spread.highest > axis.high);
  const broken = axis.kind === "broken";
  return [
    heading("CPU time per message", ["µs, less is better", axisWords(axis, us)]),
    legend([
      ["user", '<rect y="2" width="28" height="10" fill="currentColor"/>'],
      ["kernel", '<rect y="2" width="28" height="10" fill="currentColor" fill-opacity=".38"/>'],
      whiskerEntry(mostRounds(points.map((point) => point.spread)), "end of the bar"),
      broken && ["beyond the axis: cut, the number is the value", BREAK],
    ]),
    plot("throughput", "CPU time per message in microseconds, user and kernel", {
      ...options,
      x: { domain: [0, end] },
      marks: [
        ...panelAxis(axis, panelWidth * (axis.high / end), narrow, threeDigits),
        titles,
        axisY,
        Plot.barX(points, { x1: 0, x2: (point) => clipped(Math.min(point.row.user_us, total(point))), y, fx, fy, fill }),
        Plot.barX(points, { x1: (point) => clipped(Math.min(point.row.user_us, total(point))), x2: (point) => clipped(total(point)), y, fx, fy, fill, fillOpacity: 0.38 }),
        ...whiskers(points.filter((point) => !isCut(point)), "x", { y, fx, fy }, { stroke: "var(--ink)", to: broken ? edge : Infinity }),
        ...(broken ? breakMarks(cut, { x: () => at, y, fx, fy }) : []),
        ...(broken ? breakMarks(facets, { x: () => at, fx, fy, frameAnchor: "bottom" }) : []),
        Plot.text(points, {
          x: (point) => Math.min(clipped(Math.max(total(point), point.spread.highest)), edge),
          y,
          fx,
          fy,
          text: label,
          dx: 6,
          textAnchor: "start",
          fill: (point) => (isCut(point) ? "var(--ink)" : "var(--dim)"),
          fontSize: 11,
          fontWeight: (point) => (isCut(point) ? 600 : 400),
        }),
        Plot.tip(points, Plot.pointer({ ...tipLines, x: (point) => clipped(total(point)), y, fx, fy, title, stroke: fill })),
      ],
    }),
  ];
};

const syscalls = (width, all) => {
  const points = all
    .map((row) => ({ row, model: row.model, connections: row.connections, spread: spreadOf(row, "syscalls_per_message") }))
    .filter((point) => point.spread);
  if (!points.length) return [];
  const { fx, fy, panelWidth, options, titles, axisY, narrow } = panels(width, points, 18);
  const y = "model";
  const stroke = (point) => colour(point.model);
  const spreads = points.map((point) => point.spread);
  const axis = chooseAxis(spreads.map((s) => s.median), spreads.map((s) => s.highest));
  const x = (point) => onAxis(axis, point.spread.median);
  const label = (point) => (point.spread.median < 100 ? point.spread.median.toFixed(2) : threeDigits(point.spread.median));
  // Room for the number to the right of the farthest dot.
  const share = Math.min(0.6, (Math.max(...points.map((point) => widthOf(label(point), 11))) + 12) / panelWidth);
  const end = axis.kind === "log" ? axis.high * (axis.high / axis.low) ** (share / (1 - share)) : axis.high / (1 - share);
  const empty = ({ row }) => spreadLines("empty polls", spreadOf(row, "empty_asks_per_message"), threeDigits);
  return [
    heading("System calls per message", ["less is better", axisWords(axis)]),
    legend([whiskerEntry(mostRounds(spreads), "dot")]),
    plot("throughput", "System calls per message by model and number of connections", {
      ...options,
      x: { ...scaleOf(axis), domain: [axis.low, end] },
      marks: [
        ...panelAxis(axis, panelWidth, narrow, threeDigits),
        titles,
        axisY,
        ...whiskers(points, "x", { y, fx, fy }, { stroke, from: axis.low }),
        Plot.dot(points, { x, y, fx, fy, fill: stroke, r: 3.6 }),
        Plot.text(points, { x: (point) => onAxis(axis, point.spread.highest), y, fx, fy, text: label, dx: 8, textAnchor: "start", fill: "var(--dim)", fontSize: 11 }),
        Plot.tip(
          points,
          Plot.pointer({
            ...tipLines,
            x,
            y,
            fx,
            fy,
            stroke,
            title: (point) =>
              [`${point.model}, ${plural(point.connections, "connection")}`, spreadLines("system calls", point.spread, threeDigits), empty(point)]
                .filter(Boolean)
                .join("\n"),
          }),
        ),
      ],
    }),
  ];
};
