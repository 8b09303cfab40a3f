// Draws the return by round: one dot per episode, and a line through the means.

import { element, hue, label } from "./view.js";

const chart = document.querySelector("#chart");
const HEIGHT = 152;
const LEFT = 40;
const BOTTOM = 22;

/** @param {number[][]} returns [round][episode] */
export function drawChart(returns) {
  const width = chart.clientWidth || 400;
  chart.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  const all = returns.flat();
  const low = Math.min(-1, ...all);
  const steps = Math.max(returns.length - 1, 3);
  const x = (round) => LEFT + 14 + (round / steps) * (width - LEFT - 34);
  const y = (value) => 8 + (value / low) * (HEIGHT - BOTTOM - 16);
  const tick = niceStep(-low / 3);
  const parts = [];
  for (let value = 0; value >= low; value -= tick) {
    parts.push(
      element("line", { class: "rule", x1: LEFT, x2: width, y1: y(value), y2: y(value) }),
      element("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, String(value).replace("-", "−")),
    );
  }
  const means = returns.map((each) => each.reduce((a, b) => a + b, 0) / each.length);
  parts.push(
    element("polyline", { class: "means", points: means.map((mean, k) => `${x(k)},${y(mean)}`).join(" ") }),
  );
  returns.forEach((each, k) => {
    each.forEach((value, i) => {
      // Deterministic jitter keeps the dots apart.
      const jitter = (((i * 7) % each.length) / each.length - 0.5) * 16;
      parts.push(element("circle", { class: `dot ${hue(k)}`, cx: x(k) + jitter, cy: y(value), r: 2.5 }));
    });
    parts.push(
      element("circle", { class: "mean", cx: x(k), cy: y(means[k]), r: 3.5 }),
      element("text", { class: "name", x: x(k), y: HEIGHT - 4, "text-anchor": "middle" }, label(k)),
    );
  });
  chart.replaceChildren(...parts);
  const summary = means.map((mean, k) => `${label(k)} ${mean.toFixed(1)}`).join(", ");
  chart.setAttribute("aria-label", `Mean return by policy: ${summary || "none yet"}`);
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
}
