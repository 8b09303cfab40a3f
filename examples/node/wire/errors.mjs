/** What can go wrong, and what the server says about it beside a status code. */

import { status } from '@grpc/grpc-js';

import { messageType } from './protos.mjs';

const CODE_NAMES = Object.fromEntries(Object.entries(status).map(([name, number]) => [number, name]));
const DETAILS_KEY = 'grpc-status-details-bin';

/** An argument, a trajectory or an option does not fit; nothing was sent. */
export class InvalidInputError extends Error {
  /**
   * @param {string} field path to it, such as `trajectories[3].rewards[17]`
   * @param {string} problem what came and what was expected
   */
  constructor(field, problem) {
    super(`${field}: ${problem}`);
    this.name = 'InvalidInputError';
    this.field = field;
  }
}

/** An ONNX policy is not what it says it is. It must not act. */
export class PolicyVerificationError extends Error {
  name = 'PolicyVerificationError';
}

/** A call failed. */
export class CallError extends Error {
  /**
   * @param {import('@grpc/grpc-js').ServiceError} error what grpc-js gave
   * @param {string} address the server's, for the message
   */
  constructor(error, address) {
    const code = CODE_NAMES[error.code] ?? 'UNKNOWN';
    const details = readDetails(error.metadata);
    const text = (error.details || error.message).replaceAll(/\s+/g, ' ').trim();
    super(explain(code, text, details, address), { cause: error });
    this.name = 'CallError';
    /** The canonical code's name, such as `FAILED_PRECONDITION`. */
    this.code = code;
    /** The server's word for why, in capitals, such as `OFF_POLICY`; empty where it gives none. */
    this.reason = details.reason;
    /** What the server adds to the reason, by name: of `ROUND_MISMATCH`, the session's `round`. */
    this.metadata = details.metadata;
    /** Of `INVALID_ARGUMENT`: each field that is wrong, `{field, description}`. */
    this.violations = details.violations;
    /** Seconds after which the server asks to be called again; null where it does not. */
    this.retryAfter = details.retryAfter;
  }
}

/**
 * The details of a failed call: `google.rpc.Status`, whose details are packed by type, in a trailing header.
 *
 * @param {import('@grpc/grpc-js').Metadata} [metadata]
 */
export function readDetails(metadata) {
  const found = { reason: '', metadata: {}, violations: [], retryAfter: null };
  const [bytes] = metadata?.get(DETAILS_KEY) ?? [];
  if (!Buffer.isBuffer(bytes)) return found;
  // protobufjs has Any built in, and its field in the contract's spelling.
  for (const { type_url: typeUrl, value } of messageType('google.rpc.Status').deserialize(bytes).details) {
    const name = typeUrl.slice(typeUrl.lastIndexOf('/') + 1);
    if (name === 'google.rpc.BadRequest') {
      found.violations = messageType(name).deserialize(value).fieldViolations.map(({ field, description }) => ({
        field,
        description,
      }));
    } else if (name === 'google.rpc.ErrorInfo') {
      const info = messageType(name).deserialize(value);
      found.reason = info.reason;
      found.metadata = { ...info.metadata };
    } else if (name === 'google.rpc.RetryInfo') {
      const { seconds, nanos } = messageType(name).deserialize(value).retryDelay;
      found.retryAfter = seconds + nanos / 1e9;
    }
  }
  return found;
}

function explain(code, text, { reason, violations, retryAfter }, address) {
  switch (code) {
    case 'UNAVAILABLE':
      // With a reason the server has answered, and says what it lacks.
      if (reason || retryAfter !== null) return `the server at ${address} takes no calls at the moment: ${text}`;
      return `the server at ${address} cannot be reached (${text}); is \`thetaprime serve\` running there?`;
    case 'DEADLINE_EXCEEDED':
      return `the server at ${address} did not answer in time (${text}); repeat the call, or give it a longer timeout`;
    case 'INVALID_ARGUMENT':
      return violations.map(({ field, description }) => `${field}: ${description}`).join('; ') || text;
    case 'UNAUTHENTICATED':
      return `the server at ${address} refuses this client: ${text}`;
    case 'UNIMPLEMENTED':
      return `what answers at ${address} does not serve thetaprime.v1 (${text}); check the address`;
    case 'ABORTED':
    case 'FAILED_PRECONDITION':
      return reason ? `${text} (${reason})` : text;
    default:
      return text;
  }
}
