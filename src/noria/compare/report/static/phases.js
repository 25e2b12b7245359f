// Figure 2: waiting and copying, each model in two lanes on one time axis.
"use strict";

const afterSend = (row) => row.handler - (isNumber(row.sent) ? row.sent : 0);

// The medians of a model's rounds: the time from send to handler of its samples, in nanoseconds.
const roundMedians = (rows) => [...d3.rollup(rows, (samples) => d3.median(samples, afterSend), (row) => row.round).values()];

// The sample of each model that is nearest to the median of its rounds; times in µs since the send.
const medianSamples = () => {
  const whole = rowsOf("phases").filter((row) => isNumber(row.handler));
  return modelNames(whole).map((name) => {
    const mine = whole.filter((row) => row.model === name);
    const middle = d3.median(roundMedians(mine));
    const row = d3.least(mine, (a, b) => Math.abs(afterSend(a) - middle) - Math.abs(afterSend(b) - middle) || afterSend(a) - afterSend(b));
    const sent = isNumber(row.sent) ? row.sent : 0;
    const at = (key) => (isNumber(row[key]) ? (row[key] - sent) / 1000 : null);
    return {
      name,
      emptyPolls: isNumber(row.asks) ? row.asks : 0,
      pollStart: at("asked"),
      arrived: at("arrived"),
      ready: at("ready"),
      begin: at("copy_begin"),
      end: at("copy_end"),
      handler: at("handler"),
    };
  });
};

// The segments of a model's lanes: {lane, how, from, to, label}. Lane 0 is the process, 1 the kernel.
const laneSegments = (m) => {
  const model = modelByName.get(m.name) || {};
  const kernelCopies = model.synchronous === false && m.begin === null;
  const arrived = m.arrived === null ? 0 : m.arrived;
  const end = m.end === null ? m.handler : m.end;
  const since = m.pollStart === null ? -Infinity : m.pollStart;
  const found = [];
  const add = (lane, how, from, to, label) => {
    if (to > from) found.push({ m, lane, how, from, to, label });
  };
  add(1, "wait", -Infinity, arrived, "kernel waits for the data");
  if (kernelCopies) {
    add(0, "free", since, end, "process is free");
    add(1, "copy", arrived, end, "kernel copies, then completes the request");
    add(0, "run", end, m.handler, "process takes the completion");
    return found;
  }
  if (m.begin === null) {
    add(0, "wait", since, arrived, model.waits || "process waits in the call");
    add(0, "copy", arrived, end, "in the call: wakes, copies, returns");
  } else if (m.ready === null) {
    const how = m.emptyPolls > 0 || m.name === "nonblocking" ? "poll" : "wait";
    add(0, how, since, m.begin, m.emptyPolls ? `${plural(m.emptyPolls, "poll")} returned EAGAIN` : model.waits || "process waits");
    add(0, "copy", m.begin, end, "process copies");
  } else {
    add(0, "wait", since, m.ready, model.waits || "process waits for readiness");
    add(0, "run", m.ready, m.begin, "process knows of readiness, and calls recv");
    add(0, "copy", m.begin, end, "process copies");
  }
  add(0, "run", end, m.handler, "process calls the handler");
  add(1, "held", arrived, end, "data is in kernel memory");
  return found;
};

// The time axis that all models share, in microseconds since the send. The longest interval without
// an event is cut out if it is long, and so is the time long before the send; the scale is the same
// on both sides of a cut.
const FOLD = 34;
const timeAxis = (samples, left, right, lead, before, after) => {
  const moments = [0, ...samples.flatMap((m) => [m.arrived, m.ready, m.begin, m.end, m.handler])]
    .filter((t) => isNumber(t) && t >= 0)
    .sort((a, b) => a - b);
  const last = moments[moments.length - 1] || 1;
  const gaps = d3.pairs(moments).map(([a, b]) => ({ from: a, to: b }));
  const widest = gaps.reduce((a, b) => (b.to - b.from > a.to - a.from ? b : a), { from: 0, to: 0 });
  const zero = left + lead;
  const room = Math.max(60, right - zero);
  const start = (perPixel) => -lead * perPixel;
  let [fold, perPixel] = [null, last / room];
  if (widest.to - widest.from > 0.4 * last && widest.from > 0) {
    // `before` and `after` are pixels beside the cut that labels need.
    const kept = widest.from + last - widest.to;
    const scale = kept / Math.max(40, room - FOLD - before - after);
    const cut = { from: widest.from + before * scale, to: widest.to - after * scale };
    if (cut.to - cut.from > 0.25 * last) [fold, perPixel] = [cut, scale];
  }
  const shown = last - (fold ? fold.to - fold.from : 0);
  const at = (t) => {
    const time = Math.max(t, start(perPixel));
    if (!fold || time <= fold.from) return zero + time / perPixel;
    const middle = zero + fold.from / perPixel;
    if (time < fold.to) return middle + ((time - fold.from) / (fold.to - fold.from)) * FOLD;
    return middle + FOLD + (time - fold.to) / perPixel;
  };
  const step = d3.tickStep(0, shown, Math.max(2, (right - zero) / 90));
  const ticks = d3
    .range(0, last + step / 2, step)
    .filter((t) => !fold || t < fold.from - step * 0.1 || t > fold.to + step * 0.1);
  return { at, start: start(perPixel), fold, ticks };
};

