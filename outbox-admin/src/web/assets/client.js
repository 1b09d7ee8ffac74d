// Requests to the relay, and its live updates.
//
// Each request carries the token in a header; it is stored for this tab only. Live updates are
// server-sent events, read with fetch because an EventSource cannot send that header.

const TOKEN_KEY = "outbox-relay-token";

/** Time without data after which a connection counts as lost; the relay sends a heartbeat each second. */
const RECEIVE_TIMEOUT_MS = 6_000;
const RECONNECT_MS = 1_000;

/** Time after which a hidden tab disconnects, to cost the relay nothing. */
const HIDDEN_MS = 60_000;

/** Failed request; `status` is the HTTP status, or 0 without a response. The message is for people. */
export class RequestError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN_KEY),
  set: (value) => sessionStorage.setItem(TOKEN_KEY, value),
  remove: () => sessionStorage.removeItem(TOKEN_KEY),
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
    throw new RequestError(0, "the relay cannot be reached");
  }
  if (!response.ok) throw new RequestError(response.status, await errorDetail(response));
  return response;
}

/** Returns the detail of a problem document, or a sentence with the status. */
async function errorDetail(response) {
  try {
    return (await response.json()).detail;
  } catch {
    return `the relay returned status ${response.status}`;
  }
}

/** Returns the JSON of a GET request. Empty parameters are left out. */
export async function get(path, parameters = {}, signal = undefined) {
  const query = new URLSearchParams(
    Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== ""),
  );
  const response = await send(query.size === 0 ? path : `${path}?${query}`, { signal });
  return response.json();
}

/** Sends `body` as JSON and returns the JSON of the response. */
export async function post(path, body) {
  const response = await send(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  return response.json();
}

/** Receives live updates while the page is open, and reconnects after an error. Calls
 * `onMessage(name, data)` for each update, `onDisconnected(reason)` after each failed connection, and
 * `onDenied(reason, status)` when the relay rejects the token or the request; it then returns. */
export async function follow(handlers) {
  for (;;) {
    try {
      await untilVisible();
      await receive(handlers);
    } catch (error) {
      if (error.status === 401 || error.status === 403) {
        handlers.onDenied(error.message, error.status);
        return;
      }
      handlers.onDisconnected(error.status === undefined ? "the connection to the relay was lost" : error.message);
      await new Promise((resolve) => setTimeout(resolve, RECONNECT_MS));
    }
  }
}

/** Receives live updates until the connection ends. Returns if the page was hidden, else throws. */
async function receive(handlers) {
  const connection = new AbortController();
  let timeout;
  const restartTimeout = () => {
    clearTimeout(timeout);
    timeout = setTimeout(() => connection.abort(), RECEIVE_TIMEOUT_MS);
  };
  const stopWatching = onHidden(() => connection.abort());
  try {
    restartTimeout();
    const response = await send("/api/live", { signal: connection.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new RequestError(0, "the relay closed the connection");
      restartTimeout();
      text += value;
      const messages = text.split("\n\n");
      text = messages.pop();
      for (const message of messages) dispatch(message, handlers);
    }
  } catch (error) {
    if (document.hidden && error.name === "AbortError") return;
    if (error.name !== "AbortError") throw error;
    throw new RequestError(0, `the relay sent no update for ${RECEIVE_TIMEOUT_MS / 1000} s`);
  } finally {
    clearTimeout(timeout);
    stopWatching();
  }
}

/** Parses one server-sent event and passes it to the handler. */
function dispatch(message, handlers) {
  let name = "message";
  let data = "";
  for (const line of message.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (data === "") return;
  try {
    handlers.onMessage(name, JSON.parse(data));
  } catch (error) {
    // A defect of this page; the connection is intact.
    reportError(error);
  }
}

/** Waits until the page is visible. */
function untilVisible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const onChange = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", onChange);
      resolve();
    };
    document.addEventListener("visibilitychange", onChange);
  });
}

/** Calls `act` once the page has been hidden for `HIDDEN_MS`. Returns a function that cancels this. */
function onHidden(act) {
  let timer;
  const onChange = () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(act, HIDDEN_MS);
  };
  document.addEventListener("visibilitychange", onChange);
  return () => {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", onChange);
  };
}
