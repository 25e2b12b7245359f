// The flame graph: time in handlers by kind, file and function, and blocked turns by stack.
"use strict";

const flame = {
  path: [],
  root: null,

  build(loop) {
    const rootNode = { name: "all handlers", value: 0, children: new Map() };
    const add = (names, value) => {
      let node = rootNode;
      node.value += value;
      for (const name of names) {
        if (!node.children.has(name)) node.children.set(name, { name, value: 0, children: new Map() });
        node = node.children.get(name);
        node.value += value;
      }
    };
    const accounted = loop.codes.reduce((total, code) => total + code.busy, 0);
    for (const code of loop.codes) {
      const file = code.file ? code.file.split("/").slice(-2).join("/") : "built-in";
      add([code.kind, file, code.line ? `${code.function}:${code.line}` : code.function || "unknown"], code.busy);
    }
    if (loop.blocks.length && accounted) {
      const blocked = { name: "blocked turns, by stack", value: 0, children: new Map(), aside: true };
      for (const block of loop.blocks) {
        let node = blocked;
        node.value += block.duration;
        for (const [place] of block.stack) {
          if (!node.children.has(place)) node.children.set(place, { name: place, value: 0, children: new Map() });
          node = node.children.get(place);
          node.value += block.duration;
        }
      }
      return [rootNode, blocked];
    }
    return [rootNode];
  },

  show(loop) {
    this.roots = this.build(loop);
    this.draw();
  },

  focus() {
    for (const top of this.roots) {
      let node = top;
      if (this.path[0] !== top.name) continue;
      for (const name of this.path.slice(1)) node = node && node.children.get(name);
      if (node) return node;
    }
    return null;
  },

  draw() {
    const place = byId("flame");
    const search = byId("flame-search").value.trim().toLowerCase();
    const focus = this.focus();
    if (!focus) this.path = [];
    const rows = [];
    const matches = (node) => !search || node.name.toLowerCase().includes(search) || [...node.children.values()].some(matches);
    const box = (node, left, width, depth, path) => {
      if (width < 0.15 || depth > 60) return;
      while (rows.length <= depth) rows.push(element("div", { className: "flame-row" }));
      const made = element("button", { className: "box", type: "button", textContent: node.name });
      made.style.left = `${left}%`;
      made.style.width = `calc(${width}% - 1px)`;
      made.style.background = shade(node.name);
      if (!matches(node)) made.classList.add("faded");
      made.title = `${node.name}\n${duration(node.value)}`;
      made.addEventListener("click", () => {
        this.path = path.join() === this.path.join() ? path.slice(0, -1) : path;
        this.draw();
      });
      rows[depth].append(made);
      let from = left;
      for (const child of [...node.children.values()].sort((a, b) => b.value - a.value)) {
        const share = (width * child.value) / node.value;
        box(child, from, share, depth + 1, [...path, child.name]);
        from += share;
      }
    };
    if (focus) {
      this.path.slice(0, -1).forEach((name, depth) => {
        rows.push(element("div", { className: "flame-row" }));
        const made = element("button", { className: "box faded", type: "button", textContent: name });
        made.style.cssText = `left:0;width:100%;background:${shade(name)}`;
        made.addEventListener("click", () => {
          this.path = this.path.slice(0, depth + 1);
          this.draw();
        });
        rows[depth].append(made);
      });
      box(focus, 0, 100, this.path.length - 1, this.path);
    } else {
      let depth = 0;
      for (const top of this.roots) {
        if (!top.value) continue;
        box(top, 0, 100, depth, [top.name]);
        depth = rows.length;
      }
    }
    place.replaceChildren(...(rows.length ? rows : [element("p", { className: "more", textContent: "No handler ran." })]));
  },

  start() {
    byId("flame-search").addEventListener("input", () => this.draw());
    themeListeners.push(() => this.roots && this.draw());
  },
};
