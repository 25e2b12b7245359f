// Draws the five figures from the numbers in the page. The sentences and tables are there already;
// whatever goes wrong here, the page still says everything in words.
(() => {
  "use strict";

  const results = JSON.parse(document.getElementById("results").textContent);
  const root = document.documentElement;

  // -- data ---------------------------------------------------------------------------------------

  const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
  const rowsOf = (name) => {
    const rows = results[name] && results[name].rows;
    return Array.isArray(rows) ? rows.filter((row) => row && row.model) : [];
  };
  const models = (Array.isArray(results.models) ? results.models : []).filter((m) => m && m.name);
  const about = new Map(models.map((model) => [model.name, model]));
  const named = (rows) => {
    const present = new Set(rows.map((row) => row.model));
    const listed = models.map((model) => model.name).filter((name) => present.has(name));
    return [...listed, ...[...present].filter((name) => !listed.includes(name))];
  };
  const distinct = (rows, key) =>
    [...new Set(rows.map((row) => row[key]).filter(isNumber))].sort((a, b) => a - b);

  const known = ["blocking", "threaded", "nonblocking", "select", "poll", "epoll", "epoll-edge", "io_uring"];
  const token = (name) => (known.includes(name) ? name : "other");
  const colour = (name) => `var(--m-${token(name)})`;

  // -- words --------------------------------------------------------------------------------------

  const grouped = d3.format(",");
  const short = (value) =>
    value >= 1e6 ? `${+(value / 1e6).toPrecision(3)}M` : value >= 1e4 ? `${+(value / 1e3).toPrecision(3)}k` : grouped(value);
  const figure3 = (value) => (value >= 1000 ? grouped(Math.round(value)) : `${+value.toPrecision(3)}`);
  const us = (value) =>
    Math.abs(value) >= 1000 ? `${value < 0 ? "−" : ""}${+(Math.abs(value) / 1000).toPrecision(3)} ms` : `${value < 0 ? "−" : ""}${figure3(Math.abs(value))} µs`;
  const ms = (value) => `${+value.toPrecision(3)} ms`;
  const plural = (n, noun) => `${grouped(n)} ${noun}${n === 1 ? "" : "s"}`;

  // -- drawing ------------------------------------------------------------------------------------

  const style = { background: "transparent", color: "var(--ink)", fontFamily: "inherit", fontSize: "12px" };
  const identity = { type: "identity" };
  const halo = { stroke: "var(--card)", strokeWidth: 4 };
  const grid = { stroke: "var(--line)", strokeOpacity: 1 };
  const sentence = (name) => document.getElementById(`sentence-${name}`).textContent.trim();

  const plot = (name, label, options) =>
    Plot.plot({ style, ariaLabel: label, ariaDescription: sentence(name), color: identity, ...options });

  const heading = (text, small) => {
    const h = document.createElement("h3");
    h.append(text);
    if (small) {
      const more = document.createElement("small");
      more.textContent = `  ${small}`;
      h.append(more);
    }
    return h;
  };

  // How wide a text is drawn, to leave room for it and no more.
  const ruler = document.createElement("canvas").getContext("2d");
  const widthOf = (text, size = 12, weight = 400) => {
    ruler.font = `${weight} ${size}px ${getComputedStyle(document.body).fontFamily}`;
    return ruler.measureText(text).width;
  };

  // Moves labels apart so that none covers another and all stay between top and bottom.
  const dodge = (labels, gap, top, bottom) => {
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

  // Names the end of every line: in the right margin where the line reaches it, beside its last
  // point where it stops before.
  const nameEnds = (svg, series, xOf, yOf, frame) => {
    const layer = d3.select(svg).append("g").attr("aria-hidden", "true");
    const ends = series.map(({ name, points, stops }) => {
      const last = points[points.length - 1];
      return { name, stops, x: xOf(last), y: yOf(last) };
    });
    const edge = Math.max(...ends.map((end) => end.x));
    const margin = dodge(ends.filter((end) => end.x > edge - 1), 14.5, frame.top, frame.bottom - 8);
    for (const end of margin) {
      layer
        .append("path")
        .attr("d", `M${end.x + 6},${end.y}L${end.x + 13},${end.at}`)
        .attr("stroke", colour(end.name))
        .attr("stroke-opacity", 0.55)
        .attr("fill", "none");
      text(layer, end.x + 16, end.at, end.name, { fill: colour(end.name), weight: 600 });
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
    for (const end of ends.filter((e) => e.x <= edge - 1)) {
      const tight = frame.right - frame.left < 300;
      const words = tight ? end.name : end.stops ? `${end.name} stops` : `${end.name}: only here`;
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
      // The nearest place that no line runs through.
      const room = ([x, y]) => {
        if (x < frame.left + 2 || x + wide > frame.right || y < frame.top + 4 || y > frame.bottom - 8) return -Infinity;
        const clear = d3.min(inked, ([px, py]) =>
          Math.hypot(Math.max(x - px, 0, px - x - wide), Math.max(Math.abs(py - y) - 7, 0)),
        );
        return Math.min(clear, 12) - (clear < 3 ? 40 : 0) - 0.2 * Math.hypot(x + wide / 2 - end.x, y - end.y);
      };
      const [x, y] = places.reduce((best, place) => (room(place) > room(best) ? place : best));
      if (Math.abs(y - end.y) > 20) {
        const from = Math.min(Math.max(end.x, x + 4), x + wide - 4);
        layer
          .append("path")
          .attr("d", `M${end.x},${end.y + (y < end.y ? -7 : 7)}L${from},${y + (y < end.y ? 8 : -8)}`)
          .attr("stroke", colour(end.name))
          .attr("stroke-opacity", 0.55);
      }
      text(layer, x, y, words, { fill: colour(end.name), weight: 600 });
    }
  };

  // The round values of a log axis: powers of ten, and 2 and 5 between them where they are few.
  const decades = (low, high) => {
    const powers = d3.range(Math.ceil(Math.log10(low)), Math.log10(high)).map((n) => 10 ** n);
    if (powers.length > 1) return powers;
    const first = Math.floor(Math.log10(low));
    return d3
      .range(first, Math.log10(high))
      .flatMap((n) => [1, 2, 5].map((k) => k * 10 ** n))
      .filter((v) => v >= low && v <= high);
  };

  // -- 1 throughput -------------------------------------------------------------------------------

  const throughput = (width) => {
    const rows = rowsOf("throughput").filter((row) => isNumber(row.connections));
    const measured = rows.filter((row) => isNumber(row.messages_per_second));
    if (!measured.length) return [];
    return [...throughputLines(width, measured), ...latencies(width, rows), ...processor(width, rows)];
  };

  const throughputLines = (width, rows) => {
    const names = named(rows);
    const counts = distinct(rows, "connections");
    const marginRight = Math.ceil(Math.max(...names.map((name) => widthOf(name, 12, 600)))) + 30;
    const height = Math.round(Math.min(430, Math.max(290, width * 0.46)));
    const frame = { top: 14, right: width - marginRight, bottom: height - 40, left: 46 };
    const x = (row) => row.connections;
    const y = (row) => row.messages_per_second;
    const series = names.map((name) => ({
      name,
      points: rows.filter((row) => row.model === name).sort((a, b) => x(a) - x(b)),
    }));
    const svg = plot("throughput", "Messages a second by number of connections", {
      width,
      height,
      marginTop: frame.top,
      marginRight,
      marginBottom: 40,
      marginLeft: frame.left,
      x: { type: "log", domain: [counts[0] / 1.12, counts[counts.length - 1] * 1.04] },
      y: { domain: [0, d3.max(rows, y) * 1.05] },
      marks: [
        Plot.gridY({ ticks: 5, ...grid }),
        Plot.ruleY([0], { stroke: "var(--dim)" }),
        Plot.axisY({ ticks: 5, tickSize: 0, tickFormat: short, fill: "var(--dim)", label: null }),
        Plot.axisX(counts, { tickSize: 4, tickFormat: grouped, fill: "var(--dim)", label: "connections", labelAnchor: "center", labelArrow: "none" }),
        ...series.map(({ name, points }) =>
          Plot.line(points, { x, y, stroke: colour(name), strokeWidth: 2.25, curve: "linear" }),
        ),
        Plot.dot(rows, { x, y, r: 3.6, fill: (row) => colour(row.model), stroke: "var(--card)", strokeWidth: 1.2 }),
        Plot.tip(
          rows,
          Plot.pointer({
            x,
            y,
            stroke: (row) => colour(row.model),
            title: (row) =>
              [
                `${row.model}, ${plural(row.connections, "connection")}`,
                `${grouped(Math.round(row.messages_per_second))} messages a second`,
                isNumber(row.served) && row.served < row.connections ? `serves ${plural(row.served, "client")} at a time` : "",
                row.note || "",
              ]
                .filter(Boolean)
                .join("\n"),
          }),
        ),
      ],
    });
    const [sx, sy] = [svg.scale("x"), svg.scale("y")];
    nameEnds(svg, series, (row) => sx.apply(x(row)), (row) => sy.apply(y(row)), frame);
    return [heading("Messages a second", "more is better"), svg];
  };

  // Small panels, one a number of connections, as many beside each other as there is room for.
  const panels = (width, rows) => {
    const counts = distinct(rows, "connections");
    const columns = width < 560 ? Math.min(2, counts.length) : counts.length;
    const place = (row) => counts.indexOf(row.connections);
    const names = named(rows);
    const lines = Math.ceil(counts.length / columns);
    return {
      names,
      fx: (row) => place(row) % columns,
      fy: (row) => Math.floor(place(row) / columns),
      options: {
        width,
        height: lines * (names.length * 20 + 34) + 14,
        marginTop: 18,
        marginLeft: Math.ceil(Math.max(...names.map((name) => widthOf(name, 12)))) + 10,
        marginRight: 14,
        marginBottom: 24,
        y: { type: "band", domain: names, padding: 0.28 },
        fx: { axis: null, paddingInner: 0.1, paddingOuter: 0, domain: d3.range(columns) },
        fy: { axis: null, paddingInner: 0.2, paddingOuter: 0, domain: d3.range(lines) },
      },
      titles: Plot.text(counts, {
        text: (n) => plural(n, "connection"),
        fx: (n) => counts.indexOf(n) % columns,
        fy: (n) => Math.floor(counts.indexOf(n) / columns),
        frameAnchor: "top-left",
        dy: -15,
        fill: "var(--dim)",
      }),
      axisY: Plot.axisY({ tickSize: 0, label: null, fill: "currentColor" }),
      narrow: width < 560,
    };
  };

  const latencies = (width, all) => {
    const rows = all.filter((row) => isNumber(row.p50_us) && isNumber(row.p99_us) && row.p50_us > 0);
    if (!rows.length) return [];
    const { fx, fy, options, titles, axisY, narrow } = panels(width, rows);
    const y = "model";
    const stroke = (row) => colour(row.model);
    const tail = rows.filter((row) => isNumber(row.p999_us));
    const low = d3.min(rows, (row) => row.p50_us) / 1.4;
    const high = d3.max(rows, (row) => Math.max(row.p99_us, row.p999_us || 0)) * 1.4;
    const title = (row) =>
      [
        `${row.model}, ${plural(row.connections, "connection")}`,
        `half within ${us(row.p50_us)}`,
        `99% within ${us(row.p99_us)}`,
        isNumber(row.p999_us) ? `99.9% within ${us(row.p999_us)}` : "",
      ]
        .filter(Boolean)
        .join("\n");
    return [
      heading("Latency of one message", "dot p50, bar to p99, ring p99.9; less is better"),
      plot("throughput", "Latency by model and number of connections, p50 to p99.9", {
        ...options,
        x: { type: "log", domain: [low, high] },
        marks: [
          Plot.gridX(decades(low, high), grid),
          titles,
          axisY,
          Plot.axisX(decades(low, high), { tickSize: 0, fill: "var(--dim)", label: null, tickFormat: (v, i) => (narrow && i % 2 ? "" : us(v)) }),
          Plot.ruleY(tail, { x1: "p99_us", x2: "p999_us", y, fx, fy, stroke, strokeOpacity: 0.4, strokeWidth: 1 }),
          Plot.ruleY(rows, { x1: "p50_us", x2: "p99_us", y, fx, fy, stroke, strokeWidth: 4, strokeOpacity: 0.55 }),
          Plot.dot(tail, { x: "p999_us", y, fx, fy, stroke, fill: "var(--card)", r: 2.4 }),
          Plot.dot(rows, { x: "p50_us", y, fx, fy, fill: stroke, r: 4 }),
          Plot.tip(rows, Plot.pointer({ x: "p50_us", y, fx, fy, title, stroke })),
        ],
      }),
    ];
  };

  const processor = (width, all) => {
    const rows = all.filter((row) => isNumber(row.user_us) && isNumber(row.kernel_us));
    if (!rows.length) return [];
    const { fx, fy, options, titles, axisY, narrow } = panels(width, rows);
    const y = "model";
    const fill = (row) => colour(row.model);
    const total = (row) => row.user_us + row.kernel_us;
    const title = (row) =>
      `${row.model}, ${plural(row.connections, "connection")}\nuser ${us(row.user_us)}, kernel ${us(row.kernel_us)}` +
      (isNumber(row.syscalls_per_message) ? `\n${row.syscalls_per_message.toFixed(2)} system calls a message` : "");
    return [
      heading("Processor time of one message", "full colour in the process, pale in the kernel; µs, less is better"),
      plot("throughput", "Processor time a message in microseconds, user and kernel", {
        ...options,
        x: { domain: [0, d3.max(rows, total) * 1.24] },
        marks: [
          Plot.gridX({ ticks: narrow ? 2 : 4, ...grid }),
          titles,
          axisY,
          Plot.axisX({ ticks: narrow ? 2 : 4, tickSize: 0, fill: "var(--dim)", label: null }),
          Plot.barX(rows, { x1: 0, x2: "user_us", y, fx, fy, fill }),
          Plot.barX(rows, { x1: "user_us", x2: total, y, fx, fy, fill, fillOpacity: 0.38 }),
          Plot.text(rows, { x: total, y, fx, fy, text: (row) => figure3(total(row)), dx: 4, textAnchor: "start", fill: "var(--dim)", fontSize: 11 }),
          Plot.tip(rows, Plot.pointer({ x: total, y, fx, fy, title, stroke: fill })),
        ],
      }),
    ];
  };

  // -- 2 the two phases ---------------------------------------------------------------------------

  // The median sample of each model by the time from send to handler, in µs since the send.
  const medians = () => {
    const whole = rowsOf("phases").filter((row) => isNumber(row.handler));
    return named(whole).map((name) => {
      const mine = whole
        .filter((row) => row.model === name)
        .map((row) => {
          const sent = isNumber(row.sent) ? row.sent : 0;
          const at = (key) => (isNumber(row[key]) ? (row[key] - sent) / 1000 : null);
          return {
            name,
            asks: isNumber(row.asks) ? row.asks : 0,
            asked: at("asked"),
            arrived: at("arrived"),
            ready: at("ready"),
            begin: at("copy_begin"),
            end: at("copy_end"),
            handler: at("handler"),
          };
        })
        .sort((a, b) => a.handler - b.handler);
      return mine[Math.floor((mine.length - 1) / 2)];
    });
  };

  // What each lane shows, as pieces {lane, how, from, to, says}. Lanes: 0 process, 1 kernel.
  const pieces = (m) => {
    const model = about.get(m.name) || {};
    const kernelCopies = model.synchronous === false && m.begin === null;
    const arrived = m.arrived === null ? 0 : m.arrived;
    const end = m.end === null ? m.handler : m.end;
    const since = m.asked === null ? -Infinity : m.asked;
    const found = [];
    const add = (lane, how, from, to, says) => {
      if (to > from) found.push({ m, lane, how, from, to, says });
    };
    add(1, "wait", -Infinity, arrived, "kernel waits for the data");
    if (kernelCopies) {
      add(0, "free", since, end, "process is free");
      add(1, "copy", arrived, end, "kernel copies, and tells only then");
      add(0, "run", end, m.handler, "process takes the completion");
      return found;
    }
    if (m.begin === null) {
      add(0, "wait", since, arrived, model.waits || "process waits in the call");
      add(0, "copy", arrived, end, "in the call: it wakes, copies and returns");
    } else if (m.ready === null) {
      const how = m.asks > 0 || m.name === "nonblocking" ? "ask" : "wait";
      add(0, how, since, m.begin, m.asks ? `asks in vain: ${m.asks}` : model.waits || "process waits");
      add(0, "copy", m.begin, end, "process copies");
    } else {
      add(0, "wait", since, m.ready, model.waits || "process waits to be told");
      add(0, "run", m.ready, m.begin, "process was told, and asks for the data");
      add(0, "copy", m.begin, end, "process copies");
    }
    add(0, "run", end, m.handler, "on the way to the handler");
    add(1, "held", arrived, end, "data lies in kernel memory");
    return found;
  };

  // One time axis for all: microseconds since the send. A long empty stretch is folded, with the
  // same scale on both sides of the fold, and so is everything long before the send.
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
      // Pixels that stay before the fold, for the words beside the last mark there, and after it.
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

  // Words on a hatched bar, on a plate of their own so that they can be read.
  const plate = (layer, x, y, words, size) => {
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
    const samples = medians();
    if (!samples.length) return [];
    const narrow = width < 620;
    const LANE = narrow ? 13 : 16;
    const head = narrow ? 20 : 0;
    const band = head + 2 * LANE + 3 + (narrow ? 12 : 18);
    const names = Math.max(...samples.map((m) => widthOf(m.name, 13, 600)));
    const left = narrow ? 50 : Math.ceil(names) + 76;
    const says = (m) => `handler ${us(m.handler)}`;
    // Beside the handler's mark there is room for its words on a wide page; else they go above.
    const words = Math.ceil(Math.max(...samples.map((m) => widthOf(says(m), 12, 600)))) + 16;
    const right = width - (narrow ? 8 : words);
    const lead = narrow ? 78 : 120;
    const axis = timeAxis(samples, left, right, lead, narrow ? 10 : words, 14);
    const top = 26;
    const bottom = top + samples.length * band;
    const height = bottom + 40;
    const laneTop = (i, lane) => top + i * band + head + lane * (LANE + 3);
    const order = new Map(samples.map((m, i) => [m.name, i]));
    const all = samples.flatMap(pieces).map((piece) => {
      const y1 = laneTop(order.get(piece.m.name), piece.lane);
      return { ...piece, x1: axis.at(piece.from), x2: axis.at(piece.to), y1, y2: y1 + LANE };
    });
    const mid = (d) => (d.y1 + d.y2) / 2;
    const of = (how) => all.filter((piece) => piece.how === how);
    const box = { x1: "x1", x2: "x2", y1: "y1", y2: "y2" };
    const name = (piece) => token(piece.m.name);
    const took = (d) => {
      if (d.from === -Infinity) return `until ${us(d.to)} after the send`;
      const from = d.from < 0 ? `${us(-d.from)} before the send` : us(d.from);
      return `${us(d.to - d.from)}, from ${from} to ${us(d.to)}`;
    };
    const asks = of("ask").flatMap((piece) => askMarks(piece, axis));
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
        Plot.link(of("ask"), { x1: "x1", x2: "x2", y1: mid, y2: mid, stroke: (d) => colour(d.m.name), strokeWidth: 2, strokeDasharray: "2,5" }),
        Plot.ruleX(asks, { x: "x", y1: "y1", y2: "y2", stroke: (d) => colour(d.name), strokeWidth: 1.6 }),
        Plot.link(of("free"), { x1: "x1", x2: "x2", y1: mid, y2: mid, stroke: (d) => colour(d.m.name), strokeWidth: 1.5 }),
        Plot.rect(of("held"), { x1: "x1", x2: "x2", y1: (d) => d.y2 - 4, y2: "y2", fill: (d) => colour(d.m.name), fillOpacity: 0.3 }),
        Plot.rect(of("run"), { ...box, fill: (d) => colour(d.m.name), fillOpacity: 0.26 }),
        Plot.rect(of("copy"), { ...box, fill: (d) => colour(d.m.name) }),
        Plot.tip(
          all,
          Plot.pointer({
            x: (d) => (d.x1 + d.x2) / 2,
            y: mid,
            maxRadius: 60,
            stroke: (d) => colour(d.m.name),
            title: (d) => `${d.m.name}, ${d.lane ? "kernel" : "process"} lane\n${d.says}\n${took(d)}`,
          }),
        ),
      ],
    });
    labelPhases(svg, { samples, axis, top, bottom, left, right, width, narrow, LANE, laneTop, says });
    return [phaseKey(), svg];
  };

  // Every ask that found nothing, spread evenly over the time of asking (only their number is known).
  const askMarks = (piece, axis) => {
    const from = Math.max(piece.from, axis.start);
    const marks = [];
    const count = Math.max(piece.m.asks, 1);
    const begun = piece.from === -Infinity ? from : piece.from;
    const step = (piece.to - begun) / count;
    let last = -Infinity;
    if (!(step > 0)) return marks;
    const shown = Math.max(0, Math.ceil((from - begun) / step));
    for (let i = shown; i < Math.min(count, shown + 20000); i++) {
      const t = begun + i * step;
      const x = axis.at(t);
      if (x - last < 4) continue;
      last = x;
      marks.push({ x, y1: piece.y1, y2: piece.y2, name: piece.m.name });
    }
    return marks;
  };

  const labelPhases = (svg, { samples, axis, top, bottom, left, right, width, narrow, LANE, laneTop, says }) => {
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
      if (m.asked !== null && m.asked < axis.start) {
        plate(layer, left + 8, process + LANE / 2, `since ${us(Math.round(m.asked / 10) * 10)}`, small);
      }
      if (m.asks && m.begin !== null && m.ready === null) {
        const from = axis.at(Math.max(m.arrived || 0, 0)) + 8;
        const words = narrow ? `${grouped(m.asks)} in vain` : `${plural(m.asks, "ask")} in vain`;
        const until = axis.fold && m.begin > axis.fold.from ? axis.at(axis.fold.from) : axis.at(m.begin);
        if (from + widthOf(words, small) + 8 < until) plate(layer, from, process + LANE / 2, words, small);
      }
      const x = axis.at(m.handler);
      layer.append("path").attr("d", `M${x},${process - 3}V${low + 2}`).attr("stroke", "var(--ink)").attr("stroke-width", 1.6);
      layer.append("path").attr("d", `M${x - 4.5},${process - 7}h9l-4.5,6z`).attr("fill", "var(--ink)");
      if (narrow) text(layer, width, process - 11, says(m), { anchor: "end", weight: 600 });
      else text(layer, x + 7, process + LANE / 2, says(m), { weight: 600 });
    });
    for (const t of axis.ticks) {
      if (axis.fold && Math.abs(axis.at(t) - axis.at(axis.fold.from) - FOLD / 2) < 42) continue;
      text(layer, axis.at(t), bottom + 8, grouped(t), { anchor: "middle", size: small, fill: "var(--dim)" });
    }
    const word = narrow ? "µs since the send" : "microseconds since the send";
    text(layer, left, bottom + 29, word, { size: small, fill: "var(--dim)" });
  };

  const phaseKey = () => {
    const key = document.createElement("ul");
    key.className = "key";
    const swatches = [
      ["waiting", '<rect x=".5" y="1.5" width="27" height="11" fill="url(#wait-key)" stroke="currentColor" stroke-opacity=".35"/>'],
      ["asking again and again", '<path d="M0,7H28" stroke="currentColor" stroke-width="2" stroke-dasharray="2,5"/><path d="M4,1V13M14,1V13M24,1V13" stroke="currentColor" stroke-width="1.6"/>'],
      ["copying", '<rect y="1" width="28" height="12" fill="currentColor"/>'],
      ["running", '<rect y="1" width="28" height="12" fill="currentColor" fill-opacity=".26"/>'],
      ["data lies in the kernel", '<rect y="9" width="28" height="4" fill="currentColor" fill-opacity=".3"/>'],
      ["process is free", '<path d="M0,7H28" stroke="currentColor" stroke-width="1.5"/>'],
      ["handler", '<path d="M14,4V14" stroke="var(--ink)" stroke-width="1.6"/><path d="M9.5,0h9l-4.5,6z" fill="var(--ink)"/>'],
    ];
    for (const [words, drawing] of swatches) {
      const item = document.createElement("li");
      item.innerHTML = `<svg width="28" height="14" aria-hidden="true">${drawing}</svg>`;
      item.append(words);
      key.append(item);
    }
    return key;
  };

  // -- 3 waiting clients --------------------------------------------------------------------------

  const waiting = (width) => {
    const rows = rowsOf("waiting").filter((row) => isNumber(row.first_answer_ms));
    if (!rows.length) return [];
    const names = named(rows);
    const ranked = names.flatMap((name) =>
      rows
        .filter((row) => row.model === name)
        .sort((a, b) => a.first_answer_ms - b.first_answer_ms)
        .map((row, i, mine) => ({ model: name, ms: row.first_answer_ms, nth: i + 1, of: mine.length })),
    );
    const narrow = width < 620;
    const last = ranked.filter((row) => row.nth === row.of);
    const says = (row) => (narrow ? ms(row.ms) : `last ${ms(row.ms)}`);
    const marginLeft = Math.ceil(Math.max(...names.map((name) => widthOf(name, 12)))) + 12;
    const marginRight = Math.ceil(Math.max(...last.map((row) => widthOf(says(row), 12, 600)))) + 14;
    const step = narrow ? 30 : 36;
    // The second client is pointed out where the first made it wait.
    const hold = results.waiting.hold_ms;
    const queued = ranked.filter((row, i) => row.nth === 2 && isNumber(hold) && row.ms - ranked[i - 1].ms >= 0.8 * hold);
    const svg = plot("waiting", "When each client had its first answer, by model", {
      width,
      height: names.length * step + 64,
      marginTop: 20,
      marginLeft,
      marginRight,
      marginBottom: 44,
      x: { domain: [0, d3.max(ranked, (row) => row.ms)] },
      y: { type: "band", domain: names, padding: 0.34 },
      marks: [
        Plot.gridX({ ticks: narrow ? 4 : 8, ...grid }),
        Plot.axisY({ tickSize: 0, label: null }),
        Plot.axisX({ ticks: narrow ? 4 : 8, tickSize: 0, fill: "var(--dim)", label: "ms from connecting to the first answer", labelAnchor: "center", labelArrow: "none", labelOffset: 38 }),
        Plot.ruleY(last, { x1: 0, x2: "ms", y: "model", stroke: (row) => colour(row.model), strokeOpacity: 0.28, strokeWidth: 2 }),
        Plot.tickX(ranked, { x: "ms", y: "model", stroke: (row) => colour(row.model), strokeWidth: 2.5 }),
        Plot.text(queued, { x: "ms", y: "model", text: (row) => `second client ${ms(row.ms)}`, dx: -1, dy: -step / 2 - 1, textAnchor: "start", fill: "var(--dim)", fontSize: 11.5, ...halo }),
        Plot.text(last, { x: "ms", y: "model", text: says, dx: 9, textAnchor: "start", fontWeight: 600, ...halo, fill: "currentColor" }),
        Plot.tip(
          ranked,
          Plot.pointer({
            x: "ms",
            y: "model",
            stroke: (row) => colour(row.model),
            title: (row) => `${row.model}\nclient ${row.nth} of ${row.of}: ${ms(row.ms)}`,
          }),
        ),
      ],
    });
    return [heading("First answer of each client", "one stroke a client"), svg];
  };

  // -- 4 idle connections -------------------------------------------------------------------------

  const idle = (width) => {
    const rows = rowsOf("idle").filter((row) => isNumber(row.idle));
    const wide = width >= 820;
    const each = wide ? Math.floor((width - 28) / 2) : width;
    const drawn = [
      ["cpu_us_per_message", "Processor time of one message"],
      ["us_per_message", "Time of one message, there and back"],
    ]
      .map(([key, title]) => idleCurves(each, rows, key, title))
      .filter(Boolean);
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

  const idleCurves = (width, all, key, title) => {
    const rows = all.filter((row) => isNumber(row[key]) && row[key] > 0);
    if (!rows.length) return null;
    const names = named(rows);
    const counts = distinct(all, "idle");
    // A log axis has no 0: it stands where 1 would, and says 0.
    const x = (row) => Math.max(row.idle, 1);
    const y = (row) => row[key];
    const marginRight = Math.ceil(Math.max(...names.map((name) => widthOf(name, 12, 600)))) + 28;
    const height = Math.round(Math.min(400, Math.max(300, width * 0.62)));
    const frame = { top: 26, right: width - marginRight, bottom: height - 42, left: 46 };
    const series = names.map((name) => {
      const points = rows.filter((row) => row.model === name).sort((a, b) => a.idle - b.idle);
      const end = points[points.length - 1].idle;
      const refused = all.some((row) => row.model === name && row.idle > end && !isNumber(row[key]));
      return { name, points, stops: refused && points.length > 1 };
    });
    const limit = series.find((one) => one.name === "select" && one.stops);
    const top = Math.max(counts[counts.length - 1], 1);
    const [low, high] = [d3.min(rows, y) / 1.5, d3.max(rows, y) * 1.4];
    const svg = plot("idle", `${title} by number of idle connections`, {
      width,
      height,
      marginTop: frame.top,
      marginRight,
      marginBottom: 42,
      marginLeft: frame.left,
      x: { type: "log", domain: [0.9, Math.max(top, 2) * 1.05] },
      y: { type: "log", domain: [low, high] },
      marks: [
        Plot.gridY(decades(low, high), grid),
        Plot.axisY(decades(low, high), { tickSize: 0, fill: "var(--dim)", label: null, tickFormat: short }),
        Plot.axisX([...new Set(counts.map((n) => Math.max(n, 1)))], {
          tickSize: 4,
          tickFormat: (n) => (n === 1 && counts.includes(0) ? "0" : n >= 1000 && width < 480 ? `${n / 1000}k` : grouped(n)),
          fill: "var(--dim)",
          label: "idle connections",
          labelAnchor: "center",
          labelArrow: "none",
        }),
        limit ? Plot.ruleX([1024], { stroke: colour("select"), strokeDasharray: "3,4", strokeOpacity: 0.8 }) : null,
        ...series.map(({ name, points }) => Plot.line(points, { x, y, stroke: colour(name), strokeWidth: 2.25 })),
        Plot.dot(
          series.flatMap(({ points, stops }) => (stops ? points.slice(0, -1) : points)),
          { x, y, r: 3.4, fill: (row) => colour(row.model), stroke: "var(--card)", strokeWidth: 1.2 },
        ),
        Plot.tip(
          rows,
          Plot.pointer({
            x,
            y,
            stroke: (row) => colour(row.model),
            title: (row) => [`${row.model}, ${grouped(row.idle)} idle`, `${us(y(row))} a message`, row.note || ""].filter(Boolean).join("\n"),
          }),
        ),
      ],
    });
    const [sx, sy] = [svg.scale("x"), svg.scale("y")];
    if (limit) {
      const words = width < 480 ? "fd 1024" : "fd 1024: select's limit";
      text(d3.select(svg), sx.apply(1024), frame.top - 12, words, { anchor: "middle", size: 11, fill: colour("select") });
    }
    nameEnds(svg, series, (row) => sx.apply(x(row)), (row) => sy.apply(y(row)), frame);
    return [heading(title, "µs"), svg];
  };

  // -- 5 level and edge ---------------------------------------------------------------------------

  const triggers = (width) => {
    const rows = rowsOf("triggers").filter((row) => isNumber(row.told) && isNumber(row.asks) && row.asks > 0);
    if (!rows.length) return [];
    const several = distinct(rows, "unread_bytes").length > 1;
    const label = (row) => row.model + (several ? `, ${grouped(row.unread_bytes)} B` : "");
    const most = d3.max(rows, (row) => row.asks);
    const cells = rows.flatMap((row) =>
      d3.range(Math.min(row.asks, 40)).map((i) => ({ ...row, label: label(row), i: i + 1, heard: i < row.told })),
    );
    const names = rows.map(label);
    const narrow = width < 620;
    const marginLeft = Math.ceil(Math.max(...names.map((name) => widthOf(name, 12)))) + (narrow ? 12 : 66);
    const says = (row) => `told ${row.told} of ${row.asks}`;
    const marginRight = Math.ceil(Math.max(...rows.map((row) => widthOf(says(row), 12, 600)))) + 16;
    const step = 34;
    // A square a turn, never wider than it is good to look at.
    const room = Math.min(width - marginLeft - marginRight, Math.min(most, 40) * 64);
    const svg = plot("triggers", "In which asks each trigger told of the unread data", {
      width,
      height: rows.length * step + 28,
      marginTop: 24,
      marginLeft,
      marginRight: width - marginLeft - room,
      marginBottom: 4,
      x: { type: "band", domain: d3.range(1, Math.min(most, 40) + 1), padding: 0.12 },
      y: { type: "band", domain: names, padding: 0.22 },
      marks: [
        Plot.axisX({ anchor: "top", tickSize: 0, label: null, fill: "var(--dim)", tickFormat: (n) => (most <= 12 || n % 5 === 0 ? `${n === 1 && !narrow ? "ask " : ""}${n}` : "") }),
        Plot.axisY({ tickSize: 0, label: null }),
        Plot.cell(cells.filter((c) => c.heard), { x: "i", y: "label", fill: (c) => colour(c.model), rx: 3 }),
        Plot.cell(cells.filter((c) => !c.heard), { x: "i", y: "label", fill: "none", stroke: (c) => colour(c.model), strokeOpacity: 0.55, strokeDasharray: "3,3", rx: 3, inset: 0.5 }),
        Plot.text(rows, { y: label, text: says, frameAnchor: "right", dx: 10, textAnchor: "start", fontWeight: 600 }),
        narrow ? null : Plot.text(rows, { y: label, text: (row) => row.trigger || "", frameAnchor: "left", dx: 10 - marginLeft, textAnchor: "start", fill: "var(--dim)" }),
        Plot.tip(
          cells,
          Plot.pointer({
            x: "i",
            y: "label",
            stroke: (c) => colour(c.model),
            title: (c) => `${c.label}, ${c.trigger}\nask ${c.i}: ${c.heard ? "told of the data" : "silent, the data still unread"}`,
          }),
        ),
      ],
    });
    return [heading("Told of the same unread data", "full: told; dashed: silent"), svg];
  };

  // -- the page -----------------------------------------------------------------------------------

  const drawings = { throughput, phases, waiting, idle, triggers };

  const patterns = () => {
    const defs = d3.select("#patterns").append("defs");
    const one = (id, stroke) => {
      const pattern = defs
        .append("pattern")
        .attr("id", id)
        .attr("width", 5)
        .attr("height", 5)
        .attr("patternUnits", "userSpaceOnUse")
        .attr("patternTransform", "rotate(45)");
      pattern.append("rect").attr("width", 5).attr("height", 5).attr("fill", stroke).attr("fill-opacity", 0.07);
      pattern.append("path").attr("d", "M1,0V5").attr("stroke", stroke).attr("stroke-width", 1.5);
    };
    for (const name of [...known, "other"]) one(`wait-${name}`, `var(--m-${name})`);
    one("wait-key", "var(--dim)");
  };

  const draw = (chart) => {
    const width = Math.floor(chart.clientWidth);
    if (width < 60 || chart.drawnAt === width) return;
    chart.drawnAt = width;
    const drawn = drawings[chart.dataset.chart](width);
    chart.replaceChildren(...drawn);
    // Then the sentence alone says that nothing was measured. (Hidden only now: what is hidden has
    // no width to draw in.)
    chart.classList.toggle("nothing", !drawn.length);
  };

  const options = () => new URLSearchParams(location.hash.slice(1));

  const remembered = () => {
    try {
      return localStorage.getItem("noria-theme");
    } catch {
      return null; // a file opened from disk may have no storage
    }
  };

  const wantsDark = () => matchMedia("(prefers-color-scheme: dark)").matches;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : wantsDark());

  const apply = () => {
    const asked = options();
    const only = asked.get("only");
    const theme = asked.get("theme") || remembered();
    if (theme === "dark" || theme === "light") root.dataset.theme = theme;
    else delete root.dataset.theme;
    if (only in drawings) root.dataset.only = only;
    else delete root.dataset.only;
    for (const section of document.querySelectorAll(".figure")) {
      section.toggleAttribute("data-picked", section.dataset.figure === only);
    }
    document.getElementById("theme-word").textContent = isDark() ? "light" : "dark";
  };

  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("noria-theme", theme);
    } catch {
      // then it holds until the page is closed
    }
    const asked = options();
    if (asked.has("theme")) {
      asked.set("theme", theme);
      location.hash = asked.toString();
    }
    root.dataset.theme = theme;
    document.getElementById("theme-word").textContent = theme === "dark" ? "light" : "dark";
  });

  for (const chip of document.querySelectorAll(".chip")) chip.style.background = colour(chip.dataset.model);

  // On paper nothing can be unfolded: the numbers are printed with their figures.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("main details:not([open])")];
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });

  addEventListener("hashchange", apply);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  apply();
  patterns();
  const charts = [...document.querySelectorAll(".chart")];
  charts.forEach(draw);
  const observer = new ResizeObserver((entries) => {
    requestAnimationFrame(() => entries.forEach((entry) => draw(entry.target)));
  });
  charts.forEach((chart) => observer.observe(chart));
  root.dataset.drawn = String(document.querySelectorAll(".chart svg").length);
})();
