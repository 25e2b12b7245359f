// The lanes of the timeline. Each draws a range of time, and describes what is at a time.
"use strict";

const HUES = [212, 32, 152, 276, 190, 8, 96, 322, 48, 236];
const hueOf = (text) => {
  let hash = 0;
  for (let i = 0; i < text.length; i++) hash = (hash * 31 + text.charCodeAt(i)) | 0;
  return HUES[Math.abs(hash) % HUES.length];
};
const shade = (text) => `hsl(${hueOf(text)} 52% ${isDark() ? 66 : 62}%)`;

// Call draw(x, width, first, last) for the buckets of each column of pixels, or for each bucket.
const eachColumn = (line, area, draw) => {
  const scale = area.width / (area.end - area.begin);
  const size = line.busy.length;
  const at = (time) => Math.floor((time - line.begin) / line.width);
  const first = Math.max(at(area.begin), 0);
  const last = Math.min(at(area.end) + 1, size);
  const perPixel = Math.max(1 / (line.width * scale), 1);
  for (let i = first; i < last; ) {
    const next = Math.min(Math.max(Math.floor(i + perPixel), i + 1), last);
    const x = area.left + (line.begin + i * line.width - area.begin) * scale;
    // Whole pixels: columns that share one would be seen as stripes.
    const end = Math.ceil(x + (next - i) * line.width * scale);
    draw(Math.floor(x), Math.max(end - Math.floor(x), 1), i, next);
    i = next;
  }
};

const sum = (numbers, first, last) => {
  let total = 0;
  for (let i = first; i < last; i++) total += numbers[i];
  return total;
};
const most = (numbers, first = 0, last = numbers.length) => {
  let found = 0;
  for (let i = first; i < last; i++) if (numbers[i] > found) found = numbers[i];
  return found;
};

// Draw spans [start, duration, …]; those that are narrower than half a pixel are drawn once a pixel.
const eachSpan = (spans, area, draw) => {
  const scale = area.width / (area.end - area.begin);
  let drawn = -1;
  for (const span of spans) {
    const x = area.left + (span[0] - area.begin) * scale;
    const width = span[1] * scale;
    if (x + width < area.left || x > area.left + area.width) continue;
    if (width < 0.5 && Math.floor(x) === drawn) continue;
    drawn = Math.floor(x);
    const from = Math.max(x, area.left);
    draw(from, Math.max(Math.min(x + width, area.left + area.width) - from, 1), span);
  }
};

const clippedText = (pen, text, x, y, width) => {
  pen.save();
  pen.beginPath();
  pen.rect(x, y - 20, width, 40);
  pen.clip();
  pen.fillText(text, x, y);
  pen.restore();
};

const spanAt = (spans, time, slack) => {
  let best = null;
  for (const span of spans)
    if (time >= span[0] - slack && time <= span[0] + span[1] + slack && (!best || span[1] > best[1])) best = span;
  return best;
};

const bucketAt = (line, time) => Math.min(Math.max(Math.floor((time - line.begin) / line.width), 0), line.busy.length - 1);

const loopLane = (loop) => {
  const line = loop.timeline;
  return {
    label: "loop",
    height: 52,
    draw(pen, area) {
      const { top, height } = area;
      eachColumn(line, area, (x, width, first, last) => {
        const span = (last - first) * line.width;
        const busy = Math.min(sum(line.busy, first, last) / span, 1);
        const waits = sum(line.waiting, first, last) / span;
        const gc = Math.min(sum(line.gc, first, last) / span, busy);
        if (waits > 0.002) {
          pen.fillStyle = hatch(pen, "wait");
          pen.fillRect(x, top, width, height * (1 - busy));
        }
        pen.fillStyle = paint("busy");
        pen.fillRect(x, top + height * (1 - busy), width, height * busy);
        if (gc > 0) {
          pen.fillStyle = paint("gc");
          pen.fillRect(x, top + height - height * gc, width, Math.max(height * gc, 2));
        }
      });
      const blocks = loop.blocks.map((block) => [block.start, block.duration]);
      eachSpan(blocks, area, (x, width) => {
        pen.fillStyle = paint("bad");
        pen.fillRect(x, top - 5, Math.max(width, 2), 5);
      });
    },
    describe(time, slack) {
      const found = loop.blocks.find((each) => time >= each.start - slack && time <= each.start + each.duration + slack);
      if (found) {
        const inner = found.stack.length ? found.stack[found.stack.length - 1] : ["", ""];
        return `blocked for ${duration(found.duration)}, ${count(found.waiting)} events waited\n${inner[0]}\n${inner[1]}`;
      }
      const i = bucketAt(line, time);
      return `working ${percent(Math.min(line.busy[i] / line.width, 1))}, ${count(line.events[i])} events in ${duration(line.width)}`;
    },
  };
};

