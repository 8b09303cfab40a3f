/** Errors, and the details that the server adds to a status code. */

import { status } from '@grpc/grpc-js';

import { messageType } from './protos.mjs';

const CODE_NAMES = Object.fromEntries(Object.entries(status).map(([name, number]) => [number, name]));
const DETAILS_KEY = 'grpc-status-details-bin';

/** An argument, a trajectory or an option is invalid; nothing was sent. */
export class InvalidInputError extends Error {
  /**
   * @param {string} field path of the field, such as `trajectories[3].rewards[17]`
   * @param {string} problem the value, and the expected value
   */
  constructor(field, problem) {
    super(`${field}: ${problem}`);
    this.name = 'InvalidInputError';
    this.field = field;
  }
}

/** An ONNX policy fails its verification. It must not act. */
export class PolicyVerificationError extends Error {
  name = 'PolicyVerificationError';
}

/** A call failed. */
export class CallError extends Error {
  /**
   * @param {import('@grpc/grpc-js').ServiceError} error error of grpc-js
   * @param {string} address the server's address, for the message
   */
  constructor(error, address) {
    const code = CODE_NAMES[error.code] ?? 'UNKNOWN';
    const details = readDetails(error.metadata);
    const text = (error.details || error.message).replaceAll(/\s+/g, ' ').trim();
    super(explain(code, text, details, address), { cause: error });
    this.name = 'CallError';
    /** Name of the canonical code, such as `FAILED_PRECONDITION`. */
    this.code = code;
    /** The server's reason, in capitals, such as `OFF_POLICY`; may be empty. */
    this.reason = details.reason;
    /** Details of the reason, by name: for `ROUND_MISMATCH`, the session's `round`. */
    this.metadata = details.metadata;
    /** For `INVALID_ARGUMENT`: the invalid fields, `{field, description}`. */
    this.violations = details.violations;
    /** Seconds until the server asks for a retry; null if it does not. */
    this.retryAfter = details.retryAfter;
  }
}

/**
 * Reads the details of a failed call: a `google.rpc.Status` with packed details, in a trailing header.
 *
 * @param {import('@grpc/grpc-js').Metadata} [metadata]
 */
export function readDetails(metadata) {
  const found = { reason: '', metadata: {}, violations: [], retryAfter: null };
  const [bytes] = metadata?.get(DETAILS_KEY) ?? [];
  if (!Buffer.isBuffer(bytes)) return found;
  // The built-in Any of protobufjs keeps the field's snake_case name.
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
      // With a reason or a retry time, the server has answered.
      if (reason || retryAfter !== null) return `the server at ${address} is unavailable: ${text}`;
      return `the server at ${address} cannot be reached (${text}); is \`thetaprime serve\` running there?`;
    case 'DEADLINE_EXCEEDED':
      return `the server at ${address} did not answer in time (${text}): repeat the call, or set a longer timeout`;
    case 'INVALID_ARGUMENT':
      return violations.map(({ field, description }) => `${field}: ${description}`).join('; ') || text;
    case 'UNAUTHENTICATED':
      return `the server at ${address} refuses this client: ${text}`;
    case 'UNIMPLEMENTED':
      return `the server at ${address} does not serve thetaprime.v1 (${text}): check the address`;
    case 'ABORTED':
    case 'FAILED_PRECONDITION':
      return reason ? `${text} (${reason})` : text;
    default:
      return text;
  }
}
