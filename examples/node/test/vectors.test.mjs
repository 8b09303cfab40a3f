/** Compares this client's results with docs/test-vectors.json. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { Metadata, status } from '@grpc/grpc-js';

import { isTransient } from '../client/retry.mjs';
import { prepareUpload } from '../client/upload.mjs';
import { BoxActions } from '../policy/actions.mjs';
import { arrayFromMessage, arrayToMessage } from '../wire/arrays.mjs';
import { batchDigest } from '../wire/digests.mjs';
import { CallError } from '../wire/errors.mjs';
import { messageType } from '../wire/protos.mjs';
import { pack } from '../wire/trajectories.mjs';
import { arrayFromJson, trajectoryFromJson } from './from-json.mjs';

const vectors = JSON.parse(readFileSync(new URL('../../../docs/test-vectors.json', import.meta.url), 'utf8'));
const arrayType = messageType('thetaprime.v1.Array');

for (const vector of vectors.arrays) {
  test(`an array: ${vector.name}`, () => {
    const array = arrayFromJson(vector);
    const bytes = arrayType.serialize(arrayToMessage(array));
    assert.equal(bytes.toString('hex'), vector.message);
    assert.equal(arrayType.deserialize(bytes).data.toString('hex'), vector.data);
    assert.deepEqual(arrayFromMessage(arrayType.deserialize(bytes), 'array'), array);
  });
}

for (const { name, trajectories, payload, footer } of vectors.payloads) {
  const uploaded = trajectories.map(trajectoryFromJson);

  test(`a payload: ${name}`, () => {
    assert.equal(pack(uploaded).toString('hex'), payload);
  });

  test(`an upload: ${name}`, () => {
    const [{ observations, actions }] = uploaded;
    const environment = {
      observationShape: observations.shape.slice(1),
      horizon: 100,
      ...(actions.shape.length === 2 ? { box: { low: [-1], high: [1] } } : { discrete: { count: 4, start: 0 } }),
    };
    const session = { sessionId: 's', round: 2, metaPolicy: { environment } };
    const { messages, uploadId } = prepareUpload(session, uploaded);
    const sent = [...messages()];
    assert.deepEqual(sent[0].header, { sessionId: 's', uploadId, round: 2, payloadBytes: payload.length / 2 });
    assert.equal(Buffer.concat(sent.slice(1, -1).map(({ chunk }) => chunk.data)).toString('hex'), payload);
    assert.deepEqual(sent.at(-1).footer, footer);
    assert.deepEqual([...messages()], sent);
  });
}

test('batch digests', () => {
  for (const { uploads, sha256 } of vectors.batches) assert.equal(batchDigest(uploads), sha256);
});

test('actions in the units of the environment', () => {
  for (const { low, high, recorded, environment } of vectors.box_actions) {
    const actions = new BoxActions({ low: [low ?? -Infinity], high: [high ?? Infinity] });
    const taken = recorded.map((value) => actions.toEnvironment(Float32Array.of(value))[0]);
    assert.deepEqual(taken, environment);
  }
});

for (const vector of vectors.errors) {
  test(`an error: ${vector.message}`, () => {
    const metadata = new Metadata();
    metadata.set('grpc-status-details-bin', Buffer.from(vector.grpc_status_details_bin, 'base64'));
    const error = new CallError({ code: status[vector.code], details: vector.message, metadata }, 'here:1');
    assert.equal(error.code, vector.code);
    assert.ok(error.message.includes(vector.message));
    assert.deepEqual(error.violations, vector.violations);
    assert.equal(error.reason, vector.reason);
    assert.deepEqual(error.metadata, vector.metadata);
    assert.equal(error.retryAfter, vector.retry_after);
    assert.equal(isTransient(error), vector.retry_after !== null);
  });
}