const longestLane = (loop) => {
  const line = loop.timeline;
  const top = Math.max(most(line.longest), loop.max_block || 0, 10);
  const share = (us) => (us < 1 ? 0 : Math.log10(us) / Math.log10(top));
  return {
    label: "longest handler",
    height: 40,
    draw(pen, area) {
      pen.fillStyle = paint("busy");
      eachColumn(line, area, (x, width, first, last) => {
        const height = area.height * share(most(line.longest, first, last));
        pen.globalAlpha = 0.55;
        pen.fillRect(x, area.top + area.height - height, width, height);
        pen.globalAlpha = 1;
        if (height > 0) pen.fillRect(x, area.top + area.height - height, width, 1.5);
      });
      if (loop.max_block) {
        const y = area.top + area.height * (1 - share(loop.max_block));
        pen.strokeStyle = paint("bad");
        pen.setLineDash([4, 4]);
        pen.beginPath();
        pen.moveTo(area.left, y);
        pen.lineTo(area.left + area.width, y);
        pen.stroke();
        pen.setLineDash([]);
      }
    },
    describe: (time) => {
      const longest = line.longest[bucketAt(line, time)];
      return `longest handler here: ${duration(longest)} (scale: logarithmic, to ${duration(top)}; dashed: --max-block)`;
    },
  };
};

const handlersLane = (loop) => {
  const line = loop.timeline;
  const named = (span) => line.texts[span[3]];
  return {
    label: "handlers",
    height: 22,
    draw(pen, area) {
      pen.font = "11px system-ui, sans-serif";
      eachSpan(line.handlers, area, (x, width, span) => {
        const text = named(span);
        pen.fillStyle = shade(text);
        pen.fillRect(x, area.top, width > 3 ? width - 0.5 : width, area.height);
        if (width > 46) {
          pen.fillStyle = "#14171a";
          clippedText(pen, text, x + 4, area.top + 15, width - 7);
        }
      });
    },
    describe(time, slack) {
      const span = spanAt(line.handlers, time, slack);
      if (!span) return `no handler among the ${count(line.handlers.length)} that are kept one by one`;
      return `${named(span)}\n${span[2]}, ${duration(span[1])}, at ${duration(span[0])}${span[4] >= 0 ? `, descriptor ${span[4]}` : ""}`;
    },
  };
};

const kernelLane = (loop) => {
  const line = loop.timeline;
  const top = Math.max(most(line.bytes_in), most(line.bytes_out), 1);
  return {
    label: "kernel: bytes in, out",
    height: 40,
    draw(pen, area) {
      const middle = area.top + area.height / 2;
      eachColumn(line, area, (x, width, first, last) => {
        const scale = area.height / 2 / top / (last - first);
        const received = sum(line.bytes_in, first, last);
        const sent = sum(line.bytes_out, first, last);
        pen.fillStyle = paint("in");
        if (received) pen.fillRect(x, middle - Math.max(received * scale, 1), width, Math.max(received * scale, 1));
        pen.fillStyle = paint("out");
        if (sent) pen.fillRect(x, middle, width, Math.max(sent * scale, 1));
      });
    },
    describe(time) {
      const i = bucketAt(line, time);
      return `received ${bytes(line.bytes_in[i])}, sent ${bytes(line.bytes_out[i])} in ${duration(line.width)}`;
    },
  };
};

