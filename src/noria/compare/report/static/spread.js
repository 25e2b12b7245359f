// The rounds of a value: its median, lowest and highest; whiskers, and legends that say what they are.
"use strict";

// {median, lowest, highest, rounds} of a row's column, or null if it was not measured.
const spreadOf = (row, key) => {
  const median = row[key];
  if (!isNumber(median)) return null;
  const values = ((row.rounds || {})[key] || []).filter(isNumber);
  const end = (name, of) => {
    const value = (row[name] || {})[key];
    return of([median, ...(isNumber(value) ? [value] : values)]);
  };
  return { median, lowest: end("lowest", d3.min), highest: end("highest", d3.max), rounds: Math.max(values.length, 1) };
};

// The spread of the sum of several columns: each round's sum. The median is the sum of the medians.
const spreadOfSum = (row, keys) => {
  if (!keys.every((key) => isNumber(row[key]))) return null;
  const median = d3.sum(keys, (key) => row[key]);
  const columns = keys.map((key) => (row.rounds || {})[key] || []);
  const sums = columns[0].map((_, i) => columns.map((column) => column[i])).filter((values) => values.every(isNumber)).map((values) => d3.sum(values));
  return { median, lowest: d3.min([median, ...sums]), highest: d3.max([median, ...sums]), rounds: Math.max(sums.length, 1) };
};

// The spread of single values, such as samples. With an even number the median is the lower of the middle two.
const spreadOfValues = (values) => {
  const sorted = d3.sort(values.filter(isNumber));
  if (!sorted.length) return null;
  return { median: sorted[(sorted.length - 1) >> 1], lowest: sorted[0], highest: sorted[sorted.length - 1], rounds: sorted.length };
};

// Two numbers of a tooltip: the median, and the ends of the whisker.
const spreadLines = (label, spread, format, of = "rounds") =>
  !spread
    ? ""
    : `${label}${label && " "}${format(spread.median)}` +
      (spread.rounds > 1 ? `\n   lowest ${format(spread.lowest)}, highest ${format(spread.highest)} of ${spread.rounds} ${of}` : "");

const hasWhisker = (spread) => Boolean(spread) && spread.highest > spread.lowest;
const mostRounds = (spreads) => d3.max(spreads.filter(Boolean), (spread) => spread.rounds) || 1;

// The caps of whiskers, as symbols of a dot.
const CAP = 3.5;
const uprightCap = { draw: (path) => (path.moveTo(0, -CAP), path.lineTo(0, CAP)) };
const levelCap = { draw: (path) => (path.moveTo(-CAP, 0), path.lineTo(CAP, 0)) };

// Marks of the whiskers of `points`, each with a `spread`. `along` is the axis of the values.
const whiskers = (points, along, channels, { stroke, from = -Infinity, to = Infinity, dy = 0 } = {}) => {
  const shown = points.filter((point) => hasWhisker(point.spread) && point.spread.lowest < to);
  const low = (point) => Math.max(point.spread.lowest, from);
  const high = (point) => Math.min(point.spread.highest, to);
  const options = { ...channels, stroke, strokeWidth: 1.3, dy, className: "whisker" };
  const rule = along === "x" ? Plot.ruleY(shown, { ...options, x1: low, x2: high }) : Plot.ruleX(shown, { ...options, y1: low, y2: high });
  const cap = { ...options, className: "cap", symbol: along === "x" ? uprightCap : levelCap, r: 3 };
  const ends = [low, (point) => (point.spread.highest > to ? null : high(point))];
  return [rule, ...ends.map((end) => Plot.dot(shown, { ...cap, [along]: end }))];
};

// A legend under a heading: pairs of a drawing, 28 by 14 pixels, and words.
const legend = (entries) => {
  const key = document.createElement("ul");
  key.className = "key";
  for (const [words, drawing] of entries.filter(Boolean)) {
    const item = document.createElement("li");
    item.innerHTML = `<svg width="28" height="14" aria-hidden="true">${drawing}</svg>`;
    item.append(words);
    key.append(item);
  }
  return key;
};

const WHISKER = '<path d="M3,7H25M3,3.5V10.5M25,3.5V10.5" stroke="currentColor" stroke-width="1.3"/>';
const DOT = '<circle cx="14" cy="7" r="4" fill="currentColor"/>';
const whiskerEntry = (rounds, mark = "mark", of = "rounds") =>
  rounds > 1 && [`${mark}: median, whisker: lowest to highest of ${rounds} ${of}`, WHISKER + DOT];
