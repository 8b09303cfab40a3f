/** An upload, made ready to be sent, and sent again. */

import { InvalidInputError } from '../wire/errors.mjs';
import { sha256Hex } from '../wire/digests.mjs';
import { countSteps, pack, validate } from '../wire/trajectories.mjs';

/** Most payload bytes that one chunk may carry. */
export const CHUNK_BYTES = 1 << 20;
/** Enough of a SHA-256 to name an upload: 128 bits. */
const UPLOAD_ID_DIGITS = 32;

/**
 * Checks and packs trajectories.
 *
 * @param {object} session a `thetaprime.v1.Session`: where they go
 * @param {import('../wire/trajectories.mjs').Trajectory[]} trajectories whole episodes
 * @returns {{uploadId: string, sha256: string, messages: () => Iterable<object>}} `messages` gives all of them anew
 *   each time that the upload is sent
 */
export function prepareUpload(session, trajectories) {
  if (trajectories.length === 0) throw new InvalidInputError('trajectories', 'none; an upload carries at least one');
  trajectories.forEach((each, i) => validate(each, session.metaPolicy.environment, `trajectories[${i}]`));
  const payload = pack(trajectories);
  const sha256 = sha256Hex(payload);
  // Named by its content: sent again under another name, the same trajectories would count twice.
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