// A task, or a connection: hatched from its begin to its end, solid where its handlers run.
const actorLane = (line, actor) => {
  const isPause = (span) => String(span[2]).includes("paused");
  const paused = actor.spans.filter(isPause);
  const runs = actor.spans.filter((span) => !isPause(span));
  return {
    label: actor.label,
    height: 15,
    small: true,
    draw(pen, area) {
      const scale = area.width / (area.end - area.begin);
      const begin = actor.begin ?? line.begin;
      const end = actor.end ?? line.end;
      const x0 = Math.max(area.left + (begin - area.begin) * scale, area.left);
      const x1 = Math.min(area.left + (end - area.begin) * scale, area.left + area.width);
      if (x1 > x0) {
        pen.fillStyle = hatch(pen, "wait");
        pen.fillRect(x0, area.top + 2, x1 - x0, area.height - 4);
      }
      eachSpan(paused, area, (x, width) => {
        pen.fillStyle = hatch(pen, "warn");
        pen.fillRect(x, area.top, width, area.height);
      });
      pen.fillStyle = paint("busy");
      if (actor.span_count === actor.spans.length) {
        eachSpan(runs, area, (x, width) => pen.fillRect(x, area.top, width, area.height));
        return;
      }
      eachColumn(line, area, (x, width, first, last) => {
        const share = Math.min(sum(actor.busy, first, last) / ((last - first) * line.width), 1);
        if (share <= 0) return;
        pen.globalAlpha = 0.3 + 0.7 * share;
        pen.fillRect(x, area.top, width, area.height);
        pen.globalAlpha = 1;
      });
    },
    describe(time, slack) {
      const pause = spanAt(paused, time, slack);
      if (pause) return `${actor.label}\n${pause[2]} for ${duration(pause[1])}`;
      const run = spanAt(runs, time, slack);
      if (run) return `${actor.label}\nran for ${duration(run[1])}, at ${duration(run[0])}`;
      const i = bucketAt(line, time);
      const moved = actor.bytes_in ? `, received ${bytes(actor.bytes_in[i])}, sent ${bytes(actor.bytes_out[i])}` : "";
      return `${actor.label}\nran ${duration(actor.busy[i])} of ${duration(line.width)} here${moved}`;
    },
  };
};

const jobsLane = (loop) => {
  const line = loop.timeline;
  return {
    label: "executor jobs",
    height: 22,
    draw(pen, area) {
      const queued = line.jobs.map((job) => [job[0] - job[3], job[3]]);
      eachSpan(queued, area, (x, width) => {
        pen.fillStyle = hatch(pen, "warn");
        pen.fillRect(x, area.top, width, area.height);
      });
      eachSpan(line.jobs, area, (x, width, job) => {
        pen.globalAlpha = 0.75;
        pen.fillStyle = shade(line.texts[job[2]] || "");
        pen.fillRect(x, area.top + 4, width, area.height - 8);
        pen.globalAlpha = 1;
      });
    },
    describe(time, slack) {
      const job = spanAt(line.jobs, time, slack);
      return job ? `${line.texts[job[2]]}\nran for ${duration(job[1])}, queued for ${duration(job[3])}` : "no job";
    },
  };
};

const marksLane = (loop) => {
  const line = loop.timeline;
  // With the time of the next mark, up to which there is room for the name.
  const marks = line.marks.map(([time, length, name], i) => [time, length, line.texts[name], line.marks[i + 1]?.[0] ?? Infinity]);
  return {
    label: "marks",
    height: 15,
    small: true,
    draw(pen, area) {
      const scale = area.width / (area.end - area.begin);
      pen.font = "11px system-ui, sans-serif";
      pen.fillStyle = paint("ink");
      eachSpan(marks, area, (x, width, [time, , name, next]) => {
        pen.fillRect(x, area.top, 1.5, area.height);
        const room = Math.min((next - time) * scale - 8, area.width);
        if (room > 20) clippedText(pen, name, x + 5, area.top + 11, room);
      });
    },
    describe(time, slack) {
      const mark = spanAt(marks, time, slack);
      return mark ? mark[2] : "no mark";
    },
  };
};

const lanesOf = (loop) => {
  const line = loop.timeline;
  const lanes = [loopLane(loop), utilizationLane(loop), longestLane(loop)];
  if (line.handlers.length) lanes.push(handlersLane(loop));
  lanes.push(kernelLane(loop));
  if (line.jobs.length) lanes.push(jobsLane(loop));
  if (line.marks.length) lanes.push(marksLane(loop));
  if (line.tasks.length) lanes.push({ title: "tasks that ran longest" }, ...line.tasks.map((each) => actorLane(line, each)));
  if (line.connections.length)
    lanes.push({ title: "busiest connections" }, ...line.connections.map((each) => actorLane(line, each)));
  return lanes;
};
