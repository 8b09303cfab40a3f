// Calls of a session. Browsers cannot call gRPC: the page's gateway forwards these calls.

async function post(path, body) {
  let response;
  try {
    response = await fetch(`/api/${path}`, { method: "POST", body: body === undefined ? "" : JSON.stringify(body) });
  } catch {
    throw new Error("The server does not answer. Start `thetaprime demo --web` again, and reload this page.");
  }
  const reply = await response.json();
  if (!response.ok) throw new Error(reply.error);
  return reply;
}

/** Encodes numbers as base64 of little-endian float32, as the gateway reads them. */
export function pack(numbers) {
  const view = new DataView(new ArrayBuffer(numbers.length * 4));
  numbers.forEach((value, i) => view.setFloat32(4 * i, value, true));
  let text = "";
  for (const byte of new Uint8Array(view.buffer)) text += String.fromCharCode(byte);
  return btoa(text);
}

/** @param {import("./simulator.js").Episode} episode @param {number} horizon */
export function trajectory(episode, horizon) {
  return {
    observations: pack(episode.observations.flat()),
    actions: pack(episode.actions.flat()),
    rewards: pack(episode.rewards),
    final_observation: pack(episode.final),
    terminated: episode.terminated,
    truncated: !episode.terminated && episode.rewards.length === horizon,
  };
}

export const createSession = () => post("sessions");
export const upload = (session, policy, episodes) =>
  post(`sessions/${session}/uploads`, {
    policy_id: policy.id,
    trajectories: episodes.map((episode) => trajectory(episode, policy.horizon)),
  });
export const adapt = (session) => post(`sessions/${session}/rounds`);
