/** Every call of the contract. */

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
   * @param {number} [options.timeout] seconds until a call is given up, with everything that is repeated of it
   * @param {string | null} [options.token] says whose the calls are
   * @param {import('./connection.mjs').TlsFiles | null} [options.tls] null is plain text
   * @param {boolean} [options.allowPlaintext] send the token to another machine without TLS
   */
  constructor(address, { timeout = 60, token = null, tls = null, allowPlaintext = false } = {}) {
    this.address = requireAddress(address);
    this.timeout = timeout;
    this.metadata = callMetadata(token, address, tls === null && !allowPlaintext);
    const shown = channelCredentials(tls);
    [this.adaptation, this.catalog] = services.map((Service) => new Service(address, shown, CHANNEL_OPTIONS));
  }

  /** Every meta-policy that the server can adapt. */
  listMetaPolicies() {
    return this.#call(this.catalog, 'ListMetaPolicies', {});
  }

  /** A meta-policy, with θ. Version 0 is the newest. */
  getMetaPolicy(name, version = 0) {
    return this.#call(this.catalog, 'GetMetaPolicy', { name, version });
  }

  /**
   * Opens a session, once for each request id.
   *
   * @param {{requestId: string, metaPolicy: string, metaPolicyVersion?: number, options?: object, ttl?: object}} request
   */
  createSession(request) {
    return this.#call(this.adaptation, 'CreateSession', request);
  }

  /**
   * Sends trajectories of the session's current round. Once it returns they are stored and count, and sent again they
   * count once.
   *
   * @param {object} session as the server last described it
   * @param {import('../wire/trajectories.mjs').Trajectory[]} trajectories
   */
  async uploadTrajectories(session, trajectories) {
    const { messages, sha256 } = prepareUpload(session, trajectories);
    const acknowledged = await this.#repeat((deadline, done) => {
      const call = this.adaptation.uploadTrajectories(this.metadata, { deadline }, done);
      // What ends the call comes to `done`; what ends the stream with it is not news.
      call.on('error', () => {});
      Readable.from(messages(), { highWaterMark: 1 }).pipe(call);
    });
    if (acknowledged.sha256 !== sha256) {
      throw new Error(`the server acknowledged payload ${acknowledged.sha256}; ${sha256} was sent`);
    }
    return acknowledged;
  }

  /**
   * Takes one step on what was uploaded in the session's round.
   *
   * @param {object} session as the server last described it
   * @param {string} batchSha256 the batch's, from the last upload's acknowledgement or from `getSession`
   */
  adapt({ sessionId, round }, batchSha256) {
    return this.#call(this.adaptation, 'Adapt', { sessionId, expectedRound: round, batchSha256 });
  }

  /** A session, and the report of each round taken. */
  getSession(sessionId) {
    return this.#call(this.adaptation, 'GetSession', { sessionId });
  }

  /** A page of sessions, newest first. */
  listSessions(pageSize = 0, pageToken = '') {
    return this.#call(this.adaptation, 'ListSessions', { pageSize, pageToken });
  }

  /** θ_k of a session; of the current round where `round` is left out. */
  getPolicy(sessionId, round) {
    return this.#call(this.adaptation, 'GetPolicy', round === undefined ? { sessionId } : { sessionId, round });
  }

  /** Ends a session. Its policies stay readable until it expires. */
  closeSession(sessionId) {
    return this.#call(this.adaptation, 'CloseSession', { sessionId });
  }

  /** Closes the channel. */
  close() {
    this.adaptation.close();
    this.catalog.close();
  }

  #call(stub, method, request) {
    return this.#repeat((deadline, done) => stub[method](request, this.metadata, { deadline }, done));
  }

  #repeat(send) {
    return withRetries(
      (deadline) =>
        new Promise((resolve, reject) => {
          send(deadline, (error, response) => (error ? reject(new CallError(error, this.address)) : resolve(response)));
        }),
      { seconds: this.timeout },
    );
  }
}
