// Rows of dots with whiskers: values, or ratios around 1 in small panels.
"use strict";

// A line per item {name, colour, spread, values}: a dot at the median, a whisker, and small dots at
// the values, if there are any. Returns the drawing and its axis.
const valueRows = (width, items, { figure, label, format, of = "rounds" }) => {
  const axis = chooseAxis(items.map((item) => item.spread.median), items.flatMap((item) => [item.spread.lowest, item.spread.highest, ...(item.values || [])]));
  const names = items.map((item) => item.name);
  const words = (item) => format(item.spread.median);
  const marginLeft = Math.ceil(Math.max(...names.map((name) => widthOf(name, 12)))) + 12;
  const marginRight = Math.ceil(Math.max(...items.map((item) => widthOf(words(item), 12, 600)))) + 16;
  const ticks = ticksOf(axis, width < 560 ? 4 : 8);
  const x = (item) => onAxis(axis, item.spread.median);
  const y = "name";
  const stroke = (item) => item.colour;
  const singles = items.flatMap((item) => (item.values || []).map((value) => ({ ...item, value: onAxis(axis, value) })));
  const svg = plot(figure, label, {
    width,
    height: items.length * 22 + 34,
    marginTop: 8,
    marginLeft,
    marginRight,
    marginBottom: 26,
    x: scaleOf(axis),
    y: { type: "band", domain: names, padding: 0.28 },
    marks: [
      ...gridOf(axis, ticks, "x"),
      Plot.axisY({ tickSize: 0, label: null }),
      Plot.axisX(ticks, { tickSize: 0, fill: "var(--dim)", label: null, text: format }),
      Plot.dot(singles, { x: "value", y, fill: stroke, fillOpacity: 0.45, r: 2.2 }),
      ...whiskers(items, "x", { y }, { stroke, from: axis.low }),
      Plot.dot(items, { x, y, fill: stroke, r: 4, stroke: "var(--card)", strokeWidth: 1 }),
      Plot.text(items, { y, text: words, frameAnchor: "right", dx: marginRight, textAnchor: "end", fontWeight: 600 }),
      Plot.tip(items, Plot.pointer({ ...tipLines, x, y, stroke, title: (item) => `${item.name}\n${spreadLines("", item.spread, format, of)}` })),
    ],
  });
  return { svg, axis };
};

const times = (ratio) => `${ratio >= 10 ? ratio.toFixed(1) : ratio.toFixed(2)}×`;

// Ticks of a log axis of ratios: 1, and steps on both sides that the range decides.
const ratioTicks = (low, high, room) => {
  const sets = [
    [0.8, 0.9, 1, 1.1, 1.25],
    [0.33, 0.5, 0.75, 1, 1.5, 2, 3],
    [0.25, 0.5, 1, 2, 4],
    [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100],
    [0.01, 0.1, 1, 10, 100],
  ];
  const inside = (set) => set.filter((tick) => tick >= low && tick <= high);
  const widest = Math.max(low < 1 ? 1 / low : 1, high);
  let set = sets[widest < 1.4 ? 0 : widest < 3.5 ? 1 : widest < 12 ? 2 : 3];
  if (set === sets[3] && room / inside(set).length < 36) set = sets[4];
  const ticks = inside(widest >= 6 && widest < 12 ? [...set, 8] : set);
  return room / ticks.length < 30 ? ticks.filter((tick) => tick === 1 || tick === d3.max(ticks) || tick === d3.min(ticks)) : ticks;
};

// Small panels of ratios, a line for each item, all on one log axis around 1.
//
// `panels`: [{title, note, base, items}]; `base` is the name of what has the ratio 1. An item: {name, colour, ratio, low, high, lowest, highest, rounds,
// text, missing}. `ratio` is the median of the rounds, `low` and `high` its confidence interval,
// `lowest` and `highest` the ends of the rounds, `text` the value itself, `missing` why there is none.
// Only `name` and either `ratio` or `missing` are required.
const ratioPanels = (width, panels) => {
  const items = panels.flatMap((panel) => panel.items).filter((item) => isNumber(item.ratio));
  if (!items.length) return [];
  // Not the ends of the intervals: those of few and noisy rounds may be a hundred times as long.
  const ends = items.flatMap((item) => [item.ratio, item.lowest, item.highest]).filter((value) => isNumber(value) && value > 0);
  const [low, high] = [Math.min(0.92, d3.min(ends) / 1.06), Math.max(1.09, d3.max(ends) * 1.06)];
  // Four panels in two columns, so that none is alone in the second line.
  const columns = width >= 860 ? Math.min(panels.length === 4 ? 2 : 3, panels.length) : width >= 540 ? Math.min(2, panels.length) : 1;
  const gap = 26;
  const each = Math.floor((width - gap * (columns - 1)) / columns);
  const place = document.createElement("div");
  place.className = "panels";
  place.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  for (const panel of panels) {
    const cell = document.createElement("div");
    const title = document.createElement("h4");
    title.append(panel.title);
    if (panel.note) {
      const note = document.createElement("small");
      note.textContent = `  ${panel.note}`;
      title.append(note);
    }
    cell.append(title, ratioPanel(each, panel, low, high));
    place.append(cell);
  }
  const rounds = d3.max(items, (item) => item.rounds) || 1;
  const hasInterval = items.some((item) => isNumber(item.low) && isNumber(item.high));
  return [
    legend([
      whiskerEntry(rounds, "dot"),
      hasInterval && ["97% confidence interval", '<path d="M4,7H24" stroke="currentColor" stroke-width="6" stroke-opacity=".38"/>'],
      ["log axis", '<path d="M1,10.5H27M1,7V10.5M12,7V10.5M18,7V10.5M22.5,7V10.5M26.5,7V10.5" stroke="currentColor" fill="none"/>'],
    ]),
    place,
  ];
};

