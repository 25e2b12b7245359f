// The figures of `noria compare`, by the names of their places on the page.
"use strict";

const drawings = { noise, throughput, phases, waiting, idle, triggers };

const addPatterns = () => {
  const defs = d3.select("#patterns").append("defs");
  const addPattern = (id, stroke) => {
    const pattern = defs
      .append("pattern")
      .attr("id", id)
      .attr("width", 5)
      .attr("height", 5)
      .attr("patternUnits", "userSpaceOnUse")
      .attr("patternTransform", "rotate(45)");
    pattern.append("rect").attr("width", 5).attr("height", 5).attr("fill", stroke).attr("fill-opacity", 0.07);
    pattern.append("path").attr("d", "M1,0V5").attr("stroke", stroke).attr("stroke-width", 1.5);
  };
  for (const name of [...KNOWN_MODELS, "other"]) addPattern(`wait-${name}`, `var(--m-${name})`);
  addPattern("wait-key", "var(--dim)");
};

addPatterns();
