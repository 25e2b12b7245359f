// The list of uploads with progress, speed and remaining time; pause, resume, cancel.

import { Upload, UploadError, check, send } from "./tus.js";
import { bytes, duration } from "./format.js";

const MAX_ACTIVE = 3;
const items = [];

const section = document.getElementById("uploads");
const list = document.getElementById("queue");
const title = document.getElementById("uploads-title");
const template = document.getElementById("upload");

// `found`: [{file, folders}], with the folder names between `directory` and the file.
export async function add(found, directory) {
  for (const { file, folders } of found) items.push(new Item(file, directory, folders));
  section.hidden = items.length === 0;
  pump();
}

export const busy = () => items.some((item) => ["waiting", "active", "paused"].includes(item.state));

class Item {
  constructor(file, directory, folders) {
    this.file = file;
    this.base = directory;
    this.folders = folders;
    this.offset = 0;
    this.speed = 0; // bytes a second, smoothed
    const path = directory + folders.map((name) => `${name}/`).join("");
    this.upload = new Upload(file, path, {
      onProgress: (offset) => this.progress(offset),
      onRetry: (message, pause) => this.status(`${message}; retrying in ${duration(pause / 1000)}`),
    });
    this.row = template.content.firstElementChild.cloneNode(true);
    const name = this.row.querySelector(".upload-name");
    name.textContent = [...folders, file.name].join("/");
    for (const label of this.row.querySelectorAll(".sr")) label.append(` ${file.name}`);
    this.row.addEventListener("click", (event) => {
      const act = event.target.closest("[data-do]")?.dataset.do;
      if (act) this[act]();
    });
    list.append(this.row);
    this.setState("waiting", "waiting");
  }

  setState(state, text) {
    this.state = state;
    this.row.dataset.state = state;
    const button = (name) => this.row.querySelector(`[data-do="${name}"]`);
    const active = state === "waiting" || state === "active";
    const focused = this.row.contains(document.activeElement);
    button("pause").hidden = !active;
    button("resume").hidden = !(state === "paused" || state === "failed");
    button("cancel").hidden = state === "done";
    if (focused) this.row.querySelector("button:not([hidden])")?.focus();
    this.status(text);
    summary();
  }

  status(text) {
    this.row.querySelector(".upload-state").textContent = text;
  }

  progress(offset) {
    const now = performance.now();
    if (this.at !== undefined && offset > this.offset && now > this.at) {
      const speed = (offset - this.offset) / ((now - this.at) / 1000);
      this.speed = this.speed ? this.speed * 0.7 + speed * 0.3 : speed;
    }
    this.at = now;
    this.offset = offset;
    const share = this.file.size ? offset / this.file.size : 1;
    this.row.querySelector("progress").value = share;
    const left = this.speed ? ` · ${duration((this.file.size - offset) / this.speed)} left` : "";
    const speed = this.speed ? ` · ${bytes(this.speed)}/s` : "";
    this.status(`${Math.floor(share * 100)}% of ${bytes(this.file.size)}${speed}${left}`);
  }

  async start() {
    this.control = new AbortController();
    this.at = undefined;
    this.speed = 0;
    this.setState("active", "starting");
    try {
      await folders(this.base, this.folders);
      await this.upload.run(this.control.signal);
      this.row.querySelector("progress").value = 1;
      this.setState("done", `done, ${bytes(this.file.size)}`);
    } catch (error) {
      if (error.name !== "AbortError") this.setState("failed", error.message);
      if (!(error instanceof UploadError) && error.name !== "AbortError") console.error(error);
    }
    pump();
  }

  pause() {
    this.control?.abort();
    this.progress(this.upload.confirmed);
    const share = this.file.size ? this.upload.confirmed / this.file.size : 0;
    this.setState("paused", `paused at ${Math.floor(share * 100)}%`);
  }

  resume() {
    this.setState("waiting", "waiting");
    pump();
  }

  cancel() {
    this.state = "cancelled";
    this.control?.abort();
    this.upload.cancel();
    remove(this);
  }
}

function pump() {
  let room = MAX_ACTIVE - items.filter((item) => item.state === "active").length;
  for (const item of items) {
    if (room <= 0) break;
    if (item.state === "waiting") {
      room -= 1;
      item.start();
    }
  }
  summary();
}

function remove(item) {
  const next = item.row.nextElementSibling ?? item.row.previousElementSibling;
  const focused = item.row.contains(document.activeElement);
  item.row.remove();
  items.splice(items.indexOf(item), 1);
  section.hidden = items.length === 0;
  if (focused) next?.querySelector("button:not([hidden])")?.focus();
  pump();
}

function summary() {
  const count = (state) => items.filter((item) => item.state === state).length;
  const active = count("waiting") + count("active"), paused = count("paused"), failed = count("failed");
  const parts = [`${count("done")} of ${items.length} uploaded`];
  if (paused) parts.push(`${paused} paused`);
  if (failed) parts.push(`${failed} failed`);
  const text = parts.join(", ");
  if (title.textContent !== text) title.textContent = text;
  const all = document.getElementById("pause-all");
  all.hidden = active + paused === 0;
  all.textContent = active ? "Pause all" : "Resume all";
  document.getElementById("clear").hidden = count("done") === 0;
}

document.getElementById("pause-all").addEventListener("click", () => {
  const active = items.filter((item) => item.state === "active" || item.state === "waiting");
  if (active.length) active.reverse().forEach((item) => item.pause());
  else items.filter((item) => item.state === "paused").forEach((item) => item.resume());
});
document.getElementById("clear").addEventListener("click", () => {
  items.filter((item) => item.state === "done").forEach(remove);
});

// Each folder is created once, for all files in it.
const created = new Map();
async function folders(base, names) {
  let path = base;
  for (const name of names) {
    path += `${name}/`;
    if (!created.has(path)) created.set(path, create(path));
    try {
      await created.get(path);
    } catch (error) {
      created.delete(path);
      throw error;
    }
  }
}

async function create(path) {
  const url = path.split("/").map(encodeURIComponent).join("/");
  const response = await send("MKCOL", url);
  if (response.status !== 405) check(response, 200, 201, 204); // 405: it exists (RFC 4918, 9.3.1)
}
