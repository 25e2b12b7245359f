// The main figures and, on a live page, the findings: as in page.html.j2.
"use strict";

const showFacts = (data, loop) => {
  const seconds = loop.span / 1e6 || 1;
  const facts = [
    ["utilisation", percent(loop.utilization)],
    ["model", loop.model || "–"],
    ["observed for", duration(loop.span)],
    ["events a second", count(loop.events / seconds)],
    ["turns", count(loop.turns)],
    ["system calls an event", loop.events ? (loop.calls / loop.events).toFixed(2) : "–"],
    ["tasks", `${loop.tasks_alive === null ? "" : `${count(loop.tasks_alive)} alive, `}${count(loop.tasks_created)} created`],
    ["connections", `${count(loop.connections_open)} open, ${count(loop.connections_opened)} opened`],
    ["longest turn", duration(loop.turn.longest), loop.turn.longest > data.max_block],
    ["blocked", { 0: "never", 1: "once" }[loop.blocks.length] ?? `${loop.blocks.length} times`, loop.blocks.length > 0],
    ["collections", `${count(loop.gc_pauses.count)}, longest ${duration(loop.gc_pauses.longest)}`],
    ["process", `${data.pid}, Python ${data.python}`],
  ];
  if (loop.dropped) facts.push(["records lost", count(loop.dropped), true]);
  if (data.loops_hidden) facts.push(["other loops", `${count(data.loops_hidden)}: noria report --loop N`]);
  if (data.loops_lost) facts.push(["loops not recorded", count(data.loops_lost), true]);
  byId("facts").replaceChildren(
    ...facts.map(([name, value, bad]) =>
      element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value, className: bad ? "bad" : "" })),
    ),
  );
};

const showFindings = (findings) => {
  const made = findings.map((finding) =>
    element(
      "article",
      { className: `finding ${finding.severity}` },
      element("h3", {}, `${finding.title} `, element("span", { className: "kind", textContent: finding.kind })),
      ...(finding.place ? [element("p", {}, element("code", { textContent: finding.source ? `${finding.place}: ${finding.source}` : finding.place }))] : []),
      element("ul", {}, ...finding.evidence.map((text) => element("li", { textContent: text }))),
      element("p", { className: "advice", textContent: finding.advice }),
    ),
  );
  if (!made.length) made.push(element("p", { className: "none", textContent: "No findings: nothing here looks like a fault." }));
  byId("finding-list").replaceChildren(...made);
};
