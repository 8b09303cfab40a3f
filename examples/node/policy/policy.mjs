/** Verifies and runs an ONNX policy on onnxruntime. */

import { randomUUID } from 'node:crypto';
import { open, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

import { InferenceSession, Tensor } from 'onnxruntime-node';

import { arrayFromMessage, count } from '../wire/arrays.mjs';
import { sha256Hex } from '../wire/digests.mjs';
import { InvalidInputError, PolicyVerificationError } from '../wire/errors.mjs';
import { BoxActions, DiscreteActions } from './actions.mjs';

const CONTRACT_VERSION = '1';
/** Tolerance of the golden vectors, absolute and relative. */
const TOLERANCE = 1e-5;

export class Policy {
  /**
   * Loads the policy of a server's reply, and compares the file with every field of the reply.
   *
   * @param {object} message a `thetaprime.v1.Policy`
   * @param {object} environment the meta-policy's `EnvironmentContract`
   * @throws {PolicyVerificationError} the file is damaged, has another contract, or fails its golden vectors
   */
  static async load(message, environment) {
    const digest = sha256Hex(message.onnx);
    if (digest !== message.onnxSha256) {
      throw new PolicyVerificationError(`sha256 of the policy is ${digest}; expected ${message.onnxSha256}: the file is damaged`);
    }
    const version = message.metadata['thetaprime.contract_version'];
    if (version !== CONTRACT_VERSION) {
      throw new PolicyVerificationError(`contract_version is ${version}; this client reads ${CONTRACT_VERSION}`);
    }
    if (message.metadata['thetaprime.policy_id'] !== message.policyId) {
      throw new PolicyVerificationError(
        `the reply has policy_id ${message.policyId}; its metadata has ${message.metadata['thetaprime.policy_id']}`,
      );
    }
    const policy = new Policy(message, environment, await openSession(message.onnx));
    policy.#checkSignature();
    await policy.#checkGolden(message.golden);
    return policy;
  }

  constructor(message, environment, session) {
    this.policyId = message.policyId;
    this.metaPolicy = message.metadata['thetaprime.meta_policy'];
    this.onnx = message.onnx;
    this.sha256 = message.onnxSha256;
    this.observationSize = count(environment.observationShape);
    this.actions = environment.box ? new BoxActions(environment.box) : new DiscreteActions(environment.discrete);
    this.continuous = Boolean(environment.box);
    this.session = session;
  }

  /**
   * Returns the deterministic action for one observation.
   *
   * @param {Float32Array} observation [O] raw, as the environment returns it
   * @returns {Promise<Float32Array | number>} the action in the environment's units: [A], or a discrete action
   */
  async act(observation) {
    const { actions } = await this.#run(observation, 1, ['actions']);
    return this.continuous ? actions : Number(actions[0]);
  }

  /**
   * Samples an action for one observation.
   *
   * @param {Float32Array} observation [O] raw
   * @param {import('./random.mjs').Random} random
   * @returns {Promise<{forEnvironment: Float32Array | number, toRecord: Float32Array | number}>} the action in the
   *   environment's units, and in the policy's units, for the trajectory
   */
  async sample(observation, random) {
    const outputs = await this.#run(observation, 1, this.continuous ? ['mean', 'log_std'] : ['logits']);
    const toRecord = this.actions.sample(outputs, random);
    return { forEnvironment: this.actions.toEnvironment(toRecord), toRecord };
  }

  /**
   * Writes the ONNX file atomically.
   *
   * @param {string} file
   */
  async save(file) {
    const partial = join(dirname(file), `.${basename(file)}.${randomUUID()}.part`);
    try {
      const handle = await open(partial, 'wx');
      try {
        await handle.writeFile(this.onnx);
        await handle.sync();
      } finally {
        await handle.close();
      }
      await rename(partial, file);
    } finally {
      await rm(partial, { force: true });
    }
  }

  async #run(observations, batch, fetches) {
    if (observations.length !== batch * this.observationSize) {
      throw new InvalidInputError('observation', `${observations.length} numbers; expected ${this.observationSize}`);
    }
    const unfit = observations.findIndex((value) => !Number.isFinite(value));
    if (unfit >= 0) throw new InvalidInputError(`observation[${unfit}]`, `${observations[unfit]}; expected a finite number`);
    const obs = new Tensor('float32', observations, [batch, this.observationSize]);
    const outputs = await this.session.run({ obs }, fetches);
    return Object.fromEntries(fetches.map((name) => [name, outputs[name].data]));
  }

  #checkSignature() {
    const { session, continuous, observationSize } = this;
    const expected = {
      obs: ['float32', observationSize],
      ...(continuous
        ? { actions: ['float32', this.actions.size], mean: ['float32', this.actions.size], log_std: ['float32', this.actions.size] }
        : { actions: ['int64', null], logits: ['float32', this.actions.size] }),
    };
    if (session.inputNames.join() !== 'obs') {
      throw new PolicyVerificationError(`the graph's inputs are [${session.inputNames}]; expected [obs]`);
    }
    const values = new Map([...session.inputMetadata, ...session.outputMetadata].map((value) => [value.name, value]));
    for (const [name, [type, width]] of Object.entries(expected)) {
      const value = values.get(name);
      if (value?.type !== type || (width !== null && value.shape.at(-1) !== width)) {
        const found = value ? `${value.type} [${value.shape}]` : 'missing';
        throw new PolicyVerificationError(`the graph's ${name} is ${found}; expected ${type} [..., ${width ?? ''}]`);
      }
    }
  }

  /** Runs the golden observations, as a batch and one by one, and compares with the golden actions. */
  async #checkGolden(golden) {
    const observations = arrayFromMessage(golden?.observations, 'golden.observations').values;
    const expected = Array.from(arrayFromMessage(golden?.actions, 'golden.actions').values, Number);
    const size = this.observationSize;
    const rows = observations.length / size;
    const width = this.continuous ? this.actions.size : 1;
    if (!(rows >= 1) || expected.length !== rows * width) {
      throw new PolicyVerificationError(
        `golden vectors have ${observations.length} observed numbers and ${expected.length} of actions; ` +
          `expected K × ${size} and K × ${width}, K at least 1`,
      );
    }
    const batch = await this.#run(observations, rows, ['actions']);
    requireEqual('as a batch', batch.actions, expected, width);
    const single = [];
    for (let row = 0; row < rows; row += 1) {
      const { actions } = await this.#run(observations.slice(row * size, (row + 1) * size), 1, ['actions']);
      single.push(...actions);
    }
    requireEqual('one by one', single, expected, width);
  }
}

async function openSession(onnx) {
  try {
    // Threads and graph optimization cost more than they save for one small network.
    return await InferenceSession.create(onnx, {
      executionProviders: ['cpu'],
      intraOpNumThreads: 1,
      interOpNumThreads: 1,
      graphOptimizationLevel: 'disabled',
      enableCpuMemArena: false,
      enableMemPattern: false,
    });
  } catch (error) {
    throw new PolicyVerificationError(`onnxruntime cannot load the policy: ${error.message}`, { cause: error });
  }
}

function requireEqual(kind, actual, expected, width) {
  for (let i = 0; i < expected.length; i += 1) {
    const given = Number(actual[i]);
    // Negated so that NaN fails.
    if (!(Math.abs(given - expected[i]) <= TOLERANCE + TOLERANCE * Math.abs(expected[i]))) {
      throw new PolicyVerificationError(
        `the policy fails its golden vectors: for observation ${Math.floor(i / width)} it outputs ${given} (${kind}); ` +
          `expected ${expected[i]}`,
      );
    }
  }
}
