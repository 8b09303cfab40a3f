// Verifies a policy's ONNX file and runs it in onnxruntime-web.

import * as ort from "/ort/ort.wasm.bundle.min.mjs";

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = { wasm: "/ort/ort-wasm-simd-threaded.wasm" };

const TOLERANCE = 1e-5;

export class Policy {
  /**
   * @param {ort.InferenceSession} session
   * @param {{policy_id: string, onnx: Uint8Array, metadata: Record<string, string>}} file
   */
  constructor(session, file) {
    const environment = JSON.parse(file.metadata["thetaprime.environment"]);
    this.session = session;
    this.id = file.policy_id;
    this.onnx = file.onnx;
    this.horizon = environment.horizon;
    this.bounds = { low: environment.action.low, high: environment.action.high };
    this.size = environment.observation_shape.reduce((a, b) => a * b, 1);
  }

  /**
   * Loads the policy of a server's reply, and checks its digest and its golden vectors.
   * @param {{policy_id: string, sha256: string, onnx: string, metadata: Record<string, string>}} reply
   */
  static async load(reply) {
    const onnx = Uint8Array.from(atob(reply.onnx), (letter) => letter.charCodeAt(0));
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", onnx));
    const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (hex !== reply.sha256) throw new Error(`the policy's file has SHA-256 ${hex}; expected ${reply.sha256}`);
    const session = await ort.InferenceSession.create(onnx, { executionProviders: ["wasm"] });
    const policy = new Policy(session, { ...reply, onnx });
    const golden = JSON.parse(reply.metadata["thetaprime.golden"]);
    const { actions } = await policy.run(golden.observations);
    golden.actions.flat().forEach((expected, i) => {
      // Negated so that NaN fails.
      if (!(Math.abs(actions.data[i] - expected) <= TOLERANCE * (1 + Math.abs(expected)))) {
        throw new Error(`the policy fails its golden vectors: action ${actions.data[i]}; expected ${expected}`);
      }
    });
    return policy;
  }

  /** @param {number[][]} observations @returns the outputs of the graph, by name */
  run(observations) {
    const obs = new ort.Tensor("float32", Float32Array.from(observations.flat()), [observations.length, this.size]);
    return this.session.run({ obs });
  }

  /**
   * Samples an action for each observation: mean + exp(log_std) · ε.
   * @param {number[][]} observations
   * @param {() => number} noise
   * @returns {Promise<number[][]>} actions in the policy's units, unclipped, as a trajectory records them
   */
  async sample(observations, noise) {
    const { mean, log_std: logStd } = await this.run(observations);
    const width = logStd.data.length;
    return observations.map((_, row) =>
      Array.from(logStd.data, (log, i) => Math.fround(mean.data[row * width + i] + Math.exp(log) * noise())),
    );
  }

  /** @param {number[]} action in the policy's units @returns {number[]} the action in the environment's units, clipped */
  toEnvironment(action) {
    return action.map((value, i) => {
      const low = this.bounds.low[i];
      const high = this.bounds.high[i];
      return low + ((Math.min(Math.max(value, -1), 1) + 1) / 2) * (high - low);
    });
  }

  /** Frees the session's memory. */
  release() {
    return this.session.release();
  }
}
