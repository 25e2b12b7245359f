// The table: sorting, filtering, keyboard navigation, and refreshing when the directory changes.

const table = document.getElementById("listing");
const search = document.getElementById("search");
const empty = document.getElementById("empty");
const order = { by: "name", down: false };
const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

export const rows = () => [...table.tBodies[0].rows];
const shown = () => rows().filter((row) => !row.hidden);

const compare = {
  name: (a, b) => collator.compare(a.dataset.name, b.dataset.name),
  size: (a, b) => a.dataset.size - b.dataset.size,
  modified: (a, b) => a.dataset.modified - b.dataset.modified,
};

function sort() {
  const sign = order.down ? -1 : 1;
  const sorted = rows().sort((a, b) =>
    ("directory" in b.dataset) - ("directory" in a.dataset)
    || sign * compare[order.by](a, b) || compare.name(a, b));
  table.tBodies[0].append(...sorted);
  for (const button of table.querySelectorAll("[data-sort]")) {
    const head = button.closest("th");
    if (button.dataset.sort === order.by) head.ariaSort = order.down ? "descending" : "ascending";
    else head.removeAttribute("aria-sort");
  }
}

function filter() {
  const wanted = search.value.trim().toLocaleLowerCase();
  for (const row of rows()) {
    row.hidden = !row.dataset.name.toLocaleLowerCase().includes(wanted);
  }
  const all = rows().length, left = shown().length;
  empty.hidden = left > 0;
  if (all) empty.textContent = "No matching names.";
  rove(shown().find((row) => row === current) ?? shown()[0]);
}

// Roving tabindex: Tab reaches the controls of one row, the arrow keys move between rows.
let current = null;
function rove(row) {
  current = row ?? null;
  for (const each of rows()) {
    for (const control of each.querySelectorAll("a, button")) {
      control.tabIndex = each === current ? 0 : -1;
    }
  }
}

function localize() {
  const form = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  for (const time of table.querySelectorAll("time")) {
    const date = new Date(time.dateTime);
    if (!isNaN(date)) time.textContent = form.format(date);
    time.title = time.dateTime;
  }
}

function arrange() {
  localize();
  sort();
  filter();
}

// The server renders the rows, so that names become markup in one place only. While a dialog is
// open, only its own action refreshes the rows, because the focus returns to one of them.
let fetching = null, again = false, byDialog = false;
export async function refresh(fromDialog = false) {
  byDialog ||= fromDialog;
  if (fetching) { again = true; return fetching; }
  fetching = (async () => {
    do {
      again = false;
      const response = await fetch(location.pathname, { headers: { Accept: "text/html" } });
      if (!response.ok) return;
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
      const body = fresh.querySelector("#listing tbody");
      if (!body) return;
      if (!byDialog && document.querySelector("dialog[open]")) {
        setTimeout(() => refresh(), 200);
        return;
      }
      const name = current?.dataset.name, control = document.activeElement;
      const focused = table.tBodies[0].contains(control);
      const index = rows().indexOf(current);
      table.tBodies[0].replaceWith(document.adoptNode(body));
      document.getElementById("count").textContent = fresh.getElementById("count").textContent;
      empty.textContent = fresh.getElementById("empty").textContent;
      current = rows().find((row) => row.dataset.name === name) ?? null;
      arrange();
      if (focused) {
        rove(current ?? shown()[Math.min(index, shown().length - 1)]);
        current?.querySelector("a").focus();
      }
    } while (again);
  })().catch(() => {}).finally(() => { fetching = null; byDialog = false; });
  return fetching;
}

export function select(name) {
  const row = rows().find((each) => each.dataset.name === name);
  if (row && !row.hidden) { rove(row); row.querySelector("a").focus(); }
}

function watch() {
  const events = new EventSource(`/-/events?path=${document.body.dataset.path}`);
  let timer = null;
  const changed = () => {
    clearTimeout(timer);
    timer = setTimeout(() => refresh(), 100);
  };
  for (const kind of ["message", "change", "changed"]) events.addEventListener(kind, changed);
  let lost = false;
  events.onerror = () => { lost = true; };
  events.onopen = () => { if (lost) { lost = false; changed(); } };
  addEventListener("pagehide", () => events.close());
  addEventListener("pageshow", (event) => { if (event.persisted) { watch(); refresh(); } });
}

export function start(act) {
  table.tHead.addEventListener("click", (event) => {
    const by = event.target.closest("[data-sort]")?.dataset.sort;
    if (!by) return;
    order.down = order.by === by ? !order.down : by !== "name";
    order.by = by;
    sort();
  });
  search.addEventListener("input", filter);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { search.value = ""; filter(); }
    if (event.key === "ArrowDown" || event.key === "Enter") { event.preventDefault(); shown()[0]?.querySelector("a").focus(); }
  });
  addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, dialog");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
      search.select();
    }
  });
  table.addEventListener("focusin", (event) => {
    const row = event.target.closest("tbody tr");
    if (row && row !== current) rove(row);
  });
  table.addEventListener("keydown", (event) => {
    const row = event.target.closest("tbody tr");
    if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = shown(), at = all.indexOf(row);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      if (to < 0) search.focus();
      else all[Math.min(to, all.length - 1)].querySelector("a").focus();
    } else if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      const controls = [...row.querySelectorAll("a, button")];
      const step = event.key === "ArrowRight" ? 1 : -1;
      controls[controls.indexOf(event.target) + step]?.focus();
      event.preventDefault();
    } else if (event.key === "F2" || event.key === "Delete") {
      event.preventDefault();
      act?.(event.key === "F2" ? "rename" : "delete", row);
    }
  });
  table.addEventListener("click", (event) => {
    const button = event.target.closest("[data-act]");
    if (button) act?.(button.dataset.act, button.closest("tr"));
  });
  arrange();
  watch();
}
