// The range of time that the timeline shows, and how input changes it.
"use strict";

class View {
  constructor(changed) {
    this.changed = changed;
    this.reset(0, 1);
  }

  reset(first, last) {
    const kept = this.first === first && this.last === last;
    const followed = this.end === undefined || this.end >= this.last;
    this.first = first;
    this.last = Math.max(last, first + 1);
    // A live page that shows everything, or the end, continues to show it.
    if (!kept && (this.begin === undefined || (this.begin <= this.first && followed))) this.all();
    else this.set(this.begin, this.end);
  }

  all() {
    this.set(this.first, this.last);
  }

  set(begin, end) {
    const whole = this.last - this.first;
    const span = Math.min(Math.max(end - begin, Math.min(1, whole)), whole);
    const from = Math.min(Math.max(begin, this.first), this.last - span);
    this.begin = from;
    this.end = from + span;
    this.changed();
  }

  zoom(factor, share = 0.5) {
    const span = this.end - this.begin;
    const fixed = this.begin + span * share;
    const next = Math.min(Math.max(span * factor, 1), this.last - this.first);
    this.set(fixed - next * share, fixed - next * share + next);
  }

  move(share) {
    const by = (this.end - this.begin) * share;
    this.set(this.begin + by, this.end + by);
  }
}

// Change the view with the wheel, dragging, touch and keys on `place`; left() is the x of its begin.
const steer = (place, view, left) => {
  const pointers = new Map();
  const share = (x) => {
    const box = place.getBoundingClientRect();
    return Math.min(Math.max((x - box.left - left()) / Math.max(box.width - left(), 1), 0), 1);
  };
  place.addEventListener(
    "wheel",
    (event) => {
      if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
        event.preventDefault();
        view.move(event.deltaX / place.clientWidth);
      } else if (!event.shiftKey) {
        event.preventDefault();
        view.zoom(Math.exp(Math.min(Math.max(event.deltaY, -200), 200) / 240), share(event.clientX));
      }
    },
    { passive: false },
  );
  place.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, event.clientX);
    place.setPointerCapture(event.pointerId);
    place.classList.add("drag");
  });
  place.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const before = [...pointers.values()];
    pointers.set(event.pointerId, event.clientX);
    const after = [...pointers.values()];
    if (after.length === 1) {
      view.move((before[0] - after[0]) / Math.max(place.clientWidth - left(), 1));
    } else {
      // The times under the two fingers stay under them.
      const was = Math.abs(before[0] - before[1]);
      const is = Math.abs(after[0] - after[1]);
      const middle = (before[0] + before[1]) / 2;
      if (is > 4) view.zoom(was / is, share(middle));
      view.move((middle - (after[0] + after[1]) / 2) / Math.max(place.clientWidth - left(), 1));
    }
  });
  const release = (event) => {
    pointers.delete(event.pointerId);
    if (!pointers.size) place.classList.remove("drag");
  };
  place.addEventListener("pointerup", release);
  place.addEventListener("pointercancel", release);
  place.addEventListener("dblclick", (event) => view.zoom(0.4, share(event.clientX)));
  place.addEventListener("keydown", (event) => {
    const actions = {
      "+": () => view.zoom(0.6),
      "=": () => view.zoom(0.6),
      "-": () => view.zoom(1 / 0.6),
      0: () => view.all(),
      ArrowLeft: () => view.move(-0.2),
      ArrowRight: () => view.move(0.2),
      Home: () => view.move(-1e9),
      End: () => view.move(1e9),
    };
    const action = actions[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  });
};
