// Numbers with units. Times are in microseconds.
"use strict";

const digits = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));

const duration = (us) => {
  if (us === null || us === undefined) return "–";
  if (us === 0) return "0";
  if (us < 1) return `${Math.round(us * 1000)} ns`;
  if (us < 1e3) return `${digits(us)} µs`;
  if (us < 1e6) return `${digits(us / 1e3)} ms`;
  if (us < 120e6) return `${digits(us / 1e6)} s`;
  return `${Math.floor(us / 60e6)} min ${Math.round((us % 60e6) / 1e6)} s`;
};

const count = (value) => {
  if (value === null || value === undefined) return "–";
  if (value < 1e5) return Math.round(value).toLocaleString("en-US");
  if (value < 1e9) return `${digits(value / 1e6)} million`;
  return `${digits(value / 1e9)} billion`;
};

const bytes = (value) => {
  if (value === null || value === undefined) return "–";
  for (const [size, unit] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]])
    if (value >= size) return `${digits(value / size)} ${unit}`;
  return `${Math.round(value)} B`;
};

const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)}%`;

const element = (name, properties = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
};

// Steps of an axis of time: 1, 2 or 5 times a power of ten.
const stepOf = (span, most) => {
  const least = span / most;
  const power = 10 ** Math.floor(Math.log10(least));
  return power * [1, 2, 5, 10].find((each) => each * power >= least);
};
