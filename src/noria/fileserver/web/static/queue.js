// The list of uploads: what is under way, how fast, how long still; pause, resume, cancel.

import { Upload, Trouble, check, send } from "./tus.js";
import { bytes, duration } from "./words.js";

const AT_ONCE = 3;
const items = [];

const section = document.getElementById("uploads");
const list = document.getElementById("queue");
const title = document.getElementById("uploads-title");
const template = document.getElementById("upload");

// `found`: [{file, folders}], the folders being the names between `directory` and the file.
export async function add(found, directory) {
  for (const { file, folders } of found) items.push(new Item(file, directory, folders));
  section.hidden = items.length === 0;
  pump();
}

export const busy = () => items.some((item) => ["waiting", "going", "paused"].includes(item.state));

class Item {
  constructor(file, directory, folders) {
    this.file = file;
    this.base = directory;
    this.folders = folders;
    this.offset = 0;
    this.speed = 0; // bytes a second, smoothed
    const path = directory + folders.map((name) => `${name}/`).join("");
    this.upload = new Upload(file, path, {
      tell: (offset) => this.moved(offset),
      wait: (message, pause) => this.say(`${message}; trying again in ${duration(pause / 1000)}`),
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
    this.become("waiting", "waiting");
  }

  become(state, text) {
    this.state = state;
    this.row.dataset.state = state;
    const button = (name) => this.row.querySelector(`[data-do="${name}"]`);
    const active = state === "waiting" || state === "going";
    const focused = this.row.contains(document.activeElement);
    button("pause").hidden = !active;
    button("resume").hidden = !(state === "paused" || state === "failed");
    button("cancel").hidden = state === "done";
    if (focused) this.row.querySelector("button:not([hidden])")?.focus();
    this.say(text);
    summary();
  }

  say(text) {
    this.row.querySelector(".upload-state").textContent = text;
  }

  moved(offset) {
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
    this.say(`${Math.floor(share * 100)}% of ${bytes(this.file.size)}${speed}${left}`);
  }

  async go() {
    this.control = new AbortController();
    this.at = undefined;
    this.speed = 0;
    this.become("going", "starting");
    try {
      await folders(this.base, this.folders);
      await this.upload.run(this.control.signal);
      this.row.querySelector("progress").value = 1;
      this.become("done", `done, ${bytes(this.file.size)}`);
    } catch (error) {
      if (error.name !== "AbortError") this.become("failed", error.message);
      if (!(error instanceof Trouble) && error.name !== "AbortError") console.error(error);
    }
    pump();
  }

  pause() {
    this.control?.abort();
    this.moved(this.upload.there);
    const share = this.file.size ? this.upload.there / this.file.size : 0;
    this.become("paused", `paused at ${Math.floor(share * 100)}%`);
  }

  resume() {
    this.become("waiting", "waiting");
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
  let room = AT_ONCE - items.filter((item) => item.state === "going").length;
  for (const item of items) {
    if (room <= 0) break;
    if (item.state === "waiting") {
      room -= 1;
      item.go();
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
  const going = count("waiting") + count("going"), paused = count("paused"), failed = count("failed");
  const parts = [`${count("done")} of ${items.length} sent`];
  if (paused) parts.push(`${paused} paused`);
  if (failed) parts.push(`${failed} failed`);
  const said = parts.join(", ");
  if (title.textContent !== said) title.textContent = said;
  const all = document.getElementById("pause-all");
  all.hidden = going + paused === 0;
  all.textContent = going ? "Pause all" : "Resume all";
  document.getElementById("clear").hidden = count("done") === 0;
}

document.getElementById("pause-all").addEventListener("click", () => {
  const going = items.filter((item) => item.state === "going" || item.state === "waiting");
  if (going.length) going.reverse().forEach((item) => item.pause());
  else items.filter((item) => item.state === "paused").forEach((item) => item.resume());
});
document.getElementById("clear").addEventListener("click", () => {
  items.filter((item) => item.state === "done").forEach(remove);
});

// Each folder is made once, however many files want it.
const made = new Map();
async function folders(base, names) {
  let path = base;
  for (const name of names) {
    path += `${name}/`;
    if (!made.has(path)) made.set(path, make(path));
    try {
      await made.get(path);
    } catch (error) {
      made.delete(path);
      throw error;
    }
  }
}

async function make(path) {
  const url = path.split("/").map(encodeURIComponent).join("/");
  const answer = await send("MKCOL", url);
  if (answer.status !== 405) check(answer, 200, 201, 204); // 405: it is there (RFC 4918, 9.3.1)
}
