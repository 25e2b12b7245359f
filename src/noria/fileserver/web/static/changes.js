// New folder, rename, delete: asked for in a dialog, told to the server, shown in the listing.

import { check, send } from "./tus.js";
import { refresh, select } from "./listing.js";
import { decoded } from "./words.js";

const dialog = document.getElementById("dialog");
const part = (name) => document.getElementById(`dialog-${name}`);
part("no").addEventListener("click", () => dialog.close());
let asked = null; // what the dialog is about: its name, if it asks for one, and what "yes" does
const directory = document.body.dataset.path;

// Shows the dialog until it is given up or `act(name)` goes well; what goes wrong is said in it.
// `act` returns the name of the row that is to have the focus then.
function ask({ title, text = "", name = null, yes, danger = false, act }) {
  part("title").textContent = title;
  part("text").textContent = text;
  part("problem").textContent = "";
  part("label").hidden = name === null;
  part("name").value = name ?? "";
  part("yes").textContent = yes;
  part("yes").className = `button ${danger ? "danger" : "primary"}`;
  asked = { name, act };
  dialog.showModal();
  if (name === null) return part("yes").focus();
  part("name").focus();
  const dot = name.lastIndexOf(".");
  part("name").setSelectionRange(0, dot > 0 ? dot : name.length); // the ending mostly stays
}

dialog.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { name, act } = asked;
  const given = part("name").value;
  const wrong = name === null ? "" : misnamed(given);
  if (wrong) { part("problem").textContent = wrong; return; }
  part("yes").disabled = true;
  try {
    const selected = await act(given);
    await refresh(true);
    dialog.close(); // gives the focus back, if what had it is still there
    if (selected) select(selected);
  } catch (error) {
    part("problem").textContent = error.message;
  } finally {
    part("yes").disabled = false;
  }
});

function misnamed(name) {
  if (name === "") return "A name is needed.";
  if (name === "." || name === "..") return "That name is taken by the system.";
  return /[/\0]/.test(name) ? "A name has no “/” in it." : "";
}

export function newFolder() {
  ask({
    title: "New folder",
    name: "",
    yes: "Make it",
    act: async (name) => {
      const answer = await send("MKCOL", `${directory}${encodeURIComponent(name)}/`);
      if (answer.status === 405) throw new Error("There is something of that name already.");
      check(answer, 200, 201, 204);
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
    ask({
      title: "Rename",
      name: decoded(href.replace(/\/$/, "").split("/").pop()) ?? name,
      yes: "Rename",
      act: async (to) => {
        const target = directory + encodeURIComponent(to) + (isFolder ? "/" : "");
        if (target === href) return name;
        const headers = { Destination: target, Overwrite: "F" };
        const answer = await send("MOVE", href, { headers });
        if (answer.status === 412) throw new Error("There is something of that name already.");
        check(answer, 200, 201, 204);
        return to;
      },
    });
  } else {
    ask({
      title: isFolder ? "Delete this folder and all that is in it?" : "Delete this file?",
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

// A folder's content first: servers remove only empty ones.
async function remove(href, isFolder) {
  if (isFolder) {
    const answer = await fetch(href, { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error(`the server says ${answer.status} ${answer.statusText}`);
    for (const entry of (await answer.json()).entries) {
      const inside = entry.type === "directory";
      await remove(`${href}${encodeURIComponent(entry.name)}${inside ? "/" : ""}`, inside);
    }
  }
  const answer = await send("DELETE", href);
  if (answer.status !== 404) check(answer, 200, 202, 204);
}
