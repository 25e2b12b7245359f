// The lane with the loop's utilisation over time, as a graph from 0 to 100%.
"use strict";

const COLUMN = 8; // pixels over which it is averaged: a shorter time is mostly all work or all waiting

const utilizationOf = (line, first, last) => {
  const busy = sum(line.busy, first, last);
  return busy / (busy + sum(line.waiting, first, last) || 1);
};

// The buckets that are averaged at a bucket. Windows begin at multiples of their size, so that the
// graph keeps its shape while it is moved.
const windowAt = (line, i, perPixel) => {
  const size = Math.max(Math.round((COLUMN * perPixel) / line.width), 1);
  const first = i - (i % size);
  return [first, Math.min(first + size, line.busy.length)];
};

const utilizationLane = (loop) => {
  const line = loop.timeline;
  let perPixel = 1; // µs, and the buckets that are shown
  let shown = [0, line.busy.length];

  const scale = (pen, area) => {
    pen.font = "10px system-ui, sans-serif";
    pen.lineWidth = 1;
    for (const share of [0, 0.5, 1]) {
      const y = Math.round(area.top + area.height * (1 - share)) + 0.5;
      pen.strokeStyle = paint("line");
      pen.beginPath();
      pen.moveTo(area.left, y);
      pen.lineTo(area.left + area.width, y);
      pen.stroke();
    }
  };

  const numbers = (pen, area) => {
    pen.font = "10px system-ui, sans-serif";
    for (const share of [0.5, 1]) {
      const text = percent(share);
      const y = area.top + area.height * (1 - share) + (share === 1 ? 9 : 3.5);
      const width = pen.measureText(text).width;
      pen.fillStyle = paint("card");
      pen.globalAlpha = 0.8;
      pen.fillRect(area.left + 2, y - 9, width + 4, 11);
      pen.globalAlpha = 1;
      pen.fillStyle = paint("dim");
      pen.fillText(text, area.left + 4, y);
    }
  };

  return {
    label: "utilisation",
    height: 56,
    draw(pen, area) {
      const bottom = area.top + area.height;
      const x = (i) => area.left + ((line.begin + i * line.width - area.begin) / (area.end - area.begin)) * area.width;
      perPixel = (area.end - area.begin) / area.width;
      shown = [bucketAt(line, area.begin), bucketAt(line, area.end) + 1];
      scale(pen, area);
      const steps = [];
      for (let i = windowAt(line, shown[0], perPixel)[0]; i < shown[1]; ) {
        const [first, last] = windowAt(line, i, perPixel);
        steps.push([x(first), x(last), bottom - area.height * utilizationOf(line, first, last)]);
        i = last;
      }
      const outline = new Path2D();
      steps.forEach(([from, to, y], i) => {
        if (i) outline.lineTo(from, y);
        else outline.moveTo(from, y);
        outline.lineTo(to, y);
      });
      const whole = new Path2D(outline);
      whole.lineTo(steps[steps.length - 1][1], bottom);
      whole.lineTo(steps[0][0], bottom);
      pen.fillStyle = pen.strokeStyle = paint("busy");
      pen.globalAlpha = 0.25;
      pen.fill(whole);
      pen.globalAlpha = 1;
      pen.lineWidth = 1.5;
      pen.stroke(outline);
      numbers(pen, area);
    },
    describe(time) {
      const [first, last] = windowAt(line, bucketAt(line, time), perPixel);
      const length = (last - first) * line.width;
      const range = shown[0] === 0 && shown[1] === line.busy.length ? "in all" : "of the time that is shown";
      return `utilisation ${percent(utilizationOf(line, first, last))} in ${duration(length)}\n${percent(utilizationOf(line, ...shown))} ${range}`;
    },
  };
};
