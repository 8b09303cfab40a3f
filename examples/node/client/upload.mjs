/** Prepares uploads. */

import { InvalidInputError } from '../wire/errors.mjs';
import { sha256Hex } from '../wire/digests.mjs';
import { countSteps, pack, validate } from '../wire/trajectories.mjs';

/** Maximum payload bytes of a chunk. */
export const CHUNK_BYTES = 1 << 20;
/** 128 bits of a SHA-256 name an upload. */
const UPLOAD_ID_DIGITS = 32;

/**
 * Validates and packs trajectories.
 *
 * @param {object} session the `thetaprime.v1.Session`
 * @param {import('../wire/trajectories.mjs').Trajectory[]} trajectories whole episodes
 * @returns {{uploadId: string, sha256: string, messages: () => Iterable<object>}} `messages` returns the messages
 *   from the start, for each attempt
 */
export function prepareUpload(session, trajectories) {
  if (trajectories.length === 0) throw new InvalidInputError('trajectories', 'none; an upload carries at least one');
  trajectories.forEach((each, i) => validate(each, session.metaPolicy.environment, `trajectories[${i}]`));
  const payload = pack(trajectories);
  const sha256 = sha256Hex(payload);
  // Derived from the content: under another id the same trajectories would count twice.
  const uploadId = sha256.slice(0, UPLOAD_ID_DIGITS);
  function* messages() {
    yield { header: { sessionId: session.sessionId, uploadId, round: session.round, payloadBytes: payload.length } };
    for (let start = 0; start < payload.length; start += CHUNK_BYTES) {
      yield { chunk: { data: payload.subarray(start, start + CHUNK_BYTES) } };
    }
    yield { footer: { trajectories: trajectories.length, steps: countSteps(trajectories), sha256 } };
  }
  return { uploadId, sha256, messages };
}
