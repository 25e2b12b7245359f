// The timeline: its canvas, its axis, and the box that describes what the pointer is at.
"use strict";

const TITLE_HEIGHT = 20;
const GAP = 9;
const AXIS_HEIGHT = 24;
const TAP = 8; // pixels that a finger may move in a tap

const timeline = {
  place: byId("timeline"),
  lanes: [],
  loop: null,
  pointer: null,

  left() {
    return this.place.clientWidth < 640 ? 0 : 190;
  },

  show(loop) {
    this.loop = loop;
    this.lanes = lanesOf(loop);
    this.view.reset(loop.timeline.begin, loop.timeline.end);
    this.draw();
  },

  laneHeight(lane) {
    if (lane.title) return TITLE_HEIGHT;
    return lane.height + (lane.small ? 4 : GAP) + (this.left() ? 0 : lane.small ? 12 : 15);
  },

  draw() {
    if (!this.loop) return;
    const canvas = this.place.querySelector("canvas");
    const width = this.place.clientWidth;
    const height = this.lanes.reduce((total, lane) => total + this.laneHeight(lane), AXIS_HEIGHT + 12);
    const ratio = devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.clearRect(0, 0, width, height);
    const left = this.left();
    const area = { left, width: width - left, begin: this.view.begin, end: this.view.end };
    this.axis(pen, area, height);
    this.boxes = [];
    let y = AXIS_HEIGHT + 6;
    for (const lane of this.lanes) {
      const whole = this.laneHeight(lane);
      pen.font = lane.title ? "600 12px system-ui, sans-serif" : `${lane.small ? 11 : 12}px system-ui, sans-serif`;
      if (lane.title) {
        pen.fillStyle = paint("dim");
        pen.fillText(lane.title, left ? 12 : 6, y + 14);
      } else {
        const top = y + (left ? 0 : lane.small ? 12 : 15);
        pen.save();
        pen.beginPath();
        pen.rect(left, y - 6, area.width, whole + 6);
        pen.clip();
        lane.draw(pen, { ...area, top, height: lane.height });
        pen.restore();
        this.label(pen, lane, y, left);
        this.boxes.push({ lane, top: y, bottom: y + whole });
      }
      y += whole;
    }
    if (this.pointer) this.cursor(pen, height);
  },

  label(pen, lane, y, left) {
    pen.fillStyle = paint("ink");
    if (!left) {
      pen.fillText(lane.label, 6, y + (lane.small ? 9 : 11));
      return;
    }
    let text = lane.label;
    const room = left - 22;
    if (pen.measureText(text).width > room) {
      while (text.length > 1 && pen.measureText(`${text}…`).width > room) text = text.slice(0, -1);
      text += "…";
    }
    pen.fillText(text, 12, y + Math.min(lane.height / 2 + 4, 24));
  },

  axis(pen, area, height) {
    const step = stepOf(area.end - area.begin, Math.max(area.width / 110, 2));
    pen.font = "11px system-ui, sans-serif";
    pen.lineWidth = 1;
    for (let time = Math.ceil(area.begin / step) * step; time <= area.end; time += step) {
      const x = Math.round(area.left + ((time - area.begin) / (area.end - area.begin)) * area.width) + 0.5;
      pen.strokeStyle = paint("line");
      pen.beginPath();
      pen.moveTo(x, AXIS_HEIGHT - 4);
      pen.lineTo(x, height);
      pen.stroke();
      pen.fillStyle = paint("dim");
      const text = this.timeText(time, step);
      pen.fillText(text, Math.min(x + 3, area.left + area.width - pen.measureText(text).width - 2), 15);
    }
  },

  timeText(time, step) {
    const [unit, name] = step >= 1e5 ? [1e6, "s"] : step >= 100 ? [1e3, "ms"] : [1, "µs"];
    const places = Math.max(0, Math.ceil(-Math.log10(step / unit) - 1e-9));
    return `${(time / unit).toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places })} ${name}`;
  },

  cursor(pen, height) {
    pen.strokeStyle = paint("dim");
    pen.setLineDash([2, 3]);
    pen.beginPath();
    pen.moveTo(this.pointer.x + 0.5, AXIS_HEIGHT);
    pen.lineTo(this.pointer.x + 0.5, height);
    pen.stroke();
    pen.setLineDash([]);
  },

  describe() {
    const tip = byId("tip");
    const at = this.pointer;
    const box = at && at.x >= this.left() && this.boxes.find((each) => at.y >= each.top && at.y < each.bottom);
    if (!box) {
      tip.hidden = true;
      return;
    }
    const perPixel = (this.view.end - this.view.begin) / Math.max(this.place.clientWidth - this.left(), 1);
    const time = this.view.begin + (at.x - this.left()) * perPixel;
    tip.textContent = `${duration(Math.max(time, 0))}: ${box.lane.describe(time, perPixel * 2)}`;
    tip.hidden = false;
    const width = tip.offsetWidth;
    tip.style.left = `${Math.max(Math.min(at.x + 14, this.place.clientWidth - width - 6), 4)}px`;
    const below = at.y + 16;
    const fits = below + tip.offsetHeight < this.place.clientHeight;
    tip.style.top = `${fits ? below : Math.max(at.y - tip.offsetHeight - 10, 2)}px`;
  },

  // What is under the mouse is described, or where a finger has tapped, until the next touch.
  point(redraw) {
    let touched = null;
    const set = (event) => {
      const box = this.place.getBoundingClientRect();
      this.pointer = event && { x: event.clientX - box.left, y: event.clientY - box.top };
      redraw();
    };
    this.place.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "touch") return;
      touched = event.isPrimary ? event : null;
      set(null);
    });
    this.place.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "touch") set(event);
    });
    this.place.addEventListener("pointerup", (event) => {
      if (touched && Math.hypot(event.clientX - touched.clientX, event.clientY - touched.clientY) < TAP) set(event);
      touched = null;
    });
    this.place.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") set(null);
    });
    document.addEventListener("pointerdown", (event) => {
      if (this.pointer && !this.place.contains(event.target)) set(null);
    });
  },

  start() {
    let asked = false;
    const redraw = () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => {
        asked = false;
        this.draw();
        this.describe();
      });
    };
    this.view = new View(redraw);
    steer(this.place, this.view, () => this.left());
    this.point(redraw);
    for (const button of document.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => {
        const kind = button.dataset.zoom;
        if (kind === "all") this.view.all();
        else this.view.zoom(kind === "in" ? 0.5 : 2);
      });
    }
    new ResizeObserver(redraw).observe(this.place);
    themeListeners.push(redraw, drawLegend);
    drawLegend();
  },

  // Show one moment, for links from tables and findings.
  zoomTo(start, length) {
    const span = Math.max(length * 5, (this.view.last - this.view.first) / 2000, 100);
    this.view.set(start + length / 2 - span / 2, start + length / 2 + span / 2);
    this.place.scrollIntoView({ block: "nearest" });
  },
};
