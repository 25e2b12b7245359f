// New folder, rename, delete: a dialog, then a request, then a refresh of the listing.

import { check, send } from "./tus.js";
import { refresh, select } from "./listing.js";
import { decoded } from "./format.js";

const dialog = document.getElementById("dialog");
const part = (name) => document.getElementById(`dialog-${name}`);
part("no").addEventListener("click", () => dialog.close());
let current = null; // what the open dialog was opened with: { name, act }
const directory = document.body.dataset.path;

// Shows the dialog until it is cancelled or `act(name)` succeeds. Errors are shown in it. `act`
// returns the name of the row to focus. A dialog without `name` does not have the name field.
function show({ title, text = "", name = null, yes, danger = false, act }) {
  part("title").textContent = title;
  part("text").textContent = text;
  part("problem").textContent = "";
  part("label").hidden = name === null;
  part("name").value = name ?? "";
  part("yes").textContent = yes;
  part("yes").className = `button ${danger ? "danger" : "primary"}`;
  current = { name, act };
  dialog.showModal();
  if (name === null) return part("yes").focus();
  part("name").focus();
  const dot = name.lastIndexOf(".");
  part("name").setSelectionRange(0, dot > 0 ? dot : name.length); // select all but the extension
}

dialog.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { name, act } = current;
  const given = part("name").value;
  const problem = name === null ? "" : nameProblem(given);
  if (problem) { part("problem").textContent = problem; return; }
  part("yes").disabled = true;
  try {
    const selected = await act(given);
    await refresh(true);
    dialog.close(); // restores the focus, if the element still exists
    if (selected) select(selected);
  } catch (error) {
    part("problem").textContent = error.message;
  } finally {
    part("yes").disabled = false;
  }
});

function nameProblem(name) {
  if (name === "") return "Enter a name.";
  if (name === "." || name === "..") return "“.” and “..” cannot be used as names.";
  return /[/\0]/.test(name) ? "A name cannot have “/” in it." : "";
}

export function newFolder() {
  show({
    title: "New folder",
    name: "",
    yes: "Create",
    act: async (name) => {
      const response = await send("MKCOL", `${directory}${encodeURIComponent(name)}/`);
      if (response.status === 405) throw new Error("A file or folder with that name already exists.");
      check(response, 200, 201, 204);
      return name;
    },
  });
}

export function act(what, row) {
  const link = row.querySelector("td.name a");
  const href = new URL(link.getAttribute("href"), document.baseURI).pathname;
  const isFolder = "directory" in row.dataset;
  const name = row.dataset.name;
  if (what === "rename") {
    show({
      title: "Rename",
      name: decoded(href.replace(/\/$/, "").split("/").pop()) ?? name,
      yes: "Rename",
      act: async (to) => {
        const target = directory + encodeURIComponent(to) + (isFolder ? "/" : "");
        if (target === href) return name;
        const headers = { Destination: target, Overwrite: "F" };
        const response = await send("MOVE", href, { headers });
        if (response.status === 412) throw new Error("A file or folder with that name already exists.");
        check(response, 200, 201, 204);
        return to;
      },
    });
  } else {
    show({
      title: isFolder ? "Delete this folder and everything in it?" : "Delete this file?",
      text: name,
      yes: "Delete",
      danger: true,
      act: async () => {
        const next = row.nextElementSibling ?? row.previousElementSibling;
        await remove(href, isFolder);
        return next?.dataset.name;
      },
    });
  }
}

// Deletes the contents of a folder first, because the server removes only empty ones.
async function remove(href, isFolder) {
  if (isFolder) {
    const response = await fetch(href, { headers: { Accept: "application/json" } });
    if (!response.ok) throw new Error(`the server responded ${response.status} ${response.statusText}`);
    for (const entry of (await response.json()).entries) {
      const inside = entry.type === "directory";
      await remove(`${href}${encodeURIComponent(entry.name)}${inside ? "/" : ""}`, inside);
    }
  }
  const response = await send("DELETE", href);
  if (response.status !== 404) check(response, 200, 202, 204);
}
