// Draws the plane: goal, paths and legend. One unit is one meter; y points up.

const SVG = "http://www.w3.org/2000/svg";

/** @param {string} name @param {Record<string, unknown>} attributes */
export function element(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  made.textContent = text;
  return made;
}

export const LAST_HUE = 3;
/** Returns the CSS class of a round's color; rounds beyond the last color share it. */
export const hue = (round) => `round-${Math.min(round, LAST_HUE)}`;
/** Returns θ, θ′₁, θ′₂, … */
export const label = (round) =>
  round === 0 ? "θ" : `θ′${String(round).replace(/\d/g, (digit) => "₀₁₂₃₄₅₆₇₈₉"[digit])}`;

const plane = document.querySelector("#plane");

/** @param {number} range half the side of the square of goals, in meters */
export function drawGrid(range) {
  const grid = document.querySelector("#grid");
  grid.replaceChildren(
    element("line", { class: "axis", x1: -0.8, x2: 0.8, y1: 0, y2: 0 }),
    element("line", { class: "axis", y1: -0.8, y2: 0.8, x1: 0, x2: 0 }),
    element("rect", { class: "range", x: -range, y: -range, width: 2 * range, height: 2 * range }),
    element("text", { class: "tick", x: range, y: range + 0.05, "text-anchor": "end" }, "goals of meta-training"),
    element("circle", { class: "start", r: 0.012 }),
    element("text", { class: "tick", x: -0.13, y: 0.045, "text-anchor": "end" }, "start"),
  );
}

/** @param {number[]} goal */
export function drawGoal([x, y]) {
  document.querySelector("#goal").replaceChildren(
    element("circle", { class: "ring", cx: x, cy: -y, r: 0.035 }),
    element("line", { class: "cross", x1: x - 0.018, x2: x + 0.018, y1: -y, y2: -y }),
    element("line", { class: "cross", x1: x, x2: x, y1: -y - 0.018, y2: -y + 0.018 }),
  );
}

/** @param {PointerEvent} event @returns {number[]} x, y on the plane */
export function positionOf(event) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(plane.getScreenCTM().inverse());
  return [point.x, -point.y];
}

/**
 * Draws the paths of one policy over the paths of earlier policies, and waits for the animation.
 * @param {number} round
 * @param {import("./simulator.js").Episode[]} episodes
 */
export async function drawPaths(round, episodes) {
  const paths = document.querySelector("#paths");
  for (const group of paths.children) group.classList.add("past");
  const group = element("g", { class: `${hue(round)} drawn` });
  for (const episode of episodes) {
    const points = [...episode.observations, episode.final].map(([x, y]) => `${x.toFixed(4)},${(-y).toFixed(4)}`);
    const [x, y] = episode.final;
    group.append(
      element("polyline", { class: "path", points: points.join(" "), pathLength: 1 }),
      element("circle", { class: "end", cx: x, cy: -y, r: 0.01 }),
    );
  }
  paths.append(group);
  await Promise.allSettled(group.getAnimations({ subtree: true }).map((animation) => animation.finished));
  group.classList.remove("drawn");
  const key = element("svg", { viewBox: "0 0 28 12", class: hue(round) });
  key.append(element("line", { class: "mean-line", x1: 0, x2: 28, y1: 6, y2: 6, "stroke-width": 3 }));
  const item = document.createElement("li");
  item.append(key, label(round));
  document.querySelector("#legend").append(item);
}

export function clearPaths() {
  document.querySelector("#paths").replaceChildren();
  document.querySelector("#legend").replaceChildren();
}
