// Runs every step of some episodes through the onnxruntime of JavaScript: node run.mjs native|web JOBS RESULTS
//
// JOBS is a JSON list of {onnx, inputs: {name: {type, dims: [S, ...], data}}, outputs: [name]}: a file, S runs of its
// graph with one entry each of every input, and what to keep. `data` is base64 of little-endian numbers. RESULTS takes
// the same for the outputs, in the order of the jobs. A graph with a state has also `states`, as its metadata lists them,
// and `resets` [S][B]: whether the state of a robot is initial before a run.
import { readFile, writeFile } from "node:fs/promises";

const [runtime, jobsPath, resultsPath] = process.argv.slice(2);
const ort = await import(runtime === "web" ? "onnxruntime-web" : "onnxruntime-node");
if (runtime === "web") ort.env.wasm.numThreads = 1;
if (ort.env.versions[runtime === "web" ? "web" : "node"] === undefined) throw new Error(`not the ${runtime} runtime`);

const ARRAYS = { float32: Float32Array, int64: BigInt64Array };

function decode({ type, dims, data }) {
  const bytes = Uint8Array.from(Buffer.from(data, "base64")); // an aligned copy
  return { type, dims, values: new ARRAYS[type](bytes.buffer) };
}

function step({ type, dims, values }, index) {
  const size = values.length / dims[0];
  return new ort.Tensor(type, values.slice(index * size, (index + 1) * size), dims.slice(1));
}

function encode(tensors) {
  const parts = tensors.map(({ data }) => Buffer.from(data.buffer, data.byteOffset, data.byteLength));
  const { type, dims } = tensors[0];
  return { type, dims: [tensors.length, ...dims], data: Buffer.concat(parts).toString("base64") };
}

/** Sets the robots whose lifetime begins to the initial state. The axis of the robots is the first, or follows a 1. */
function begin({ initial, axis }, tensor, resets) {
  const values = initial.flat();
  const [size, robots] = [values.length, resets.length];
  if (axis > 0 && initial.length !== 1) throw new Error('more than one layer');
  const data = tensor ? Float32Array.from(tensor.data) : new Float32Array(robots * size);
  for (let robot = 0; robot < robots; robot++) if (!tensor || resets[robot]) data.set(values, robot * size);
  return new ort.Tensor("float32", data, axis === 0 ? [robots, 1, size] : [1, robots, size]);
}

const results = [];
for (const job of JSON.parse(await readFile(jobsPath, "utf8"))) {
  const session = await ort.InferenceSession.create(new Uint8Array(await readFile(job.onnx)));
  const inputs = Object.entries(job.inputs).map(([name, array]) => [name, decode(array)]);
  const kept = Object.fromEntries(job.outputs.map((name) => [name, []]));
  let previous;
  for (let index = 0; index < inputs[0][1].dims[0]; index++) {
    const feeds = Object.fromEntries(inputs.map(([name, array]) => [name, step(array, index)]));
    for (const each of job.states) {
      feeds[each.input] = begin(each, previous?.[each.output], job.resets[index]);
    }
    const given = await session.run(feeds, [...job.outputs, ...job.states.map(({ output }) => output)]);
    previous = given;
    for (const name of job.outputs) kept[name].push(given[name]);
  }
  results.push(Object.fromEntries(Object.entries(kept).map(([name, tensors]) => [name, encode(tensors)])));
  await session.release();
}
await writeFile(resultsPath, JSON.stringify(results));
