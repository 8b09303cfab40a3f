// Adapts a policy to the goal that the visitor chooses: collect, upload, adapt, round by round.

import { drawChart } from "./chart.js";
import { normal } from "./noise.js";
import { Policy } from "./policy.js";
import * as server from "./server.js";
import { collect, returnOf } from "./simulator.js";
import { clearPaths, drawGoal, drawGrid, drawPaths, hue, label, positionOf } from "./view.js";

const EPISODES = 20;
const ROUNDS = 3;
const RANGE = 0.5; // meters: meta-training drew its goals from [-RANGE, RANGE]²
const LIMIT = 0.75; // meters: the plane's edge, less the size of the goal
const KEY_STEP = 0.05; // meters
const IDLE = ["ready", "done", "error"];

const find = (selector) => document.querySelector(selector);
const run = {
  goal: [0.3, -0.2],
  session: "",
  policy: null,
  round: 0,
  returns: [],
  files: [], // the ONNX file of each round's policy
  best: null, // round of the best policy before the current one, as the server says
  episodes: [],
  noise: normal(1),
};

const isIdle = () => IDLE.includes(document.body.dataset.state);

function setState(state, text) {
  document.body.dataset.state = state;
  find("#status").textContent = text;
  setEnabled("#more", isIdle() && run.returns.length > 0);
  setEnabled("#save", isIdle() && run.round > 0);
}

// A disabled button would lose the keyboard's focus to the body.
const setEnabled = (button, enabled) => find(button).setAttribute("aria-disabled", String(!enabled));
const isEnabled = (button) => find(button).getAttribute("aria-disabled") === "false";

/** Appends a round to the log, and returns the element of its detail. */
function logRound(round, headline, detail) {
  const item = document.createElement("li");
  item.className = hue(round);
  const name = Object.assign(document.createElement("span"), { className: "name", textContent: label(round) });
  const text = document.createElement("span");
  text.append(headline, Object.assign(document.createElement("small"), { textContent: detail }));
  item.append(name, text);
  find("#log").append(item);
  return text.lastChild;
}

/** Appends the verdict on the step from a round's policy to the round in the log. */
function logVerdict(verdict) {
  const line = document.createElement("small");
  line.className = "verdict";
  line.dataset.decision = verdict.decision;
  const words = verdict.decision.toLowerCase().replace("_", " ");
  line.append(Object.assign(document.createElement("b"), { textContent: `Step ${words}` }));
  if (verdict.text) line.append(`: ${verdict.text}`);
  find("#log").lastChild.lastChild.append(line);
}

const meanOf = (values) => values.reduce((a, b) => a + b, 0) / values.length;

/** The round of the best policy: the last one, or the best one before where that had the higher return. */
function bestRound() {
  const last = run.returns.length - 1;
  const means = run.returns.map(meanOf);
  const before = run.best ?? means.slice(0, last).reduce((best, mean, k) => (mean > means[best] ? k : best), 0);
  return means[last] >= means[before] ? last : before;
}

const format = (value, digits = 1) => value.toFixed(digits).replace("-", "−");

/** Collects, draws and logs episodes with the current policy. */
async function collectRound() {
  setState("collecting", `${label(run.round)} collects ${EPISODES} episodes with exploration noise.`);
  const episodes = await collect(run.policy, run.goal, EPISODES, run.noise);
  const returns = episodes.map(returnOf);
  const mean = meanOf(returns);
  run.returns.push(returns);
  await drawPaths(run.round, episodes);
  drawChart(run.returns);
  const distances = episodes.map(({ final }) => Math.hypot(final[0] - run.goal[0], final[1] - run.goal[1]));
  const distance = distances.reduce((a, b) => a + b, 0) / EPISODES;
  logRound(run.round, `mean return ${format(mean)}`, `ends ${format(distance, 2)} m from the goal on average`);
  // Tests read the rounds from here.
  const rounds = JSON.parse(document.body.dataset.rounds ?? "[]");
  document.body.dataset.rounds = JSON.stringify([...rounds, { mean_return: mean, distance }]);
  run.episodes = episodes;
}

/** Uploads the episodes and takes one step: the policy becomes θ′ of the next round. */
async function step() {
  setState("uploading", "The page uploads observations, actions and rewards.");
  const receipt = await server.upload(run.session, run.policy, run.episodes);
  setState("adapting", "The server takes one step.");
  const reply = await server.adapt(run.session);
  const next = await Policy.load(reply.policy);
  await run.policy.release();
  run.policy = next;
  run.files.push(next.onnx);
  run.best = reply.best_round;
  run.round += 1;
  const { seconds, kl_divergence: kl, late_discount: discount } = reply.report;
  find("#log").lastChild.querySelector("small").textContent +=
    `; ${receipt.steps} steps uploaded, ${(receipt.bytes / 1024).toFixed(0)} KiB; ` +
    `update with KL ${format(kl, 2)} in ${format(1e3 * seconds)} ms` +
    (discount === null ? "" : `; late rewards, discount ${format(discount, 2)}`);
  if (reply.report.verdict) logVerdict(reply.report.verdict);
}

async function adaptTo(goal) {
  run.goal = goal;
  drawGoal(goal);
  clearPaths();
  find("#log").replaceChildren();
  Object.assign(run, { round: 0, returns: [], files: [], best: null, episodes: [] });
  delete document.body.dataset.rounds;
  drawChart([]);
  setState("collecting", "The server creates a session.");
  const created = await server.createSession();
  run.session = created.session_id;
  await run.policy?.release();
  run.policy = await Policy.load(created.policy);
  run.files.push(run.policy.onnx);
  await collectRound();
  await adaptRounds(ROUNDS);
}

async function adaptRounds(count) {
  for (let round = 0; round < count; round++) {
    await step();
    await collectRound();
  }
  const best = bestRound();
  document.body.dataset.best = String(best);
  const outcome = best === 0 ? "nothing was gained: θ is the best policy for this goal" : `${label(best)} is the best policy for this goal`;
  const last = best === run.round ? "" : `${label(run.round)} returned less; `;
  setState("done", `${last}${outcome}. Click to set another one.`);
}

/** Runs one task at a time, and shows its error. */
async function runTask(task) {
  if (!isIdle()) return;
  try {
    await task();
  } catch (error) {
    setState("error", error.message);
  }
}

/** Adapts to a goal; one outside the square is unlike those of meta-training, and the verdict says so. */
const chooseGoal = (goal) => runTask(() => adaptTo(goal.map(clamp)));

const clamp = (value) => Math.min(Math.max(value, -LIMIT), LIMIT);

function listen() {
  const plane = find("#plane");
  plane.addEventListener("click", (event) => chooseGoal(positionOf(event)));
  plane.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const move = moves[event.key];
    if (!move && event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    if (!move) chooseGoal(run.goal);
    else if (isIdle()) {
      run.goal = run.goal.map((value, i) => clamp(value + KEY_STEP * move[i]));
      drawGoal(run.goal);
    }
  });
  find("#more").addEventListener("click", () => isEnabled("#more") && runTask(() => adaptRounds(1)));
  find("#save").addEventListener("click", () => {
    if (!isEnabled("#save")) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([run.files[bestRound()]], { type: "application/octet-stream" }));
    link.download = "policy.onnx";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  window.addEventListener("resize", () => drawChart(run.returns));
}

drawGrid(RANGE);
drawGoal(run.goal);
drawChart([]);
listen();
setState("ready", "Choose a goal.");
