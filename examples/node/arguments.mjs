/** Parses the command line. */

import { existsSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { parseArgs } from 'node:util';

import { requireAddress } from './client/connection.mjs';
import { GOAL_RANGE } from './simulator/point-navigation.mjs';
import { InvalidInputError } from './wire/errors.mjs';

export const HELP = `Adapts a policy to an unobserved goal through a running ThetaPrime server.

  thetaprime serve --store ./state                 # in one terminal
  node main.mjs --goal 0.4,-0.3                    # in another

In each round the program collects episodes in its simulator with the current policy and sampled actions, and uploads
them. The server takes one gradient step and returns the adapted policy as ONNX. The program verifies the policy, and
collects the next round with it. At the end the program writes policy.onnx, which needs no server.

  --address HOST:PORT      the server's address                             [localhost:50051]
  --goal X,Y               the goal, each coordinate within ±${GOAL_RANGE}           [0.4,-0.3]
  --meta-policy NAME       or NAME@VERSION                                  [point-navigation]
  --rounds N               total number of rounds of the session            [3]
  --trajectories N         episodes per round                               [20]
  --seed N                 seed of the actions; equal seeds, equal runs     [1]
  --output FILE            file of the adapted policy                       [policy.onnx]
  --resume SESSION         continue a session
  --timeout SECONDS        timeout of a call, retries included              [60]
  --json                   print one JSON object on stdout, and all else on stderr

  --tls                    connect by TLS; each of these files implies TLS
  --tls-authority FILE     PEM file of the certificate authorities          [the public ones]
  --tls-certificate FILE, --tls-key FILE    PEM files of the client, for mutual TLS
  --token-file FILE        file of a bearer token; or the variable THETAPRIME_TOKEN
  --allow-plaintext        send the token to another machine without TLS

  --help                   print this text
`;

const OPTIONS = {
  address: { type: 'string', default: 'localhost:50051' },
  goal: { type: 'string', default: '0.4,-0.3' },
  'meta-policy': { type: 'string', default: 'point-navigation' },
  rounds: { type: 'string', default: '3' },
  trajectories: { type: 'string', default: '20' },
  seed: { type: 'string', default: '1' },
  output: { type: 'string', default: 'policy.onnx' },
  resume: { type: 'string' },
  timeout: { type: 'string', default: '60' },
  json: { type: 'boolean', default: false },
  tls: { type: 'boolean', default: false },
  'tls-authority': { type: 'string' },
  'tls-certificate': { type: 'string' },
  'tls-key': { type: 'string' },
  'token-file': { type: 'string' },
  'allow-plaintext': { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
};

/**
 * Parses a command line.
 *
 * @param {string[]} words arguments without the program's name
 * @param {Record<string, string | undefined>} environment environment variables
 * @throws {InvalidInputError} an option is unknown or invalid
 */
export function readArguments(words, environment) {
  const values = parsed(words);
  if (values.help) return { help: true };
  if (!existsSync(dirname(values.output))) {
    throw new InvalidInputError('--output', `the folder ${dirname(values.output)} does not exist`);
  }
  const [name, version = '0'] = values['meta-policy'].split('@');
  return {
    help: false,
    address: requireAddress(values.address),
    goal: goal(values.goal),
    metaPolicy: name,
    metaPolicyVersion: wholeNumber('--meta-policy', version, 0),
    rounds: wholeNumber('--rounds', values.rounds, 1),
    trajectories: wholeNumber('--trajectories', values.trajectories, 1),
    seed: wholeNumber('--seed', values.seed, 0),
    output: values.output,
    resume: values.resume,
    json: values.json,
    connection: {
      timeout: seconds(values.timeout),
      token: token(values['token-file'], environment),
      tls: tls(values),
      allowPlaintext: values['allow-plaintext'],
    },
  };
}

function parsed(words) {
  // parseArgs would take a goal that begins with a minus for an option.
  const joined = words.flatMap((word, i) => {
    if (word === '--goal' && i + 1 < words.length) return [`--goal=${words[i + 1]}`];
    return words[i - 1] === '--goal' ? [] : [word];
  });
  try {
    return parseArgs({ args: joined, options: OPTIONS }).values;
  } catch (error) {
    // Only Node's first sentence: the rest is about positional arguments, which this program does not have.
    throw new InvalidInputError('arguments', `${error.message.split('. ')[0]}; --help lists the options`);
  }
}

function goal(text) {
  const numbers = text.split(',').map((word) => (word.trim() === '' ? NaN : Number(word)));
  if (numbers.length !== 2 || !numbers.every((number) => Math.abs(number) <= GOAL_RANGE)) {
    throw new InvalidInputError('--goal', `${JSON.stringify(text)}; expected X,Y, each within ±${GOAL_RANGE}, such as 0.4,-0.3`);
  }
  return numbers;
}

function wholeNumber(option, text, least) {
  const number = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!Number.isSafeInteger(number) || number < least) {
    throw new InvalidInputError(option, `${JSON.stringify(text)}; expected a whole number, at least ${least}`);
  }
  return number;
}

function seconds(text) {
  const number = text.trim() === '' ? NaN : Number(text);
  if (!(number > 0 && number < Infinity)) {
    throw new InvalidInputError('--timeout', `${JSON.stringify(text)}; expected a positive number of seconds`);
  }
  return number;
}

function token(file, environment) {
  if (file === undefined) return environment.THETAPRIME_TOKEN ?? null;
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (error) {
    throw new InvalidInputError('--token-file', `${file} cannot be read: ${error.code}`);
  }
}

function tls(values) {
  const files = { authority: values['tls-authority'], certificate: values['tls-certificate'], key: values['tls-key'] };
  const wanted = values.tls || Object.values(files).some((file) => file !== undefined);
  return wanted ? files : null;
}
