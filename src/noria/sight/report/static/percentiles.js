// Cards with the percentiles of delays, and the shape of their distribution.
"use strict";

const DELAYS = [
  ["turn", "Turn time", "of the handlers of one pass of the loop"],
  ["queue_delay", "Queue delay", "from an event's arrival in the queue to its handler"],
  ["lateness", "Timer lateness", "from when a timer was due to when it was queued"],
  ["handler", "Handler time", "of each callback, task step and I/O event"],
];

const drawShape = (canvas, buckets) => {
  const ratio = devicePixelRatio || 1;
  const width = canvas.clientWidth || 240;
  const height = 46;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const shown = buckets.filter((bucket) => bucket[1] && bucket[0] > 0);
  if (!shown.length) return;
  const least = Math.log10(shown[0][0]);
  const largest = Math.log10(shown[shown.length - 1][0]);
  const span = Math.max(largest - least, 0.3);
  const columns = new Array(Math.min(60, Math.floor(width / 4))).fill(0);
  for (const [bound, number] of shown) {
    const place = Math.floor(((Math.log10(bound) - least) / span) * (columns.length - 1));
    columns[Math.min(place, columns.length - 1)] += number;
  }
  const top = Math.max(...columns);
  pen.fillStyle = paint("busy");
  columns.forEach((number, i) => {
    if (!number) return;
    const share = Math.log10(1 + number) / Math.log10(1 + top);
    pen.fillRect((i * width) / columns.length, height - Math.max(share * height, 2), width / columns.length - 1, Math.max(share * height, 2));
  });
};

const showDelays = (loop) => {
  const cards = DELAYS.map(([key, title, text]) => {
    const found = loop[key];
    const label = `distribution of ${title.toLowerCase()}, from ${duration(found.p50)} to ${duration(found.longest)}`;
    const canvas = element("canvas", { role: "img", "aria-label": label });
    const figures = ["p50", "p90", "p99", "longest"].map((name) =>
      element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: found.count ? duration(found[name]) : "–" })),
    );
    return element(
      "div",
      { className: "card" },
      element("h3", { textContent: title }),
      element("p", { textContent: found.count ? `${count(found.count)} ${found.count === 1 ? "value" : "values"} ${text}` : `no values ${text}` }),
      element("dl", {}, ...figures),
      canvas,
    );
  });
  byId("delays").replaceChildren(...cards);
  DELAYS.forEach(([key], i) => drawShape(cards[i].querySelector("canvas"), loop[key].buckets));
};
