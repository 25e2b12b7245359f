// The document of the run, its rows and its models. All scripts of the page share one scope.
"use strict";

const results = JSON.parse(document.getElementById("results").textContent);

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const rowsOf = (name) => {
  const rows = results[name] && results[name].rows;
  return Array.isArray(rows) ? rows.filter((row) => row && row.model) : [];
};
const models = (Array.isArray(results.models) ? results.models : []).filter((m) => m && m.name);
const modelByName = new Map(models.map((model) => [model.name, model]));
const modelNames = (rows) => {
  const present = new Set(rows.map((row) => row.model));
  const listed = models.map((model) => model.name).filter((name) => present.has(name));
  return [...listed, ...[...present].filter((name) => !listed.includes(name))];
};
const distinctValues = (rows, key) =>
  [...new Set(rows.map((row) => row[key]).filter(isNumber))].sort((a, b) => a - b);

const KNOWN_MODELS = ["blocking", "threaded", "nonblocking", "select", "poll", "epoll", "epoll-edge", "io_uring"];
const modelClass = (name) => (KNOWN_MODELS.includes(name) ? name : "other");
const colour = (name) => `var(--m-${modelClass(name)})`;
