/** Retries, with a clock that the tests control. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { withRetries } from '../client/retry.mjs';

/** Raises each error, then succeeds; returns the deadlines and the pauses. */
async function attempts(errors, { seconds = 60, random = 0, takes = 0 } = {}) {
  let clock = 0;
  const [waits, deadlines] = [[], []];
  const outcome = await withRetries(
    async (deadline) => {
      deadlines.push(deadline.getTime() / 1000);
      clock += takes * 1000;
      if (errors.length > 0) throw errors.shift();
      return 'answered';
    },
    {
      seconds,
      now: () => clock,
      random: () => random,
      sleep: async (wait) => {
        waits.push(wait);
        clock += wait * 1000;
      },
    },
  ).catch((error) => error);
  return { outcome, waits, deadlines };
}

const refusal = (code, retryAfter = null) => Object.assign(new Error(code), { code, retryAfter });
const times = (count, make) => Array.from({ length: count }, make);

test('an unreachable server is retried with backoff, at most five times', async () => {
  const { outcome, waits } = await attempts(times(9, () => refusal('UNAVAILABLE')));
  assert.equal(outcome.code, 'UNAVAILABLE');
  assert.deepEqual(waits, [0.1, 0.2, 0.4, 0.8]);
});

test('a retry time is honored, until the deadline', async () => {
  const { outcome, waits } = await attempts(times(99, () => refusal('RESOURCE_EXHAUSTED', 10)));
  assert.equal(outcome.code, 'RESOURCE_EXHAUSTED');
  assert.deepEqual(waits, times(5, () => 10));
});

test('jitter spreads clients', async () => {
  const { outcome, waits } = await attempts([refusal('UNAVAILABLE', 2)], { random: 0.5 });
  assert.equal(outcome, 'answered');
  assert.deepEqual(waits, [2 * 1.125]);
});

test('a lost response leaves time for a retry', async () => {
  const lost = times(2, () => refusal('DEADLINE_EXCEEDED'));
  const { outcome, deadlines } = await attempts(lost, { seconds: 30, takes: 9 });
  assert.equal(outcome, 'answered');
  assert.equal(deadlines[0], 10);
  assert.ok(deadlines.every((deadline) => deadline <= 30));
});

for (const error of [refusal('INVALID_ARGUMENT'), refusal('ABORTED'), refusal('RESOURCE_EXHAUSTED'), new TypeError('bug')]) {
  test(`${error.message} is not retried`, async () => {
    const { outcome, waits } = await attempts([error]);
    assert.equal(outcome, error);
    assert.deepEqual(waits, []);
  });
}
