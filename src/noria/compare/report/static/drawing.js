// What the figures share: marks, labels and axes.
"use strict";

const style = { background: "transparent", color: "var(--ink)", fontFamily: "inherit", fontSize: "12px" };
const identity = { type: "identity" };
const halo = { stroke: "var(--card)", strokeWidth: 4 };
const grid = { stroke: "var(--line)", strokeOpacity: 1 };
const tipLines = { lineWidth: 42 }; // em, so that the lines of a tooltip are not wrapped
const sentence = (name) => document.getElementById(`sentence-${name}`).textContent.trim();

// Screen readers read an image's label and description, and not the texts of its axes.
const asImage = (svg) => {
  svg.setAttribute("role", "img");
  return svg;
};

const plot = (name, label, options) =>
  asImage(Plot.plot({ style, ariaLabel: label, ariaDescription: sentence(name), color: identity, ...options }));

const heading = (text, notes = []) => {
  const h = document.createElement("h3");
  h.append(text);
  const small = notes.filter(Boolean).join("; ");
  if (small) {
    const more = document.createElement("small");
    more.textContent = `  ${small}`;
    h.append(more);
  }
  return h;
};

// Places the points of several models side by side around their common x on a log axis, so that their
// whiskers do not hide each other. `pixels` is the distance between the first and the last.
const dodge = (counts, names, room) => {
  const [first, last] = [Math.max(counts[0], 1), Math.max(counts[counts.length - 1], 2)];
  const step = Math.min(6, Math.max(1, (room / (counts.length + 1) / names.length) * 0.55));
  const pixels = step * (names.length - 1);
  const inner = Math.max(room - pixels - 24, 40);
  const perPixel = Math.log(last / first || 2) / inner;
  const place = (n, name) => Math.max(n, 1) * Math.exp((names.indexOf(name) * step - pixels / 2) * perPixel);
  const edge = Math.exp((pixels / 2 + 12) * perPixel);
  return { place, pixels, domain: [first / edge, last * edge] };
};

// Lays out up to two charts side by side, or one below the other in a narrow page. `draw(width)` returns
// the charts, each a list of elements or null.
const sideBySide = (width, narrowest, draw) => {
  const wide = width >= narrowest;
  const drawn = draw(wide ? Math.floor((width - 28) / 2) : width).filter(Boolean);
  if (!drawn.length) return [];
  const pair = document.createElement("div");
  pair.className = "pair";
  pair.style.gridTemplateColumns = wide && drawn.length > 1 ? "1fr 1fr" : "1fr";
  for (const parts of drawn) {
    const cell = document.createElement("div");
    cell.append(...parts);
    pair.append(cell);
  }
  return [pair];
};

// The drawn width of a text, in pixels.
const ruler = document.createElement("canvas").getContext("2d");
const widthOf = (text, size = 12, weight = 400) => {
  ruler.font = `${weight} ${size}px ${getComputedStyle(document.body).fontFamily}`;
  return ruler.measureText(text).width;
};

// Moves labels apart: at least `gap` between two of them, and all between `top` and `bottom`.
const separateLabels = (labels, gap, top, bottom) => {
  labels.sort((a, b) => a.y - b.y);
  labels.forEach((label, i) => {
    label.at = Math.max(label.y, top, i ? labels[i - 1].at + gap : -Infinity);
  });
  for (let i = labels.length - 1, limit = bottom; i >= 0; i--) {
    labels[i].at = Math.min(labels[i].at, limit);
    limit = labels[i].at - gap;
  }
  return labels;
};

const text = (parent, x, y, words, options = {}) =>
  parent
    .append("text")
    .attr("x", x)
    .attr("y", y)
    .attr("dy", "0.32em")
    .attr("fill", options.fill || "currentColor")
    .attr("text-anchor", options.anchor || "start")
    .attr("font-size", options.size || 12)
    .attr("font-weight", options.weight || 400)
    .attr("stroke", options.halo === false ? null : "var(--card)")
    .attr("stroke-width", 4)
    .attr("stroke-linejoin", "round")
    .attr("paint-order", "stroke")
    .attr("stroke-opacity", options.halo === false ? null : 0.9)
    .style("pointer-events", "none")
    .text(words);

