/** Adapts a policy to a goal through a running server: `node main.mjs --help`. */

import { randomUUID } from 'node:crypto';

import { HELP, readArguments } from './arguments.mjs';
import { Client } from './client/client.mjs';
import { collect, meanReturn } from './collect.mjs';
import { Policy } from './policy/policy.mjs';
import { Random } from './policy/random.mjs';
import { PointNavigation, requireFit } from './simulator/point-navigation.mjs';
import { CallError, InvalidInputError, PolicyVerificationError } from './wire/errors.mjs';

/** @returns {Promise<number>} the exit status */
async function main() {
  let options;
  try {
    options = readArguments(process.argv.slice(2), process.env);
    if (options.help) {
      process.stdout.write(HELP);
      return 0;
    }
    const client = new Client(options.address, options.connection);
    try {
      await adaptTo(options.goal, client, options);
    } finally {
      client.close();
    }
    return 0;
  } catch (error) {
    // Other errors are bugs, and keep their traceback.
    const expected = [InvalidInputError, CallError, PolicyVerificationError].some((kind) => error instanceof kind);
    if (!expected) throw error;
    console.error(`error: ${error.message}`);
    return options === undefined ? 2 : 1;
  }
}

async function adaptTo(goal, client, options) {
  const print = options.json ? console.error : console.log;
  let { session, policy, reports } = options.resume ? await resumeSession(client, options.resume) : await createSession(client, options);
  const { environment } = session.metaPolicy;
  const simulator = new PointNavigation(goal);
  print(`session ${session.sessionId}: continue it with --resume ${session.sessionId}`);
  print('round  episodes  mean return      std  KL, nats');
  reports.forEach((report) => print(row(report)));

  while (session.round < options.rounds) {
    let { batch } = session;
    const missing = options.trajectories - batch.trajectories;
    if (missing > 0) {
      // The key includes the earlier uploads, so that a resumed round does not repeat its first episodes.
      const random = new Random(options.seed, 'collect', session.round, batch.trajectories);
      const trajectories = await collect(policy, simulator, missing, environment.horizon, random);
      ({ batch } = await client.uploadTrajectories(session, trajectories));
    }
    const answer = await client.adapt(session, batch.sha256);
    session = answer.session;
    policy = await Policy.load(answer.policy, environment);
    reports = [...reports, answer.report];
    print(row(answer.report));
  }

  const random = new Random(options.seed, 'evaluate');
  const adaptedReturn = meanReturn(await collect(policy, simulator, options.trajectories, environment.horizon, random));
  const distance = await walk(policy, simulator, environment.horizon);
  print(`${cell(session.round, 5)}  ${cell(options.trajectories, 8)}  ${cell(adaptedReturn.toFixed(2), 11)}  (not uploaded)`);
  print(`an episode without noise ends ${distance.toFixed(3)} from the goal`);
  await policy.save(options.output);
  print(`wrote ${options.output} (${policy.metaPolicy}, policy ${policy.policyId.slice(0, 12)})`);
  await client.closeSession(session.sessionId);
  if (options.json) {
    console.log(
      JSON.stringify({
        meta_policy: policy.metaPolicy,
        goal,
        session: session.sessionId,
        policy_id: policy.policyId,
        returns: [...reports.map((report) => report.meanReturn), adaptedReturn],
        distance,
        onnx: options.output,
        sha256: policy.sha256,
      }),
    );
  }
}

/** Creates a session, which begins with θ. */
async function createSession(client, { metaPolicy, metaPolicyVersion }) {
  const found = await client.getMetaPolicy(metaPolicy, metaPolicyVersion);
  requireFit(metaPolicy, found.metaPolicy.environment);
  const { session, policy } = await client.createSession({
    requestId: randomUUID(), // retries of this call return the same session
    metaPolicy,
    metaPolicyVersion: found.metaPolicy.version,
  });
  return { session, policy: await Policy.load(policy, session.metaPolicy.environment), reports: [] };
}

/** Returns a session of an earlier process, with the uploads of its current round. */
async function resumeSession(client, sessionId) {
  const { session, reports } = await client.getSession(sessionId);
  requireFit(session.metaPolicy.name, session.metaPolicy.environment);
  const { policy } = await client.getPolicy(sessionId, session.round);
  return { session, policy: await Policy.load(policy, session.metaPolicy.environment), reports };
}

/** Runs one episode without noise, and returns its final distance to the goal. */
async function walk(policy, simulator, horizon) {
  let observation = simulator.reset();
  for (let step = 0, terminated = false; step < horizon && !terminated; step += 1) {
    ({ observation, terminated } = simulator.step(await policy.act(observation)));
  }
  return Math.hypot(...simulator.position.map((x, i) => x - simulator.goal[i]));
}

function row({ round, trajectories, meanReturn: mean, stdReturn, klDivergence }) {
  const numbers = [cell(mean.toFixed(2), 11), cell(stdReturn.toFixed(2), 7), cell(klDivergence.toFixed(4), 8)];
  return [cell(round, 5), cell(trajectories, 8), ...numbers].join('  ');
}

function cell(value, width) {
  return String(value).padStart(width);
}

process.exitCode = await main();
