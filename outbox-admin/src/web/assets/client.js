// Requests to the relay, and its live messages.
//
// The token goes into a header of each request and is kept for this tab only.
// The live messages are server-sent events, read with fetch because an
// EventSource cannot send that header.

const TOKEN = "outbox-relay-token";

/** The relay comes with a message at least every second. */
const SILENCE_MS = 6_000;
const RETRY_MS = 1_000;

/** A tab that nobody looks at lets go of the relay after a while. */
const HIDDEN_MS = 60_000;

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (value) => sessionStorage.setItem(TOKEN, value),
  forget: () => sessionStorage.removeItem(TOKEN),
};

async function send(path, options = {}) {
  const headers = new Headers(options.headers);
  const secret = token.get();
  if (secret !== null) headers.set("Authorization", `Bearer ${secret}`);
  let response;
  try {
    response = await fetch(path, { ...options, headers, redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "the relay does not answer");
  }
  if (!response.ok) throw new Refused(response.status, await reason(response));
  return response;
}

async function reason(response) {
  try {
    return (await response.json()).detail;
  } catch {
    return `the relay answered ${response.status}`;
  }
}

/** A JSON answer. */
export async function get(path, parameters = {}, signal = undefined) {
  const query = new URLSearchParams(
    Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== ""),
  );
  const response = await send(query.size === 0 ? path : `${path}?${query}`, { signal });
  return response.json();
}

export async function post(path, body) {
  const response = await send(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  return response.json();
}

/** Follows the relay for as long as the page is open. `on.message(name, data)`
 * for each message; `on.lost(reason)` while there is no connection;
 * `on.denied(reason)` when it wants another token, after which nothing is tried
 * until `follow` is called again. */
export async function follow(on) {
  for (;;) {
    try {
      await visible();
      await listen(on);
    } catch (error) {
      if (error.status === 401 || error.status === 403) {
        on.denied(error.message, error.status);
        return;
      }
      on.lost(error.status === undefined ? "the connection was lost" : error.message);
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

/** Until the connection ends, which is always an error unless nobody looks. */
async function listen(on) {
  const connection = new AbortController();
  let silence;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => connection.abort(), SILENCE_MS);
  };
  const unwatch = whenHidden(() => connection.abort());
  try {
    heard();
    const response = await send("/api/live", { signal: connection.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Refused(0, "the relay has closed the connection");
      heard();
      text += value;
      const messages = text.split("\n\n");
      text = messages.pop();
      for (const message of messages) dispatch(message, on);
    }
  } catch (error) {
    if (document.hidden && error.name === "AbortError") return;
    throw error.name === "AbortError" ? new Refused(0, "the relay has gone silent") : error;
  } finally {
    clearTimeout(silence);
    unwatch();
  }
}

function dispatch(message, on) {
  let name = "message";
  let data = "";
  for (const line of message.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (data === "") return;
  try {
    on.message(name, JSON.parse(data));
  } catch (error) {
    // A mistake of the page, not of the connection.
    reportError(error);
  }
}

function visible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
  });
}

/** Calls `act` once the page has been hidden for a while; returns how to stop that. */
function whenHidden(act) {
  let timer;
  const look = () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(act, HIDDEN_MS);
  };
  document.addEventListener("visibilitychange", look);
  return () => {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", look);
  };
}