// Labels each line with its name: in the right margin if the line ends there, else near its last point.
// Points of the same x are up to `frame.beside` pixels apart.
const labelLineEnds = (svg, series, xOf, yOf, frame) => {
  const layer = d3.select(svg).append("g").attr("aria-hidden", "true");
  const ends = series.map(({ name, points, stops }) => {
    const last = points[points.length - 1];
    return { name, stops, x: xOf(last), y: yOf(last) };
  });
  const edge = Math.max(...ends.map((end) => end.x));
  const atEdge = (end) => end.x > edge - (frame.beside || 0) - 1;
  const margin = separateLabels(ends.filter(atEdge), 14.5, frame.top, frame.bottom - 8);
  for (const end of margin) {
    layer
      .append("path")
      .attr("d", `M${end.x + 6},${end.y}L${edge + 8},${end.y}L${edge + 15},${end.at}`)
      .attr("stroke", colour(end.name))
      .attr("stroke-opacity", 0.55)
      .attr("fill", "none");
    text(layer, edge + 18, end.at, end.name, { fill: colour(end.name), weight: 600 });
  }
  const inked = series.flatMap(({ points }) => {
    const spots = [];
    points.forEach((point, i) => {
      if (!i) return spots.push([xOf(point), yOf(point)]);
      for (let t = 0.05; t <= 1.001; t += 0.05) {
        spots.push([
          xOf(points[i - 1]) * (1 - t) + xOf(point) * t,
          yOf(points[i - 1]) * (1 - t) + yOf(point) * t,
        ]);
      }
    });
    return spots;
  });
  const taken = [];
  for (const end of ends.filter((each) => !atEdge(each))) {
    const tight = frame.right - frame.left < 300;
    const words = tight ? end.name : end.stops ? `${end.name} stops` : `${end.name}: one point`;
    const wide = widthOf(words, 12, 600);
    if (end.stops) {
      layer
        .append("path")
        .attr("d", `M${end.x - 5},${end.y - 5}l10,10m0,-10l-10,10`)
        .attr("stroke", colour(end.name))
        .attr("stroke-width", 2.5)
        .attr("fill", "none");
    }
    const places = [];
    for (const dy of [16, 30, 44, 58, 74, 92, 112].flatMap((d) => [-d, d])) {
      for (const dx of [-wide / 2, 8, -wide - 8]) places.push([end.x + dx, end.y + dy]);
    }
    // Scores a place: high if no line crosses it and it is near the end of its line, never one that
    // another label has.
    const score = ([x, y]) => {
      if (taken.some((box) => x < box.right && box.left < x + wide && Math.abs(y - box.y) < 15)) return -Infinity;
      if (x < frame.left + 2 || x + wide > frame.right || y < frame.top + 4 || y > frame.bottom - 8) return -Infinity;
      const clear = d3.min(inked, ([px, py]) =>
        Math.hypot(Math.max(x - px, 0, px - x - wide), Math.max(Math.abs(py - y) - 7, 0)),
      );
      return Math.min(clear, 12) - (clear < 3 ? 40 : 0) - 0.2 * Math.hypot(x + wide / 2 - end.x, y - end.y);
    };
    const [x, y] = places.reduce((best, place) => (score(place) > score(best) ? place : best));
    if (Math.abs(y - end.y) > 20) {
      const from = Math.min(Math.max(end.x, x + 4), x + wide - 4);
      layer
        .append("path")
        .attr("d", `M${end.x},${end.y + (y < end.y ? -7 : 7)}L${from},${y + (y < end.y ? 8 : -8)}`)
        .attr("stroke", colour(end.name))
        .attr("stroke-opacity", 0.55);
    }
    taken.push({ left: x - 6, right: x + wide + 6, y });
    text(layer, x, y, words, { fill: colour(end.name), weight: 600 });
  }
};

// Ticks of a log axis, to be labelled by `text`: with `tickFormat`, d3 omits labels of a log axis.
// 1, 2 and 5 times powers of ten, or only the powers if those are more than `count`.
const logTicks = (low, high, count = 5) => {
  const powers = d3.range(Math.floor(Math.log10(low)), Math.log10(high)).map((n) => 10 ** n);
  const inside = (values) => values.filter((value) => value >= low && value <= high);
  const all = inside(powers.flatMap((power) => [1, 2, 5].map((k) => k * power)));
  return all.length > Math.max(count, 3) && inside(powers).length > 1 ? inside(powers) : all;
};
