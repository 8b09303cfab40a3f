/** Calls the Node example's modules for tests in Python: one request per line of stdin, one response per line of stdout. */

import { createInterface } from 'node:readline';

import { Client } from '../../examples/node/client/client.mjs';
import { Policy } from '../../examples/node/policy/policy.mjs';
import { Random } from '../../examples/node/policy/random.mjs';
import { RememberingPolicy } from '../../examples/node/policy/remembering.mjs';
import { PointNavigation } from '../../examples/node/simulator/point-navigation.mjs';
import { arrayFromMessage } from '../../examples/node/wire/arrays.mjs';
import { sha256Hex } from '../../examples/node/wire/digests.mjs';
import { messageType } from '../../examples/node/wire/protos.mjs';
import { pack } from '../../examples/node/wire/trajectories.mjs';

const bytes = (hex) => Buffer.from(hex, 'hex');
const array = ({ data, ...message }) => arrayFromMessage({ ...message, data: bytes(data) }, 'array');

const answers = {
  /** Packs trajectories into the payload of an upload. */
  pack({ trajectories }) {
    const payload = pack(
      trajectories.map((each) => ({
        ...each,
        observations: array(each.observations),
        actions: array(each.actions),
        rewards: array(each.rewards),
        finalObservation: array(each.finalObservation),
      })),
    );
    return { payload: payload.toString('hex'), sha256: sha256Hex(payload) };
  },

  /** Runs one episode of point navigation with given actions. */
  simulate({ goal, actions }) {
    const simulator = new PointNavigation(goal);
    const first = [...simulator.reset()];
    const steps = actions.map((action) => simulator.step(Float32Array.from(action)));
    return { first, steps: steps.map(({ observation, ...rest }) => ({ ...rest, observation: [...observation] })) };
  },

  /** Returns a policy's actions for each observation, and many samples for the first one. */
  async act({ policy, environment, observations, samples }) {
    const message = messageType('thetaprime.v1.Policy').deserialize(bytes(policy));
    const contract = messageType('thetaprime.v1.EnvironmentContract').deserialize(bytes(environment));
    const loaded = await Policy.load(message, contract);
    const plain = (action) => (typeof action === 'number' ? action : [...action]);
    const [actions, sampled, random] = [[], [], new Random('harness')];
    for (const each of observations) actions.push(plain(await loaded.act(Float32Array.from(each))));
    for (let i = 0; i < samples; i += 1) {
      const { forEnvironment, toRecord } = await loaded.sample(Float32Array.from(observations[0]), random);
      sampled.push([plain(forEnvironment), plain(toRecord)]);
    }
    return { actions, sampled };
  },

  /** Runs a policy with a memory over one lifetime, from its file and its metadata alone. */
  async remember({ onnx, metadata, steps }) {
    const policy = await RememberingPolicy.load(bytes(onnx), metadata);
    const actions = [];
    for (const { observation, begins, reward, done } of steps) {
      if (begins) policy.reset();
      else policy.observe(reward, done);
      const action = await policy.act(observation);
      actions.push(typeof action === 'number' ? action : [...action]);
    }
    return { actions };
  },

  /** Uploads a number of long trajectories of zeros to a new session. */
  async upload({ address, trajectories }) {
    const client = new Client(address);
    try {
      const { session } = await client.createSession({ requestId: 'harness', metaPolicy: 'point-navigation' });
      const { horizon } = session.metaPolicy.environment;
      const zeros = (...shape) => ({ values: new Float32Array(shape.reduce((product, each) => product * each)), shape });
      const trajectory = {
        policyId: session.policyId,
        observations: zeros(horizon, 2),
        actions: zeros(horizon, 2),
        rewards: zeros(horizon),
        terminated: false,
        truncated: true,
        finalObservation: zeros(2),
      };
      const acknowledged = await client.uploadTrajectories(session, Array(trajectories).fill(trajectory));
      return { acknowledged };
    } finally {
      client.close();
    }
  },

  /** Returns the responses of every reading call, and of closing the session. */
  async read({ address, sessionId }) {
    const client = new Client(address);
    try {
      const { metaPolicies } = await client.listMetaPolicies();
      const listed = [];
      let token = '';
      do {
        const page = await client.listSessions(1, token);
        listed.push(...page.sessions.map((session) => session.sessionId));
        token = page.nextPageToken;
      } while (token !== '');
      const { session, reports } = await client.getSession(sessionId);
      const policies = [await client.getPolicy(sessionId, 0), await client.getPolicy(sessionId)];
      const closed = await client.closeSession(sessionId);
      return {
        metaPolicies: metaPolicies.map(({ name, version }) => `${name}@${version}`),
        listed,
        batch: session.batch,
        returns: reports.map((report) => report.meanReturn),
        policies: policies.map(({ policy }) => policy.policyId),
        states: [session.state, closed.session.state],
      };
    } finally {
      client.close();
    }
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { call, ...request } = JSON.parse(line);
  let answer;
  try {
    answer = await answers[call](request);
  } catch (error) {
    answer = { error: `${error.name}: ${error.message}`, code: error.code, reason: error.reason };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
