// The entry point: connects the modules and shows the controls that need scripts.

import { start } from "./listing.js";
import { decoded } from "./format.js";

const directory = decoded(document.body.dataset.path);

document.documentElement.classList.add("script");
if ("writable" in document.body.dataset && directory !== null) {
  const [changes, drop, queue] = await Promise.all([
    import("./changes.js"), import("./drop.js"), import("./queue.js"),
  ]);
  start(changes.act);
  enableChanges(changes, drop, queue);
} else {
  start(null);
}
document.documentElement.dataset.ready = "";

function enableChanges(changes, drop, queue) {
  const byId = (id) => document.getElementById(id);
  byId("new-folder").addEventListener("click", changes.newFolder);
  for (const [button, input] of [["choose-files", "files"], ["choose-folder", "folder"]]) {
    byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", (event) => {
      queue.add(drop.chosen(event.target.files), directory);
      event.target.value = ""; // so that the same file can be chosen again
    });
  }
  addEventListener("beforeunload", (event) => { if (queue.busy()) event.preventDefault(); });

  let depth = 0; // dragenter and dragleave fire for each nested element
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
      byId("problem").textContent = `Some files could not be read: ${error.message}`;
      byId("problem").hidden = false;
    }
  });
}
