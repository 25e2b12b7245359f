// Waiting is hatched, working is solid: as in the pictures of noria compare.
"use strict";

const hatches = new Map();

const hatch = (context, name) => {
  const key = `${name} ${isDark()}`;
  if (!hatches.has(key)) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 8;
    const pen = tile.getContext("2d");
    pen.strokeStyle = paint(name);
    pen.lineWidth = 1.4;
    pen.beginPath();
    for (const x of [-8, 0, 8]) {
      pen.moveTo(x - 1, 9);
      pen.lineTo(x + 9, -1);
    }
    pen.stroke();
    hatches.set(key, context.createPattern(tile, "repeat"));
  }
  return hatches.get(key);
};

const LEGEND = [
  ["working", "busy", false],
  ["waiting in the kernel", "wait", true],
  ["garbage collection", "gc", false],
  ["loop blocked", "bad", false],
  ["received", "in", false],
  ["sent", "out", false],
  ["reading or writing paused", "warn", true],
];

const drawLegend = () => {
  byId("legend").replaceChildren(
    ...LEGEND.map(([text, name, hatched]) => {
      const canvas = element("canvas", { width: 44, height: 24 });
      const context = canvas.getContext("2d");
      context.scale(2, 2);
      context.fillStyle = hatched ? hatch(context, name) : paint(name);
      context.fillRect(0, 0, 22, 12);
      return element("span", {}, canvas, text);
    }),
  );
};