// Text on a hatched bar, with a background.
const boxedText = (layer, x, y, words, size) => {
  layer
    .append("rect")
    .attr("x", x - 4)
    .attr("y", y - size * 0.62)
    .attr("width", widthOf(words, size) + 8)
    .attr("height", size * 1.24)
    .attr("rx", 2)
    .attr("fill", "var(--card)")
    .attr("fill-opacity", 0.92);
  text(layer, x, y, words, { size, halo: false });
};

const tear = (layer, x, top, bottom) => {
  const teeth = d3.range(top, bottom + 0.1, 4).map((y, i) => `${x + (i % 2 ? 3 : -1)},${y}`);
  layer.append("path").attr("d", `M${x - 4},${top}L${teeth.join("L")}L${x - 4},${bottom}Z`).attr("fill", "var(--card)");
};

const phases = (width) => {
  const samples = medianSamples();
  if (!samples.length) return [];
  const narrow = width < 620;
  const LANE = narrow ? 13 : 16;
  const head = narrow ? 20 : 0;
  const band = head + 2 * LANE + 3 + (narrow ? 12 : 18);
  const names = Math.max(...samples.map((m) => widthOf(m.name, 13, 600)));
  const left = narrow ? 50 : Math.ceil(names) + 76;
  const handlerLabel = (m) => `handler ${us(m.handler)}`;
  // The label of the handler stands beside its mark on a wide page, above the lanes on a narrow one.
  const words = Math.ceil(Math.max(...samples.map((m) => widthOf(handlerLabel(m), 12, 600)))) + 16;
  const right = width - (narrow ? 8 : words);
  const lead = narrow ? 78 : 120;
  const axis = timeAxis(samples, left, right, lead, narrow ? 10 : words, 14);
  const top = 26;
  const bottom = top + samples.length * band;
  const height = bottom + 40;
  const laneTop = (i, lane) => top + i * band + head + lane * (LANE + 3);
  const order = new Map(samples.map((m, i) => [m.name, i]));
  const all = samples.flatMap(laneSegments).map((segment) => {
    const y1 = laneTop(order.get(segment.m.name), segment.lane);
    return { ...segment, x1: axis.at(segment.from), x2: axis.at(segment.to), y1, y2: y1 + LANE };
  });
  const mid = (d) => (d.y1 + d.y2) / 2;
  const of = (how) => all.filter((segment) => segment.how === how);
  const box = { x1: "x1", x2: "x2", y1: "y1", y2: "y2" };
  const name = (segment) => modelClass(segment.m.name);
  const took = (d) => {
    if (d.from === -Infinity) return `until ${us(d.to)} after the send`;
    const from = d.from < 0 ? `${us(-d.from)} before the send` : us(d.from);
    return `${us(d.to - d.from)}, from ${from} to ${us(d.to)}`;
  };
  const polls = of("poll").flatMap((segment) => pollMarks(segment, axis));
  const svg = plot("phases", "The two phases of each model on one time axis: process above, kernel below", {
    width,
    height,
    margin: 0,
    x: { ...identity, axis: null },
    y: { ...identity, axis: null },
    marks: [
      Plot.ruleX(axis.ticks.map(axis.at), { y1: top - 6, y2: bottom - 6, ...grid }),
      Plot.ruleX([axis.at(0)], { y1: top - 10, y2: bottom - 6, stroke: "var(--dim)", strokeDasharray: "2,3" }),
      Plot.rect(of("wait"), { ...box, fill: (d) => `url(#wait-${name(d)})`, stroke: (d) => colour(d.m.name), strokeOpacity: 0.35, strokeWidth: 1 }),
      Plot.link(of("poll"), { x1: "x1", x2: "x2", y1: mid, y2: mid, stroke: (d) => colour(d.m.name), strokeWidth: 2, strokeDasharray: "2,5" }),
      Plot.ruleX(polls, { x: "x", y1: "y1", y2: "y2", stroke: (d) => colour(d.name), strokeWidth: 1.6 }),
      Plot.link(of("free"), { x1: "x1", x2: "x2", y1: mid, y2: mid, stroke: (d) => colour(d.m.name), strokeWidth: 1.5 }),
      Plot.rect(of("held"), { x1: "x1", x2: "x2", y1: (d) => d.y2 - 4, y2: "y2", fill: (d) => colour(d.m.name), fillOpacity: 0.3 }),
      Plot.rect(of("run"), { ...box, fill: (d) => colour(d.m.name), fillOpacity: 0.26 }),
      Plot.rect(of("copy"), { ...box, fill: (d) => colour(d.m.name) }),
      Plot.tip(
        all,
        Plot.pointer({
          ...tipLines,
          x: (d) => (d.x1 + d.x2) / 2,
          y: mid,
          maxRadius: 60,
          stroke: (d) => colour(d.m.name),
          title: (d) => `${d.m.name}, ${d.lane ? "kernel" : "process"} lane\n${d.label}\n${took(d)}`,
        }),
      ),
    ],
  });
  labelPhases(svg, { samples, axis, top, bottom, left, right, width, narrow, LANE, laneTop, handlerLabel });
  return [phaseKey(), svg, ...handlerTimes(width)];
};

