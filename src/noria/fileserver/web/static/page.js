// Puts the parts together; what only scripts can do is shown from here on.

import { start } from "./listing.js";
import { decoded } from "./words.js";

const directory = decoded(document.body.dataset.path);

document.documentElement.classList.add("script");
if ("writable" in document.body.dataset && directory !== null) {
  const [changes, drop, queue] = await Promise.all([
    import("./changes.js"), import("./drop.js"), import("./queue.js"),
  ]);
  start(changes.act);
  sending(changes, drop, queue);
} else {
  start(null);
}
document.documentElement.dataset.ready = "";

function sending(changes, drop, queue) {
  const byId = (id) => document.getElementById(id);
  byId("new-folder").addEventListener("click", changes.newFolder);
  for (const [button, input] of [["choose-files", "files"], ["choose-folder", "folder"]]) {
    byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", (event) => {
      queue.add(drop.chosen(event.target.files), directory);
      event.target.value = ""; // so that the same can be chosen again
    });
  }
  addEventListener("beforeunload", (event) => { if (queue.busy()) event.preventDefault(); });

  let depth = 0; // enter and leave come for every element on the way
  const files = (event) => event.dataTransfer?.types.includes("Files");
  const show = (by) => {
    depth = Math.max(0, depth + by);
    byId("drop").hidden = depth === 0;
  };
  addEventListener("dragenter", (event) => { if (files(event)) { event.preventDefault(); show(1); } });
  addEventListener("dragleave", (event) => { if (files(event)) show(-1); });
  addEventListener("dragover", (event) => { if (files(event)) event.preventDefault(); });
  addEventListener("drop", async (event) => {
    if (!files(event)) return;
    event.preventDefault();
    show(-depth);
    try {
      queue.add(await drop.dropped(event.dataTransfer), directory);
    } catch (error) {
      byId("problem").textContent = `Not all of it could be read: ${error.message}`;
      byId("problem").hidden = false;
    }
  });
}
