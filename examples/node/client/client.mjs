/** The calls of the contract. */

import { Readable } from 'node:stream';

import { makeClientConstructor } from '@grpc/grpc-js';

import { CallError } from '../wire/errors.mjs';
import { serviceDefinition } from '../wire/protos.mjs';
import { callMetadata, channelCredentials, CHANNEL_OPTIONS, requireAddress } from './connection.mjs';
import { withRetries } from './retry.mjs';
import { prepareUpload } from './upload.mjs';

const services = ['AdaptationService', 'MetaPolicyService'].map((name) =>
  makeClientConstructor(serviceDefinition(`thetaprime.v1.${name}`), name),
);

/** A client of one server. Connects at the first call. Messages are objects with the contract's fields in camelCase. */
export class Client {
  /**
   * @param {string} address `host:port`
   * @param {object} [options]
   * @param {number} [options.timeout] timeout of a call in seconds, retries included
   * @param {string | null} [options.token] token that identifies the tenant
   * @param {import('./connection.mjs').TlsFiles | null} [options.tls] null connects in plain text
   * @param {boolean} [options.allowPlaintext] send the token to another machine without TLS
   */
  constructor(address, { timeout = 60, token = null, tls = null, allowPlaintext = false } = {}) {
    this.address = requireAddress(address);
    this.timeout = timeout;
    this.metadata = callMetadata(token, address, tls === null && !allowPlaintext);
    const channel = channelCredentials(tls);
    [this.adaptation, this.catalog] = services.map((Service) => new Service(address, channel, CHANNEL_OPTIONS));
  }

  /** Lists the server's meta-policies. */
  listMetaPolicies() {
    return this.#call(this.catalog, 'ListMetaPolicies', {});
  }

  /** Returns a meta-policy, with θ. Version 0 is the newest. */
  getMetaPolicy(name, version = 0) {
    return this.#call(this.catalog, 'GetMetaPolicy', { name, version });
  }

  /**
   * Creates a session. Equal request ids return the same session.
   *
   * @param {{requestId: string, metaPolicy: string, metaPolicyVersion?: number, options?: object, ttl?: object}} request
   */
  createSession(request) {
    return this.#call(this.adaptation, 'CreateSession', request);
  }

  /**
   * Uploads trajectories of the session's current round. On return they are durable and count. Repeating an upload
   * changes nothing.
   *
   * @param {object} session the server's last description
   * @param {import('../wire/trajectories.mjs').Trajectory[]} trajectories
   */
  async uploadTrajectories(session, trajectories) {
    const { messages, sha256 } = prepareUpload(session, trajectories);
    const acknowledged = await this.#retry((deadline, done) => {
      const call = this.adaptation.uploadTrajectories(this.metadata, { deadline }, done);
      // `done` receives the error of the call; the stream's error repeats it.
      call.on('error', () => {});
      Readable.from(messages(), { highWaterMark: 1 }).pipe(call);
    });
    if (acknowledged.sha256 !== sha256) {
      throw new Error(`the server acknowledged payload ${acknowledged.sha256}; ${sha256} was sent`);
    }
    return acknowledged;
  }

  /**
   * Takes one step on the uploads of the session's round.
   *
   * @param {object} session the server's last description
   * @param {string} batchSha256 digest of the batch, from the last upload's acknowledgement or from `getSession`
   */
  adapt({ sessionId, round }, batchSha256) {
    return this.#call(this.adaptation, 'Adapt', { sessionId, expectedRound: round, batchSha256 });
  }

  /** Returns a session, and the report of each round. */
  getSession(sessionId) {
    return this.#call(this.adaptation, 'GetSession', { sessionId });
  }

  /** Returns a page of sessions, newest first. */
  listSessions(pageSize = 0, pageToken = '') {
    return this.#call(this.adaptation, 'ListSessions', { pageSize, pageToken });
  }

  /** Returns θ_k of a session; without `round`, the current policy. */
  getPolicy(sessionId, round) {
    return this.#call(this.adaptation, 'GetPolicy', round === undefined ? { sessionId } : { sessionId, round });
  }

  /** Closes a session. Its policies stay readable until it expires. */
  closeSession(sessionId) {
    return this.#call(this.adaptation, 'CloseSession', { sessionId });
  }

  /** Closes the channel. */
  close() {
    this.adaptation.close();
    this.catalog.close();
  }

  #call(stub, method, request) {
    return this.#retry((deadline, done) => stub[method](request, this.metadata, { deadline }, done));
  }

  #retry(send) {
    return withRetries(
      (deadline) =>
        new Promise((resolve, reject) => {
          send(deadline, (error, response) => (error ? reject(new CallError(error, this.address)) : resolve(response)));
        }),
      { seconds: this.timeout },
    );
  }
}