// A mark per empty poll. Only their number is known, so they are spread evenly over the time of polling.
const pollMarks = (segment, axis) => {
  const from = Math.max(segment.from, axis.start);
  const marks = [];
  const count = Math.max(segment.m.emptyPolls, 1);
  const begun = segment.from === -Infinity ? from : segment.from;
  const step = (segment.to - begun) / count;
  let last = -Infinity;
  if (!(step > 0)) return marks;
  const shown = Math.max(0, Math.ceil((from - begun) / step));
  for (let i = shown; i < Math.min(count, shown + 20000); i++) {
    const t = begun + i * step;
    const x = axis.at(t);
    if (x - last < 4) continue;
    last = x;
    marks.push({ x, y1: segment.y1, y2: segment.y2, name: segment.m.name });
  }
  return marks;
};

const labelPhases = (svg, { samples, axis, top, bottom, left, right, width, narrow, LANE, laneTop, handlerLabel }) => {
  const layer = d3.select(svg).append("g").attr("aria-hidden", "true").style("pointer-events", "none");
  const small = narrow ? 10.5 : 11.5;
  if (axis.fold) {
    const x = axis.at(axis.fold.from) + FOLD / 2;
    for (let y = top - 8; y < bottom - 4; y += 8) {
      layer.append("path").attr("d", `M${x - 3},${y}l6,4l-6,4`).attr("stroke", "var(--card)").attr("stroke-width", 9).attr("fill", "none");
    }
    for (const dx of [-5, 5]) {
      const zig = d3.range(top - 8, bottom - 3, 4).map((y, n) => `${x + dx + (n % 2 ? 3 : -3)},${y}`);
      layer.append("path").attr("d", `M${zig.join("L")}`).attr("stroke", "var(--dim)").attr("stroke-opacity", 0.55).attr("fill", "none");
    }
    text(layer, x, bottom + 8, us(axis.fold.to - axis.fold.from), { anchor: "middle", size: 10.5, fill: "var(--dim)" });
    text(layer, x, bottom + 21, "cut out", { anchor: "middle", size: 10.5, fill: "var(--dim)" });
  }
  text(layer, axis.at(0), top - 17, "sent", { anchor: "middle", size: small, fill: "var(--dim)" });
  samples.forEach((m, i) => {
    const [process, kernel] = [laneTop(i, 0), laneTop(i, 1)];
    const low = kernel + LANE;
    if (i) {
      const y = process - (narrow ? 20 : 0) - (narrow ? 6 : 9);
      layer.append("path").attr("d", `M0,${y}H${width}`).attr("stroke", "var(--line)");
    }
    text(layer, 0, narrow ? process - 11 : (process + low) / 2, m.name, { fill: colour(m.name), weight: 600, size: 13 });
    text(layer, left - 8, process + LANE / 2, "process", { anchor: "end", size: small, fill: "var(--dim)" });
    text(layer, left - 8, kernel + LANE / 2, "kernel", { anchor: "end", size: small, fill: "var(--dim)" });
    tear(layer, left, process - 1, low + 1);
    if (m.pollStart !== null && m.pollStart < axis.start) {
      boxedText(layer, left + 8, process + LANE / 2, `since ${us(Math.round(m.pollStart / 10) * 10)}`, small);
    }
    if (m.emptyPolls && m.begin !== null && m.ready === null) {
      const from = axis.at(Math.max(m.arrived || 0, 0)) + 8;
      const words = narrow ? `${grouped(m.emptyPolls)} empty` : plural(m.emptyPolls, "empty poll");
      const until = axis.fold && m.begin > axis.fold.from ? axis.at(axis.fold.from) : axis.at(m.begin);
      if (from + widthOf(words, small) + 8 < until) boxedText(layer, from, process + LANE / 2, words, small);
    }
    const x = axis.at(m.handler);
    layer.append("path").attr("d", `M${x},${process - 3}V${low + 2}`).attr("stroke", "var(--ink)").attr("stroke-width", 1.6);
    layer.append("path").attr("d", `M${x - 4.5},${process - 7}h9l-4.5,6z`).attr("fill", "var(--ink)");
    if (narrow) text(layer, width, process - 11, handlerLabel(m), { anchor: "end", weight: 600 });
    else text(layer, x + 7, process + LANE / 2, handlerLabel(m), { weight: 600 });
  });
  for (const t of axis.ticks) {
    if (axis.fold && Math.abs(axis.at(t) - axis.at(axis.fold.from) - FOLD / 2) < 42) continue;
    text(layer, axis.at(t), bottom + 8, grouped(t), { anchor: "middle", size: small, fill: "var(--dim)" });
  }
  const word = narrow ? "µs since the send" : "microseconds since the send";
  text(layer, left, bottom + 29, word, { size: small, fill: "var(--dim)" });
};

