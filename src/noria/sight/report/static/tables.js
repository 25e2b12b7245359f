// Tables with tabs: click a header to sort, type to filter.
"use strict";

const number = (key, title, show = count) => ({ key, title, show, number: true });
const words = (key, title) => ({ key, title, show: (value) => (value === null || value === undefined ? "" : String(value)) });
const CODE_COLUMNS = [
  words("kind", "kind"),
  words("place", "function"),
  number("calls", "calls"),
  number("busy", "time", duration),
  number("longest", "longest", duration),
];

const MAX_TABLE_ROWS = 200;

const TABLES = [
  { name: "code", rows: (loop) => loop.codes, sort: "busy", columns: CODE_COLUMNS },
  {
    name: "tasks",
    rows: (loop) => loop.tasks,
    sort: "busy",
    columns: [
      words("name", "task"),
      words("coroutine", "coroutine"),
      words("state", "state"),
      number("steps", "steps"),
      number("busy", "busy", duration),
      number("scheduled", "scheduled", duration),
      number("longest", "longest step", duration),
      number("self_wakes", "self-wakes"),
      words("waits", "waits for"),
      words("place", "waits at"),
    ],
    detail: (row) => row.stack.join("\n"),
  },
  {
    name: "connections",
    rows: (loop) => loop.connections,
    sort: "bytes_out",
    columns: [
      number("fd", "fd"),
      words("peer", "peer"),
      words("protocol", "protocol"),
      words("tls", "TLS"),
      number("opened", "opened", duration),
      number("closed", "closed", duration),
      words("error", "ended by"),
      number("bytes_in", "received", bytes),
      number("bytes_out", "sent", bytes),
      number("unread", "most unread", bytes),
      number("unsent", "most unsent", bytes),
      number("reading_paused", "reading paused", duration),
      number("writing_paused", "writing paused", duration),
    ],
  },
  {
    name: "slow calls",
    rows: (loop) => loop.slow,
    sort: "duration",
    columns: [
      number("duration", "duration", duration),
      number("start", "at", duration),
      words("kind", "kind"),
      words("place", "function"),
      number("waiting", "events that waited"),
    ],
    zoom: (row) => [row.start, row.duration],
  },
  {
    name: "blocks",
    rows: (loop) => loop.blocks.map((block) => ({ ...block, place: block.stack.length ? block.stack[block.stack.length - 1][0] : "" })),
    sort: "duration",
    columns: [
      number("duration", "duration", duration),
      number("start", "at", duration),
      words("task", "task"),
      words("place", "at line"),
      number("waiting", "events that waited"),
      number("share", "share of all delay", percent),
    ],
    detail: (row) => row.stack.map(([place, source]) => `${place}\n    ${source}`).join("\n"),
    zoom: (row) => [row.start, row.duration],
  },
  { name: "timers", rows: (loop) => loop.timers, sort: "calls", columns: CODE_COLUMNS.slice(1) },
  { name: "executor", rows: (loop) => loop.jobs, sort: "busy", columns: CODE_COLUMNS.slice(1) },
  {
    name: "system calls",
    rows: (loop) => Object.entries(loop.system_calls).map(([name, value]) => ({ name, value, each: loop.events ? value / loop.events : 0 })),
    sort: "value",
    columns: [words("name", "counter"), number("value", "count"), number("each", "for each event", (value) => value.toFixed(3))],
  },
  {
    name: "errors",
    rows: (loop) => loop.errors,
    sort: "count",
    columns: [words("kind", "kind"), words("type", "type"), words("message", "message"), words("place", "at"), number("count", "count")],
  },
];

const tables = {
  chosen: 0,
  sorts: TABLES.map((table) => ({ key: table.sort, down: true })),

  show(loop) {
    this.loop = loop;
    this.choose(this.chosen);
  },

  tabs() {
    const buttons = TABLES.map((table, i) => {
      const rows = table.rows(this.loop).length;
      const chosen = i === this.chosen;
      const made = element("button", { type: "button", role: "tab", textContent: rows ? `${table.name} ${rows}` : table.name });
      made.setAttribute("aria-selected", String(chosen));
      made.tabIndex = chosen ? 0 : -1;
      made.addEventListener("click", () => this.choose(i));
      made.addEventListener("keydown", (event) => {
        const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!by) return;
        event.preventDefault();
        this.choose((i + by + TABLES.length) % TABLES.length);
        byId("tabs").children[this.chosen].focus();
      });
      return made;
    });
    byId("tabs").replaceChildren(...buttons);
  },

  choose(i) {
    this.chosen = i;
    this.tabs();
    this.draw();
  },

  draw() {
    const table = TABLES[this.chosen];
    const sort = this.sorts[this.chosen];
    const wanted = byId("table-filter").value.trim().toLowerCase();
    const matching = table.rows(this.loop).filter((row) => !wanted || table.columns.some((column) => column.show(row[column.key]).toLowerCase().includes(wanted)));
    const sign = sort.down ? -1 : 1;
    const value = (row) => row[sort.key] ?? -1;
    matching.sort((a, b) => sign * (typeof value(a) === "string" || typeof value(b) === "string" ? String(value(a)).localeCompare(String(value(b))) : value(a) - value(b)));
    const head = element("tr", {}, ...table.columns.map((column) => this.header(column, sort)));
    const body = element("tbody", {}, ...matching.slice(0, MAX_TABLE_ROWS).map((row) => this.row(table, row)));
    const parts = [element("table", {}, element("thead", {}, head), body)];
    if (!matching.length) parts.push(element("p", { className: "more", textContent: wanted ? "No row matches." : "None." }));
    const more = matching.length - MAX_TABLE_ROWS;
    if (more > 0) parts.push(element("p", { className: "more", textContent: `${more} more: filter to see them.` }));
    byId("table").replaceChildren(...parts);
  },

  header(column, sort) {
    const made = element("button", { type: "button", textContent: column.title });
    made.addEventListener("click", () => {
      this.sorts[this.chosen] = { key: column.key, down: sort.key === column.key ? !sort.down : Boolean(column.number) };
      this.draw();
    });
    const cell = element("th", { className: column.number ? "number" : "" }, made);
    if (sort.key === column.key) cell.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
    return cell;
  },

  row(table, row) {
    const cells = table.columns.map((column) => element("td", { className: column.number ? "number" : "text", textContent: column.show(row[column.key]) }));
    const text = table.detail && table.detail(row);
    if (text) {
      const cell = cells.find((each) => each.className === "text");
      const label = cell.textContent;
      cell.replaceChildren(element("details", {}, element("summary", { textContent: label || "stack" }), element("pre", { textContent: text })));
    }
    if (table.zoom) {
      const made = element("button", { className: "pill", type: "button", textContent: "show" });
      made.addEventListener("click", () => timeline.zoomTo(...table.zoom(row)));
      cells[cells.length - 1].append(" ", made);
    }
    return element("tr", {}, ...cells);
  },

  start() {
    byId("table-filter").addEventListener("input", () => this.draw());
  },
};