const ratioPanel = (width, panel, low, high) => {
  const { base = "" } = panel;
  if (!panel.items.some((item) => isNumber(item.ratio))) {
    const reasons = document.createElement("p");
    reasons.className = "note";
    reasons.textContent = [...new Set(panel.items.map((item) => item.missing || "not measured"))].join("; ");
    return reasons;
  }
  const names = panel.items.map((item) => item.name);
  const measured = panel.items.filter((item) => isNumber(item.ratio));
  const missing = panel.items.filter((item) => !isNumber(item.ratio));
  const points = measured.map((item) => ({
    ...item,
    spread: { median: item.ratio, lowest: isNumber(item.lowest) ? item.lowest : item.ratio, highest: isNumber(item.highest) ? item.highest : item.ratio, rounds: item.rounds || 1 },
  }));
  const marginLeft = Math.ceil(Math.max(...names.map((name) => widthOf(name, 12)))) + 10;
  const marginRight = Math.ceil(Math.max(...measured.map((item) => widthOf(times(item.ratio), 12, 600)), 0)) + 12;
  const ticks = ratioTicks(low, high, width - marginLeft - marginRight);
  const y = "name";
  const x = "ratio";
  const stroke = (item) => item.colour || "var(--m-other)";
  const tip = (item) =>
    [
      item.name === base ? `${item.name}, the base` : `${item.name} to ${base || "the base"}`,
      spreadLines("ratio", item.spread, times),
      isNumber(item.low) && isNumber(item.high) ? `confidence interval ${times(item.low)} to ${times(item.high)}` : "",
      item.text || "",
    ]
      .filter(Boolean)
      .join("\n");
  const svg = Plot.plot({
    style,
    ariaLabel: `${panel.title}: ratios to ${base || "the base"}`,
    ariaDescription: measured.map((item) => `${item.name} ${times(item.ratio)}`).join(", "),
    color: identity,
    width,
    height: names.length * 20 + 30,
    marginTop: 6,
    marginLeft,
    marginRight,
    marginBottom: 24,
    x: { type: "log", domain: [low, high] },
    y: { type: "band", domain: names, padding: 0.24 },
    marks: [
      Plot.gridX(ticks, grid),
      Plot.ruleX([1], { stroke: "var(--dim)" }),
      Plot.axisY({ tickSize: 0, label: null }),
      Plot.axisX(ticks, { tickSize: 0, fill: "var(--dim)", label: null, text: (tick) => `${tick}×` }),
      Plot.ruleY(points.filter((item) => isNumber(item.low) && isNumber(item.high)), { x1: (item) => Math.max(item.low, low), x2: (item) => Math.min(item.high, high), y, stroke, strokeOpacity: 0.38, strokeWidth: 7 }),
      ...whiskers(points, "x", { y }, { stroke }),
      Plot.dot(points, { x, y, fill: stroke, r: 3.8, stroke: "var(--card)", strokeWidth: 1 }),
      Plot.text(points, { y, text: (item) => times(item.ratio), frameAnchor: "right", dx: marginRight, textAnchor: "end", fontWeight: 600 }),
      Plot.text(missing, { y, text: (item) => item.missing || "not measured", frameAnchor: "left", dx: 4, textAnchor: "start", fill: "var(--dim)", fontSize: 11, lineWidth: (width - marginLeft) / 11, textOverflow: "ellipsis", ...halo }),
      Plot.tip(points, Plot.pointer({ ...tipLines, x, y, stroke, title: tip })),
    ],
  });
  return asImage(svg);
};