const phaseKey = () =>
  legend([
    ["waiting", '<rect x=".5" y="1.5" width="27" height="11" fill="url(#wait-key)" stroke="currentColor" stroke-opacity=".35"/>'],
    ["polling", '<path d="M0,7H28" stroke="currentColor" stroke-width="2" stroke-dasharray="2,5"/><path d="M4,1V13M14,1V13M24,1V13" stroke="currentColor" stroke-width="1.6"/>'],
    ["copying", '<rect y="1" width="28" height="12" fill="currentColor"/>'],
    ["running", '<rect y="1" width="28" height="12" fill="currentColor" fill-opacity=".26"/>'],
    ["data is in kernel memory", '<rect y="9" width="28" height="4" fill="currentColor" fill-opacity=".3"/>'],
    ["process is free", '<path d="M0,7H28" stroke="currentColor" stroke-width="1.5"/>'],
    ["handler", '<path d="M14,4V14" stroke="var(--ink)" stroke-width="1.6"/><path d="M9.5,0h9l-4.5,6z" fill="var(--ink)"/>'],
  ]);

// The time from send to handler: every sample, and the spread of the rounds' medians. A document
// without rounds of samples has the spread of the samples.
const handlerTimes = (width) => {
  const rows = rowsOf("phases").filter((row) => isNumber(row.handler));
  const several = distinctValues(rows, "round").length > 1;
  const items = modelNames(rows).map((name) => {
    const mine = rows.filter((row) => row.model === name);
    const values = mine.map((row) => afterSend(row) / 1000);
    const medians = roundMedians(mine).map((time) => time / 1000);
    return { name, colour: colour(name), values, spread: several ? { ...spreadOfValues(medians), median: d3.median(medians) } : spreadOfValues(values) };
  });
  const count = mostRounds(items.map((item) => item.spread));
  if (count < 2) return [];
  const of = several ? "rounds" : "samples";
  const { svg, axis } = valueRows(width, items, { figure: "phases", label: "Time from send to handler of every sample", format: us, of });
  return [
    heading("From send to handler", ["less is better", axisWords(axis)]),
    legend([whiskerEntry(count, "dot", of), ["one sample", '<circle cx="14" cy="7" r="2" fill="currentColor" fill-opacity=".5"/>']]),
    svg,
  ];
};
