/** Invalid input is refused by field, before any call. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { readArguments } from '../arguments.mjs';
import { callMetadata, isLoopback, requireAddress } from '../client/connection.mjs';
import { CHUNK_BYTES, prepareUpload } from '../client/upload.mjs';
import { Random } from '../policy/random.mjs';
import { sha256Hex } from '../wire/digests.mjs';

const floats = (...shape) => {
  const length = shape.reduce((product, each) => product * each, 1);
  return { values: new Float32Array(length), shape };
};

function upload(change) {
  const trajectory = {
    policyId: 'p',
    observations: floats(3, 2),
    actions: floats(3, 1),
    rewards: floats(3),
    terminated: true,
    truncated: false,
    finalObservation: floats(2),
  };
  change(trajectory);
  const environment = { observationShape: [2], horizon: 3, box: { low: [-1], high: [1] } };
  return prepareUpload({ sessionId: 's', round: 0, metaPolicy: { environment } }, [trajectory]);
}

test('a valid trajectory', () => {
  assert.equal([...upload(() => {}).messages()].length, 3);
});

test('a payload of several chunks', () => {
  const steps = 150_000;
  const environment = { observationShape: [2], horizon: steps, box: { low: [-1], high: [1] } };
  const trajectory = {
    policyId: 'p',
    observations: floats(steps, 2),
    actions: floats(steps, 1),
    rewards: floats(steps),
    terminated: true,
    truncated: false,
    finalObservation: floats(2),
  };
  const { messages, sha256 } = prepareUpload({ sessionId: 's', round: 0, metaPolicy: { environment } }, [trajectory]);
  const [{ header }, ...rest] = messages();
  const chunks = rest.slice(0, -1).map(({ chunk }) => chunk.data);
  assert.deepEqual(chunks.slice(0, -1).map((data) => data.length), [CHUNK_BYTES, CHUNK_BYTES]);
  assert.ok(chunks.at(-1).length < CHUNK_BYTES);
  assert.equal(Buffer.concat(chunks).length, header.payloadBytes);
  assert.equal(sha256Hex(Buffer.concat(chunks)), sha256);
});

for (const [field, change] of Object.entries({
  'trajectories[0].rewards: no steps': (t) => (t.rewards = floats(0)),
  'trajectories[0].rewards: 4 steps; the horizon is 3': (t) => (t.rewards = floats(4)),
  'trajectories[0].observations: shape [3,3]; expected [3,2]': (t) => (t.observations = floats(3, 3)),
  'trajectories[0].final_observation: shape [1]; expected [2]': (t) => (t.finalObservation = floats(1)),
  'trajectories[0].observations[2][1]: NaN is not': (t) => (t.observations.values[5] = NaN),
  'trajectories[0].actions: Int32Array; expected': (t) => (t.actions = { values: new Int32Array(3), shape: [3, 1] }),
  'trajectories[0].rewards[1]: 1e+39 is not': (t) => (t.rewards = { values: Float64Array.of(0, 1e39, 0), shape: [3] }),
  'trajectories[0].truncated: neither': (t) => (t.terminated = false),
})) {
  test(field, () => {
    assert.throws(() => upload(change), (error) => error.name === 'InvalidInputError' && error.message.startsWith(field));
  });
}

for (const [option, value] of [
  ['--goal', '1,0'],
  ['--goal', '0.1'],
  ['--goal', ',0.1'],
  ['--rounds', '0'],
  ['--trajectories', '2.5'],
  ['--seed', '-1'],
  ['--timeout', '0'],
  ['--meta-policy', 'name@new'],
  ['--token-file', '/nowhere'],
]) {
  test(`${option} ${value}`, () => {
    assert.throws(() => readArguments([`${option}=${value}`], {}), new RegExp(`^InvalidInputError: ${option}: `));
  });
}

test('options', () => {
  const options = readArguments(['--goal', '-0.4,0.3', '--tls-authority', 'ca.pem'], { THETAPRIME_TOKEN: 't' });
  assert.deepEqual(options.goal, [-0.4, 0.3]);
  assert.equal(options.connection.token, 't');
  assert.equal(options.connection.tls.authority, 'ca.pem');
  assert.throws(() => readArguments(['--goals', '0,0'], {}), /--goals/);
});

test('addresses, and tokens in plain text', () => {
  for (const address of ['localhost:1', '127.0.0.1:50051', '[::1]:50051']) {
    assert.equal(requireAddress(address), address);
    assert.ok(isLoopback(address));
    assert.deepEqual(callMetadata('t', address, true).get('authorization'), ['Bearer t']);
  }
  for (const address of ['example.org:50051', '127.example.org:1', '[2001:db8::1]:1']) {
    assert.ok(!isLoopback(requireAddress(address)));
    assert.throws(() => callMetadata('t', address, true), /token: not sent to/);
    assert.deepEqual(callMetadata('t', address, false).get('authorization'), ['Bearer t']);
  }
  for (const address of ['localhost', 'localhost:0', 'http://localhost:1', 'localhost:99999', '::1:50051']) {
    assert.throws(() => requireAddress(address), /expected host:port/);
  }
});

test('equal keys give equal noise of mean 0 and standard deviation 1, and other keys give other noise', () => {
  const draw = (...key) => {
    const random = new Random(...key);
    return Array.from({ length: 20000 }, () => random.normal());
  };
  const noise = draw(1, 'a');
  assert.deepEqual(draw(1, 'a'), noise);
  const correlation = (other) => noise.reduce((sum, value, i) => sum + value * other[i], 0) / noise.length;
  // More than four standard errors.
  assert.ok(Math.abs(noise.reduce((sum, value) => sum + value, 0) / noise.length) < 0.03);
  assert.ok(Math.abs(correlation(noise) - 1) < 0.05);
  assert.ok(Math.abs(correlation(draw(2, 'a'))) < 0.03);
  assert.ok(Math.abs(correlation(draw(1, 'b'))) < 0.03);
});
