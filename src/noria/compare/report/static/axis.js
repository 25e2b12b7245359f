// One rule for the axes of all figures, so that no value flattens the others.
//
// An axis is linear and begins at 0 if at least half of its values reach a tenth of its length.
// Otherwise it is logarithmic; bars need a zero, so theirs is linear and broken instead: it ends after
// the largest value below ten times the median, and a longer bar is cut and has its value beside it.
"use strict";

const FLATTENED = 10;

// `medians`: the values to tell apart; `ends`: the ends of their whiskers.
// Returns {kind: "linear" | "log" | "broken", low, high}, the ends of the axis.
const chooseAxis = (medians, ends = [], { bars = false } = {}) => {
  const values = medians.filter((value) => isNumber(value) && value > 0);
  const all = [...values, ...ends.filter((value) => isNumber(value) && value > 0)];
  if (!values.length) return { kind: "linear", low: 0, high: 1 };
  const limit = FLATTENED * d3.median(values);
  const high = d3.max(all);
  if (high <= limit) return { kind: "linear", low: 0, high: high * 1.05 };
  if (!bars) return { kind: "log", low: d3.min(all) / 1.3, high: high * 1.3 };
  return { kind: "broken", low: 0, high: d3.max(all.filter((value) => value <= limit)) * 1.05 };
};

// A value's place on the axis: a log axis has no 0, which is drawn at its end.
const onAxis = (axis, value) => (axis.kind === "log" ? Math.max(value, axis.low) : value);

const scaleOf = (axis) => ({ type: axis.kind === "log" ? "log" : "linear", domain: [axis.low, axis.high] });

// About `count` ticks at most.
const ticksOf = (axis, count) =>
  axis.kind === "log" ? logTicks(axis.low, axis.high, count) : d3.ticks(axis.low, axis.high, count).filter((tick) => tick <= axis.high);

// The grid. That of a log axis has the lines of log paper, so that it is not taken for a linear one.
const gridOf = (axis, ticks, along) => {
  const lines = along === "x" ? Plot.gridX : Plot.gridY;
  if (axis.kind !== "log") return [lines(ticks, grid)];
  const powers = d3.range(Math.floor(Math.log10(axis.low)), Math.log10(axis.high)).map((n) => 10 ** n);
  const fine = powers.flatMap((power) => d3.range(1, 10).map((k) => k * power)).filter((v) => v > axis.low && v < axis.high);
  return [lines(fine, { ...grid, strokeOpacity: 0.5, className: "log-grid" }), lines(ticks, grid)];
};

// What a heading says of the axis: a reader must not take a log axis for a linear one.
const axisWords = (axis, format = String) =>
  axis.kind === "log" ? "log axis" : axis.kind === "broken" ? `axis broken at ${format(axis.high)}` : "";

// The sign of a break, two slanted strokes with the ground between them, at points of a plot.
const breakGround = { draw: (path) => (path.moveTo(-5, 7), path.lineTo(1, -7), path.lineTo(5, -7), path.lineTo(-1, 7), path.closePath()) };
const breakStrokes = { draw: (path) => (path.moveTo(-5, 7), path.lineTo(1, -7), path.moveTo(-1, 7), path.lineTo(5, -7)) };
const breakMarks = (points, channels) => [
  Plot.dot(points, { ...channels, symbol: breakGround, fill: "var(--card)", r: 3, className: "break" }),
  Plot.dot(points, { ...channels, symbol: breakStrokes, stroke: "var(--ink)", strokeWidth: 1.2, r: 3 }),
];
const BREAK = '<rect y="3" width="28" height="8" fill="currentColor" fill-opacity=".38"/><path d="M10,14L16,0H20L14,14Z" fill="var(--card)"/><path d="M10,14L16,0M14,14L20,0" stroke="var(--ink)" stroke-width="1.2"/>';
