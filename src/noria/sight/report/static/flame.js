// The flame graph: time in handlers by kind, file and function, and blocked turns by stack.
"use strict";

const flameNode = (name) => ({ name, value: 0, children: new Map() });

// Add a value to a root and to the chain of nodes with these names below it.
const addToFlame = (root, names, value) => {
  let node = root;
  node.value += value;
  for (const name of names) {
    if (!node.children.has(name)) node.children.set(name, flameNode(name));
    node = node.children.get(name);
    node.value += value;
  }
};

const flame = {
  path: [],
  roots: [],

  build(loop) {
    const handlers = flameNode("all handlers");
    for (const code of loop.codes) {
      const file = code.file ? code.file.split("/").slice(-2).join("/") : "built-in";
      const name = code.function || code.kind;
      addToFlame(handlers, [code.kind, file, code.line ? `${name}:${code.line}` : name], code.busy);
    }
    const blocked = flameNode("blocked turns, by stack");
    for (const block of loop.blocks) addToFlame(blocked, block.stack.map(([place]) => place), block.duration);
    return [handlers, blocked].filter((root) => root.value);
  },

  show(loop) {
    this.roots = this.build(loop);
    this.draw();
  },

  focus() {
    let node = this.roots.find((root) => root.name === this.path[0]);
    for (const name of this.path.slice(1)) node = node && node.children.get(name);
    return node;
  },

  row(className = "flame-row") {
    return element("div", { className });
  },

  box(name, left, width, path) {
    const made = element("button", { className: "box", type: "button", textContent: name });
    made.style.left = `${left}%`;
    made.style.width = `calc(${width}% - 1px)`;
    made.style.background = shade(name);
    made.addEventListener("click", () => {
      this.path = path.join() === this.path.join() ? path.slice(0, -1) : path;
      this.draw();
    });
    return made;
  },

  draw() {
    const search = byId("flame-search").value.trim().toLowerCase();
    const matches = (node) => !search || node.name.toLowerCase().includes(search) || [...node.children.values()].some(matches);
    const rows = [];
    const add = (node, left, width, depth, path) => {
      if (width < 0.15 || depth > 60) return;
      while (rows.length <= depth) rows.push(this.row());
      const made = this.box(node.name, left, width, path);
      made.classList.toggle("faded", !matches(node));
      made.title = `${node.name}\n${duration(node.value)}`;
      rows[depth].append(made);
      let from = left;
      for (const child of [...node.children.values()].sort((a, b) => b.value - a.value)) {
        const share = (width * child.value) / node.value;
        add(child, from, share, depth + 1, [...path, child.name]);
        from += share;
      }
    };
    const focus = this.focus();
    if (focus) {
      // Above it, the nodes that lead to it: a click returns to one.
      this.path.slice(0, -1).forEach((name, depth) => {
        const made = this.box(name, 0, 100, this.path.slice(0, depth + 1));
        made.classList.add("faded");
        rows.push(this.row());
        rows[depth].append(made);
      });
      add(focus, 0, 100, rows.length, this.path);
    } else {
      this.path = [];
      for (const root of this.roots) {
        if (rows.length) rows.push(this.row("flame-gap"));
        add(root, 0, 100, rows.length, [root.name]);
      }
    }
    if (!rows.length) rows.push(element("p", { className: "more", textContent: "No handler ran." }));
    byId("flame").replaceChildren(...rows);
  },

  start() {
    byId("flame-search").addEventListener("input", () => this.draw());
    themeListeners.push(() => this.draw());
  },
};
