// Figure 1: messages per second, latency and CPU time by number of connections.
"use strict";

const throughput = (width) => {
  const rows = rowsOf("throughput").filter((row) => isNumber(row.connections));
  const measured = rows.filter((row) => isNumber(row.messages_per_second));
  if (!measured.length) return [];
  return [...throughputLines(width, measured), ...latencies(width, rows), ...cpuTimes(width, rows)];
};

const throughputLines = (width, rows) => {
  const names = modelNames(rows);
  const counts = distinctValues(rows, "connections");
  const marginRight = Math.ceil(Math.max(...names.map((name) => widthOf(name, 12, 600)))) + 30;
  const height = Math.round(Math.min(430, Math.max(290, width * 0.46)));
  const frame = { top: 14, right: width - marginRight, bottom: height - 40, left: 46 };
  const x = (row) => row.connections;
  const y = (row) => row.messages_per_second;
  const series = names.map((name) => ({
    name,
    points: rows.filter((row) => row.model === name).sort((a, b) => x(a) - x(b)),
  }));
  const svg = plot("throughput", "Messages per second by number of connections", {
    width,
    height,
    marginTop: frame.top,
    marginRight,
    marginBottom: 40,
    marginLeft: frame.left,
    x: { type: "log", domain: [counts[0] / 1.12, counts[counts.length - 1] * 1.04] },
    y: { domain: [0, d3.max(rows, y) * 1.05] },
    marks: [
      Plot.gridY({ ticks: 5, ...grid }),
      Plot.ruleY([0], { stroke: "var(--dim)" }),
      Plot.axisY({ ticks: 5, tickSize: 0, tickFormat: compact, fill: "var(--dim)", label: null }),
      Plot.axisX(counts, { tickSize: 4, tickFormat: grouped, fill: "var(--dim)", label: "connections", labelAnchor: "center", labelArrow: "none" }),
      ...series.map(({ name, points }) =>
        Plot.line(points, { x, y, stroke: colour(name), strokeWidth: 2.25, curve: "linear" }),
      ),
      Plot.dot(rows, { x, y, r: 3.6, fill: (row) => colour(row.model), stroke: "var(--card)", strokeWidth: 1.2 }),
      Plot.tip(
        rows,
        Plot.pointer({
          x,
          y,
          stroke: (row) => colour(row.model),
          title: (row) =>
            [
              `${row.model}, ${plural(row.connections, "connection")}`,
              `${grouped(Math.round(row.messages_per_second))} messages per second`,
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
  labelLineEnds(svg, series, (row) => sx.apply(x(row)), (row) => sy.apply(y(row)), frame);
  return [heading("Messages per second", "more is better"), svg];
};

// The layout of small panels, one per number of connections, as many in a row as fit.
const panels = (width, rows) => {
  const counts = distinctValues(rows, "connections");
  const columns = width < 560 ? Math.min(2, counts.length) : counts.length;
  const place = (row) => counts.indexOf(row.connections);
  const names = modelNames(rows);
  const lines = Math.ceil(counts.length / columns);
  return {
    names,
    fx: (row) => place(row) % columns,
    fy: (row) => Math.floor(place(row) / columns),
    options: {
      width,
      height: lines * (names.length * 20 + 34) + 14,
      marginTop: 18,
      marginLeft: Math.ceil(Math.max(...names.map((name) => widthOf(name, 12)))) + 10,
      marginRight: 14,
      marginBottom: 24,
      y: { type: "band", domain: names, padding: 0.28 },
      fx: { axis: null, paddingInner: 0.1, paddingOuter: 0, domain: d3.range(columns) },
      fy: { axis: null, paddingInner: 0.2, paddingOuter: 0, domain: d3.range(lines) },
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

const latencies = (width, all) => {
  const rows = all.filter((row) => isNumber(row.p50_us) && isNumber(row.p99_us) && row.p50_us > 0);
  if (!rows.length) return [];
  const { fx, fy, options, titles, axisY, narrow } = panels(width, rows);
  const y = "model";
  const stroke = (row) => colour(row.model);
  const tail = rows.filter((row) => isNumber(row.p999_us));
  const low = d3.min(rows, (row) => row.p50_us) / 1.4;
  const high = d3.max(rows, (row) => Math.max(row.p99_us, row.p999_us || 0)) * 1.4;
  const title = (row) =>
    [
      `${row.model}, ${plural(row.connections, "connection")}`,
      `p50 ${us(row.p50_us)}`,
      `p99 ${us(row.p99_us)}`,
      isNumber(row.p999_us) ? `p99.9 ${us(row.p999_us)}` : "",
    ]
      .filter(Boolean)
      .join("\n");
  return [
    heading("Latency", "dot: p50, bar: up to p99, ring: p99.9; less is better"),
    plot("throughput", "Latency by model and number of connections, p50 to p99.9", {
      ...options,
      x: { type: "log", domain: [low, high] },
      marks: [
        Plot.gridX(logTicks(low, high), grid),
        titles,
        axisY,
        Plot.axisX(logTicks(low, high), { tickSize: 0, fill: "var(--dim)", label: null, tickFormat: (v, i) => (narrow && i % 2 ? "" : us(v)) }),
        Plot.ruleY(tail, { x1: "p99_us", x2: "p999_us", y, fx, fy, stroke, strokeOpacity: 0.4, strokeWidth: 1 }),
        Plot.ruleY(rows, { x1: "p50_us", x2: "p99_us", y, fx, fy, stroke, strokeWidth: 4, strokeOpacity: 0.55 }),
        Plot.dot(tail, { x: "p999_us", y, fx, fy, stroke, fill: "var(--card)", r: 2.4 }),
        Plot.dot(rows, { x: "p50_us", y, fx, fy, fill: stroke, r: 4 }),
        Plot.tip(rows, Plot.pointer({ x: "p50_us", y, fx, fy, title, stroke })),
      ],
    }),
  ];
};

const cpuTimes = (width, all) => {
  const rows = all.filter((row) => isNumber(row.user_us) && isNumber(row.kernel_us));
  if (!rows.length) return [];
  const { fx, fy, options, titles, axisY, narrow } = panels(width, rows);
  const y = "model";
  const fill = (row) => colour(row.model);
  const total = (row) => row.user_us + row.kernel_us;
  const title = (row) =>
    `${row.model}, ${plural(row.connections, "connection")}\nuser ${us(row.user_us)}, kernel ${us(row.kernel_us)}` +
    (isNumber(row.syscalls_per_message) ? `\n${row.syscalls_per_message.toFixed(2)} system calls per message` : "");
  return [
    heading("CPU time per message", "full colour: user, pale: kernel; µs, less is better"),
    plot("throughput", "CPU time per message in microseconds, user and kernel", {
      ...options,
      x: { domain: [0, d3.max(rows, total) * 1.24] },
      marks: [
        Plot.gridX({ ticks: narrow ? 2 : 4, ...grid }),
        titles,
        axisY,
        Plot.axisX({ ticks: narrow ? 2 : 4, tickSize: 0, fill: "var(--dim)", label: null }),
        Plot.barX(rows, { x1: 0, x2: "user_us", y, fx, fy, fill }),
        Plot.barX(rows, { x1: "user_us", x2: total, y, fx, fy, fill, fillOpacity: 0.38 }),
        Plot.text(rows, { x: total, y, fx, fy, text: (row) => threeDigits(total(row)), dx: 4, textAnchor: "start", fill: "var(--dim)", fontSize: 11 }),
        Plot.tip(rows, Plot.pointer({ x: total, y, fx, fy, title, stroke: fill })),
      ],
    }),
  ];
};
