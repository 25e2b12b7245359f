// The noise of the machine: the same server measured against itself, and what disturbed it.
"use strict";

const noise = (width) => {
  const measured = results.noise || {};
  return sideBySide(width, 760, (each) => [sameServer(each, measured), disturbances(each, measured)]);
};

// The words for what a pair measured: all that it says beside the ratio, without what is the same in
// all pairs. Returns that too.
const COLUMNS = {
  messages_per_second: "messages/s",
  cpu_us: "CPU time",
  us_per_message: "round trip",
  cpu_us_per_message: "CPU time",
  first_answer_ms: "first answer",
  p50_us: "p50",
};
const pairWords = (pairs) => {
  const keys = [...new Set(pairs.flatMap(Object.keys))].filter((key) => !["figure", "ratio", "low", "high"].includes(key));
  const common = keys.filter((key) => pairs.length > 1 && pairs.every((pair) => pair[key] === pairs[0][key]));
  const word = (pair, key) => {
    const value = pair[key];
    if (value === null || value === undefined || value === "") return "";
    return isNumber(value) ? (key === "connections" ? plural(value, "connection") : `${grouped(value)} ${key}`) : COLUMNS[value] || String(value);
  };
  const words = (pair, chosen) => chosen.map((key) => word(pair, key)).filter(Boolean).join(", ");
  return { name: (pair) => words(pair, keys.filter((key) => !common.includes(key))), all: pairs.length ? words(pairs[0], common) : "" };
};

// Each pair: the ratio of the same server to itself, with its confidence interval.
const sameServer = (width, { pairs, ratios, same_server: factor }) => {
  const named = Array.isArray(pairs) && pairs.length ? pairs : (ratios || []).map((ratio, i) => ({ pair: i + 1, ratio }));
  const known = named.filter((pair) => pair && isNumber(pair.ratio) && pair.ratio > 0);
  const words = pairWords(known);
  const points = known.map((pair) => {
    const end = (key) => (isNumber(pair[key]) && pair[key] > 0 ? pair[key] : pair.ratio);
    return { name: words.name(pair), ratio: pair.ratio, spread: { median: pair.ratio, lowest: end("low"), highest: end("high"), rounds: 1 } };
  });
  if (!points.length) return null;
  const names = [...new Set(points.map((point) => point.name))];
  const band = isNumber(factor) && factor > 1 ? factor : null;
  const ends = points.flatMap(({ spread }) => [spread.highest, 1 / spread.lowest]);
  const far = 1.03 * Math.max(1.06, band || 1, d3.max(ends));
  const marginLeft = Math.min(Math.ceil(Math.max(...names.map((name) => widthOf(name, 12)))) + 10, Math.round(width * 0.55));
  const ticks = ratioTicks(1 / far, far, width - marginLeft - 12);
  const [x, y, stroke] = ["ratio", "name", "var(--warn)"];
  const svg = plot("noise", "Ratio of the same server to itself, for each pair of measurements", {
    width,
    height: names.length * 22 + 34,
    marginTop: 6,
    marginRight: 14,
    marginBottom: 26,
    marginLeft,
    x: { type: "log", domain: [1 / far, far] },
    y: { type: "band", domain: names, padding: 0.28 },
    marks: [
      band ? Plot.rect([0], { x1: () => 1 / band, x2: () => band, fill: stroke, fillOpacity: 0.14, className: "band" }) : null,
      Plot.gridX(ticks, grid),
      Plot.ruleX([1], { stroke: "var(--dim)" }),
      Plot.axisY({ tickSize: 0, label: null }),
      Plot.axisX(ticks, { tickSize: 0, fill: "var(--dim)", label: null, text: (tick) => `${tick}×` }),
      ...whiskers(points, "x", { y }, { stroke }),
      Plot.dot(points, { x, y, r: 4, fill: stroke, stroke: "var(--card)", strokeWidth: 1 }),
      Plot.tip(
        points,
        Plot.pointer({
          ...tipLines,
          x,
          y,
          stroke,
          title: ({ name, ratio, spread }) =>
            `${name}\n${ratio.toFixed(3)}×` +
            (hasWhisker(spread) ? `\n   confidence interval ${spread.lowest.toFixed(3)} to ${spread.highest.toFixed(3)}` : ""),
        }),
      ),
    ],
  });
  return [
    heading("The same server against itself", [words.all, "1 would be no noise", "log axis"]),
    legend([
      [
        points.some((point) => hasWhisker(point.spread)) ? "dot: median ratio of the rounds, whisker: its confidence interval" : "median ratio of the rounds",
        WHISKER + '<circle cx="14" cy="7" r="4" fill="var(--warn)"/>',
      ],
      band && [`up to ${band.toFixed(2)} times`, '<rect y="1" width="28" height="12" fill="var(--warn)" fill-opacity=".22"/>'],
    ]),
    svg,
  ];
};

const SHARES = [
  ["steal_share", "stolen", "the host gave the core to another machine"],
  ["waited_share", "waited", "the server was ready to run, and waited for its core"],
  ["other_share", "others", "other processes ran on the cores"],
];

const disturbances = (width, measured) => {
  const rows = SHARES.map(([key, name, what]) => ({ name, what, share: measured[key] })).filter((row) => isNumber(row.share));
  if (!rows.length) return null;
  const percent = (row) => `${+(100 * row.share).toPrecision(2)}%`;
  const end = Math.max(0.05, d3.max(rows, (row) => row.share)) * 1.18;
  const svg = plot("noise", "Share of the time in which the measurement was disturbed", {
    width,
    height: rows.length * 50 + 20,
    marginTop: 4,
    marginLeft: 4,
    marginRight: 44,
    marginBottom: 24,
    x: { domain: [0, end] },
    y: { type: "band", domain: rows.map((row) => row.name), padding: 0.62, axis: null },
    marks: [
      Plot.gridX({ ticks: 4, ...grid }),
      Plot.axisX({ ticks: 4, tickSize: 0, fill: "var(--dim)", label: null, tickFormat: (v) => `${+(100 * v).toPrecision(2)}%` }),
      Plot.ruleX([0], { stroke: "var(--dim)" }),
      Plot.barX(rows, { x1: 0, x2: "share", y: "name", fill: "var(--warn)", fillOpacity: 0.75 }),
      Plot.text(rows, { x: 0, y: "name", text: (row) => `${row.name}: ${row.what}`, dy: -17, textAnchor: "start", fill: "var(--ink)", ...halo, fontSize: width < 420 ? 11 : 12 }),
      Plot.text(rows, { x: "share", y: "name", text: percent, dx: 6, textAnchor: "start", fontWeight: 600 }),
    ],
  });
  return [heading("What disturbed the measurement", ["share of the time"]), svg];
};
