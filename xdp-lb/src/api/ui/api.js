// Requests to the daemon. The token of `xdp-lb ui` lives in this module alone, and is gone with the page.

let session;

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (session) headers["x-xdp-lb-session"] = session;
  const answer = await fetch(path, { ...options, headers, cache: "no-store", credentials: "same-origin", redirect: "error" });
  if (answer.ok) return answer;
  let message = `${answer.status} ${answer.statusText}`;
  try {
    message = (await answer.json()).error ?? message;
  } catch {
    // It is not a document of the daemon's.
  }
  throw new Refused(answer.status, message);
}

// Exchanges the link's token, which is behind the #, for a session's, and takes it out of the address.
export async function begin() {
  const token = location.hash.slice(1);
  if (!/^[0-9a-f]{64}$/.test(token)) return;
  history.replaceState(null, "", location.pathname);
  const answer = await ask("/session", { method: "POST", headers: { "x-xdp-lb-link": token } });
  session = (await answer.json()).session;
}

export const get = async (path) => (await ask(path)).json();

export async function send(method, path, document) {
  const answer = await ask(path, { method, headers: { "content-type": "application/json" }, body: JSON.stringify(document) });
  return answer.json();
}

export const servicePath = (name) => `/v1/services/${encodeURIComponent(name)}`;
export const backendPath = (name, address) => `${servicePath(name)}/backends/${encodeURIComponent(address)}`;

// Calls `take` with each event from now on, or after the one with this id, until the signal; reconnects by itself.
export async function watch(take, connected, signal, last) {
  while (!signal.aborted) {
    try {
      const headers = last ? { "last-event-id": last } : {};
      const answer = await ask("/v1/watch", { headers, signal });
      connected(true);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        const frames = text.split("\n\n");
        text = frames.pop();
        for (const frame of frames) {
          const id = /^id: (.*)$/m.exec(frame);
          if (id) last = id[1];
          const data = /^data: (.*)$/m.exec(frame);
          if (data) take(JSON.parse(data[1]));
        }
      }
    } catch (error) {
      if (error instanceof Refused && error.status !== 503) return;
    }
    if (signal.aborted) return;
    connected(false);
    await new Promise((resolve) => setTimeout(resolve, 1500));
  }
}
