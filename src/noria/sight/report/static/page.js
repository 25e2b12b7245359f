// Puts the parts together; a live page fetches new numbers at each interval.
"use strict";

let data = JSON.parse(byId("data").textContent);
let chosenLoop = 0;

const busiest = () => data.loops.reduce((best, loop, i) => (loop.events > data.loops[best].events ? i : best), 0);

const shownLoop = () => data.loops[Math.min(chosenLoop, data.loops.length - 1)];

const show = () => {
  const loops = data.loops;
  byId("loop-label").hidden = loops.length < 2;
  byId("loop").replaceChildren(
    ...loops.map((loop, i) => element("option", { value: String(i), textContent: `${loop.id} ${loop.model} ${loop.thread}`, selected: i === chosenLoop })),
  );
  if (!loops.length) {
    byId("facts").replaceChildren(element("div", {}, element("dd", { textContent: "No loop ran." })));
    return;
  }
  const loop = shownLoop();
  loop.max_block = data.max_block;
  showFacts(data, loop);
  timeline.show(loop);
  showDelays(loop);
  flame.show(loop);
  tables.show(loop);
};

timeline.start();
flame.start();
tables.start();
byId("loop").addEventListener("change", (event) => {
  chosenLoop = Number(event.target.value);
  show();
});
themeListeners.push(() => data.loops.length && showDelays(shownLoop()));
if (data.loops.length) chosenLoop = busiest();
show();

const interval = Number(document.body.dataset.live) * 1000;
let paused = false;
const renew = async () => {
  const state = byId("state");
  try {
    if (!paused) {
      const answer = await fetch("data");
      if (!answer.ok) throw new Error(String(answer.status));
      data = await answer.json();
      const well = data.answering && !data.ended;
      state.textContent = data.ended ? "the process has ended" : well ? "live" : "the process does not answer";
      state.className = well ? "" : "bad";
      showFindings(data.findings);
      show();
    }
  } catch {
    state.textContent = "noria top does not answer";
    state.className = "bad";
  }
  setTimeout(renew, interval);
};
if (interval > 0) {
  byId("pause").addEventListener("click", () => {
    paused = !paused;
    byId("pause").textContent = paused ? "continue" : "pause";
  });
  setTimeout(renew, interval);
}
