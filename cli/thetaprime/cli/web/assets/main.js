// From a goal to an adapted policy: collect, send, adapt, round after round.

import { drawChart } from "./chart.js";
import { normal } from "./noise.js";
import { Policy } from "./policy.js";
import * as server from "./server.js";
import { collect, returnOf } from "./simulator.js";
import { clearPaths, drawGoal, drawGrid, drawPaths, hue, label, place } from "./view.js";

const EPISODES = 20;
const ROUNDS = 3;
const RANGE = 0.5; // meta-training drew its goals from this square
const STEP = 0.05; // of an arrow key

const find = (selector) => document.querySelector(selector);
const run = { goal: [0.3, -0.2], session: "", policy: null, round: 0, returns: [], noise: normal(1) };

function tell(state, text) {
  document.body.dataset.state = state;
  find("#status").textContent = text;
  const busy = !["ready", "done", "error"].includes(state);
  find("#more").disabled = busy || !run.policy || !run.returns.length;
  find("#save").disabled = busy || run.round === 0;
}

function note(round, headline, detail) {
  const item = document.createElement("li");
  item.className = hue(round);
  const name = Object.assign(document.createElement("span"), { className: "name", textContent: label(round) });
  const text = document.createElement("span");
  text.append(headline, Object.assign(document.createElement("small"), { textContent: detail }));
  item.append(name, text);
  find("#log").append(item);
  return text.lastChild;
}

const shown = (value, digits = 1) => value.toFixed(digits).replace("-", "−");

/** Episodes with the current policy, drawn and told. */
async function collectRound() {
  tell("collecting", `${label(run.round)} walks: ${EPISODES} episodes, with noise to explore.`);
  const episodes = await collect(run.policy, run.goal, EPISODES, run.noise);
  const returns = episodes.map(returnOf);
  const mean = returns.reduce((a, b) => a + b, 0) / EPISODES;
  run.returns.push(returns);
  await drawPaths(run.round, episodes);
  drawChart(run.returns);
  const ends = episodes.map(({ final }) => Math.hypot(final[0] - run.goal[0], final[1] - run.goal[1]));
  const away = ends.reduce((a, b) => a + b, 0) / EPISODES;
  note(run.round, `mean return ${shown(mean)}`, `ends ${shown(away, 2)} m from the goal on average`);
  // For whoever watches this page from outside.
  const told = JSON.parse(document.body.dataset.rounds ?? "[]");
  document.body.dataset.rounds = JSON.stringify([...told, { mean_return: mean, distance: away }]);
  return episodes;
}

/** Sends episodes and takes one step: θ′ of the next round. */
async function step(episodes) {
  tell("sending", "Their observations, actions and rewards go to the server.");
  const receipt = await server.upload(run.session, run.policy, episodes);
  tell("adapting", "The server takes a step.");
  const reply = await server.adapt(run.session);
  const next = await Policy.load(reply.policy);
  await run.policy.release();
  run.policy = next;
  run.round += 1;
  const { seconds, kl_divergence: kl } = reply.report;
  find("#log").lastChild.querySelector("small").textContent +=
    `; ${receipt.steps} steps sent, ${(receipt.bytes / 1024).toFixed(0)} KiB; ` +
    `a step of KL ${shown(kl, 2)} in ${shown(1e3 * seconds)} ms`;
}

async function adaptTo(goal) {
  run.goal = goal;
  drawGoal(goal);
  clearPaths();
  find("#log").replaceChildren();
  Object.assign(run, { round: 0, returns: [] });
  delete document.body.dataset.rounds;
  drawChart([]);
  tell("collecting", "A session is opened.");
  const opened = await server.open();
  run.session = opened.session_id;
  await run.policy?.release();
  run.policy = await Policy.load(opened.policy);
  run.pending = await collectRound();
  for (let round = 0; round < ROUNDS; round++) await once();
  finish();
}

async function once() {
  await step(run.pending);
  run.pending = await collectRound();
}

function finish() {
  tell("done", `${label(run.round)} knows where to go. Click elsewhere for another goal.`);
}

/** Runs what takes a while, one at a time, and says what went wrong. */
async function guarded(work) {
  if (!["ready", "done", "error"].includes(document.body.dataset.state)) return;
  try {
    await work();
  } catch (error) {
    tell("error", error.message);
  }
}

const within = (value) => Math.min(Math.max(value, -RANGE), RANGE);

function listen() {
  const plane = find("#plane");
  plane.addEventListener("click", (event) => guarded(() => adaptTo(place(event).map(within))));
  plane.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
    const move = moves[event.key];
    if (!move && event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    if (!move) guarded(() => adaptTo(run.goal));
    else if (["ready", "done", "error"].includes(document.body.dataset.state)) {
      run.goal = run.goal.map((value, i) => within(value + move[i]));
      drawGoal(run.goal);
    }
  });
  find("#more").addEventListener("click", () => guarded(async () => {
    await once();
    finish();
  }));
  find("#save").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([run.policy.onnx], { type: "application/octet-stream" }));
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
tell("ready", "Choose a goal.");
