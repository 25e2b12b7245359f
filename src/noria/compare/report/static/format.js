// Numbers as text.
"use strict";

const grouped = d3.format(",");
const compact = (value) =>
  value >= 1e6 ? `${+(value / 1e6).toPrecision(3)}M` : value >= 1e4 ? `${+(value / 1e3).toPrecision(3)}k` : grouped(value);
const threeDigits = (value) => (value >= 1000 ? grouped(Math.round(value)) : `${+value.toPrecision(3)}`);
const us = (value) =>
  Math.abs(value) >= 1000 ? `${value < 0 ? "−" : ""}${+(Math.abs(value) / 1000).toPrecision(3)} ms` : `${value < 0 ? "−" : ""}${threeDigits(Math.abs(value))} µs`;
const ms = (value) => `${+value.toPrecision(3)} ms`;
const plural = (n, noun) => `${grouped(n)} ${noun}${n === 1 ? "" : "s"}`;
