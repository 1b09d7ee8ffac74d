// The panel of one event: its timeline, attributes and payload, and the actions on it.

import { between, byId, duration, el, number, prose, time } from "./dom.js";
import { status } from "./list.js";
import { indentJson } from "./json.js";
import { get, post } from "./client.js";

/** Maximum characters of a payload that are shown at first. */
const MAX_SHOWN_CHARACTERS = 100_000;

/** Interval at which an event is reloaded while its state is expected to change. */
const RELOAD_MS = 1_000;

const panel = byId("detail");

/** The event that is open, if any. */
let open = null;

export const detail = {
  get isOpen() {
    return open !== null;
  },

  /** Opens the event of this key, and keeps it current while its state is expected to change. */
  async show(aggregateId, sequence, { onClose, onChange, aggregateHash, eventHash }) {
    const isOpen = open?.aggregateId === aggregateId && open?.sequence === sequence;
    if (isOpen) return;
    close();
    open = { aggregateId, sequence, onClose, onChange, aggregateHash, eventHash, event: null, text: null };
    await reload(open);
    if (innerWidth <= 1000) panel.focus();
  },

  close,

  /** Reloads the open event, if any. */
  refresh() {
    if (open !== null) reload(open);
  },

  retry: () => confirmAction("retry"),
  discard: () => confirmAction("discard"),
};

function close() {
  if (open === null) return;
  clearTimeout(open.timer);
  open = null;
  panel.hidden = true;
  panel.replaceChildren();
}

/** Reloads `target`. Calls during a request cause one more request after it, so that an older
 * response never replaces a newer one. */
async function reload(target) {
  target.outdated = true;
  if (target.loading) return;
  target.loading = true;
  try {
    while (target.outdated && target === open) {
      target.outdated = false;
      await load(target);
    }
  } finally {
    target.loading = false;
  }
}

async function load(target) {
  clearTimeout(target.timer);
  let event;
  try {
    event = await get("/api/event", { aggregate_id: target.aggregateId, sequence: target.sequence });
  } catch (error) {
    if (target === open) {
      target.event = null;
      target.text = null;
      panel.hidden = false;
      panel.replaceChildren(closeButton(), el("p", { class: "problem", role: "alert" }, error.message));
    }
    return;
  }
  if (target !== open) return;
  const text = JSON.stringify(event);
  if (text !== target.text) {
    target.text = text;
    target.event = event;
    render(event);
  }
  if (isInProgress(event)) target.timer = setTimeout(() => reload(target), RELOAD_MS);
}

/** Returns true if the event is expected to be published or processed soon. */
function isInProgress(event) {
  if (event.status === "PENDING") return true;
  const consumed = event.timeline.some(({ step }) => step === "processed");
  return event.status === "PUBLISHED" && event.aggregate !== null && !consumed
    && (between(event.published_at) ?? Infinity) < 60_000;
}

function render(event) {
  const scrolled = panel.scrollTop;
  panel.hidden = false;
  panel.replaceChildren(
    closeButton(),
    el("h2", {}, event.event_id),
    el("p", { class: "summary" }, status(event.status), el("span", { class: "muted" }, event.event_type ?? "no event type")),
    ...actions(event),
    ...blockage(event.blocked_by),
    ...failures(event),
    el("h3", {}, "Timeline"),
    timeline(event),
    el("h3", {}, "Attributes"),
    attributes(event),
    ...payload(event.payload),
    ...otherAttributes(event.other),
  );
  panel.scrollTop = scrolled;
}

const closeButton = () =>
  el("button", { class: "icon close", "aria-label": "Close", title: "Close (Esc)", click: () => open?.onClose() }, "✕");

/** The relay rejects changes with a token that permits reading only. */
const isReadOnly = () => document.body.hasAttribute("data-read-only");
const canRetry = (event) => !isReadOnly() && event?.status === "FAILED";
const canDiscard = (event) => !isReadOnly() && ["FAILED", "PENDING"].includes(event?.status);

function actions(event) {
  const parts = [];
  if (canRetry(event)) {
    parts.push(el("button", { id: "retry", class: "main", title: "Retry (r)", click: () => confirmAction("retry") }, "Retry"));
  }
  if (canDiscard(event)) {
    parts.push(el("button", { id: "discard", title: "Discard (d)", click: () => confirmAction("discard") }, "Discard…"));
  }
  if (event.trace_url) {
    parts.push(el("a", { href: event.trace_url, target: "_blank", rel: "noreferrer" }, "Trace in Jaeger ↗"));
  }
  return parts.length === 0 ? [] : [el("div", { class: "actions" }, parts)];
}

/** Returns what blocks the event, with the actions on the event that does. */
function blockage(blocking) {
  if (!blocking) return [];
  const name = el("a", { href: `#${open.eventHash(blocking)}` }, blocking.event_id);
  return [el("div", { id: "blocked", class: "notice" },
    el("p", {}, "Blocked by ", name, ...blockingCause(blocking)),
    ...(isReadOnly() ? [] : [el("div", { class: "actions" },
      el("button", { id: "retry-blocking", class: "main", click: () => confirmAction("retry", blocking) }, "Retry it"),
      el("button", { id: "discard-blocking", click: () => confirmAction("discard", blocking) }, "Discard it…"))]))];
}

/** Returns since when and why an event is failed, as a part of a sentence. */
export function blockingCause({ failed_at, failure }) {
  const since = failed_at ? [" since ", time(failed_at)] : [];
  return [", which is FAILED", ...since, ": ", prose(failure ?? "no reason is stored")];
}

/** Returns why the event failed, and how it breaks the contract of an outbox item. */
function failures(event) {
  const texts = [];
  if (event.status === "FAILED") texts.push(event.failure ?? "No reason is stored with this event.");
  if (event.malformed) texts.push(`The item does not follow the contract of an outbox item: ${event.malformed}`);
  return [...new Set(texts)].map((text) => el("p", { class: "reason" }, prose(text)));
}

const STEPS = {
  committed: "Committed",
  deferred: "Deferred",
  failed: "Failed",
  retried: "Retried",
  replayed: "Replayed",
  published: "Published",
  discarded: "Discarded",
  processed: "Processed",
};

function timeline(event) {
  // A consumer may finish before the relay receives the queue's response. The step `processed` is
  // the last one all the same.
  const isOutcome = ({ step }) => step === "processed";
  const steps = [...event.timeline.filter((moment) => !isOutcome(moment)), ...event.timeline.filter(isOutcome)];
  let previous = null;
  const moments = steps.map(({ at, step, note }) => {
    const elapsed = previous === null ? null : between(previous, at);
    previous = at;
    return el("li", { class: step },
      el("strong", {}, STEPS[step]),
      time(at),
      el("span", { class: "after" }, elapsed === null ? "" : `+${duration(elapsed)}`),
      note && note !== event.failure && note.toLowerCase() !== step ? el("span", { class: "note" }, prose(note)) : null);
  });
  const expected = expectedStep(event);
  if (expected) moments.push(el("li", { class: "expected" }, el("strong", { class: "muted" }, expected)));
  return el("ol", { class: "timeline" }, moments);
}

/** Returns the step that is expected next, or `null`. */
function expectedStep(event) {
  if (event.status === "PENDING") {
    if (event.blocked_by) return `Waiting for ${event.blocked_by.event_id}`;
    return event.deferred_at ? "Waiting in the table for its queue or an earlier event" : "Waiting to be published";
  }
  if (event.status === "PUBLISHED" && isInProgress(event)) return "Waiting to be processed";
  return null;
}

function attributes(event) {
  const aggregate = event.aggregate;
  const rows = [
    [event.aggregate_type ?? "Aggregate", link(event.aggregate_id)],
    ["Sequence", event.sequence],
    ["Aggregate status", aggregate && (aggregate.problem ? prose(aggregate.problem) : aggregate.status)],
    ["Message", event.message_id],
    ["Attempts", event.attempts],
    ["Replays", event.replays],
    ["Trace", event.trace_id],
    ["Trace state", event.tracestate],
    ["Index partition", event.state_bucket],
    ["Deleted after", event.expires_at && time(new Date(event.expires_at * 1000).toISOString())],
  ];
  const known = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", {}, known.map(([name, value]) => [el("dt", {}, name), el("dd", { class: "mono" }, value)]));
}

const link = (aggregateId) =>
  el("a", { href: `#${open.aggregateHash(aggregateId)}`, title: "Show all events of this aggregate" }, aggregateId);

function payload(text) {
  if (text === null) return [el("h3", {}, "Payload"), el("p", { class: "muted" }, "The item has no payload.")];
  const whole = indentJson(text);
  const shown = el("pre", { tabindex: 0 }, whole.slice(0, MAX_SHOWN_CHARACTERS));
  const bytes = new TextEncoder().encode(text).length;
  const title = el("h3", {}, `Payload, ${number(bytes)} bytes`, el("span", {}, copyButton(text)));
  if (whole.length <= MAX_SHOWN_CHARACTERS) return [title, shown];
  const rest = el("button", {
    class: "quiet",
    click: () => {
      shown.textContent = whole;
      rest.remove();
    },
  }, `Show all ${number(whole.length)} characters`);
  return [title, shown, rest];
}

function copyButton(text) {
  // Browsers have a clipboard at localhost and over TLS only.
  if (!navigator.clipboard) return null;
  const button = el("button", {
    class: "quiet",
    click: async () => {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    },
  }, "Copy");
  return button;
}

function otherAttributes(other) {
  if (Object.keys(other).length === 0) return [];
  return [el("h3", {}, "Other attributes"), el("pre", { tabindex: 0 }, JSON.stringify(other, null, 2))];
}

const CONFIRMATIONS = {
  retry: {
    title: "Retry this event?",
    text: (event) => `${event.event_id} becomes pending again, and a relay publishes it in its own trace. The event itself is unchanged, so repair the cause of the failure first.`,
    yes: "Retry",
  },
  discard: {
    title: "Discard this event?",
    text: (event) =>
      `${event.event_id} will not be published, and cannot be retried later. Its item stays in the table, with your reason.` +
      (event.status === "PENDING" ? " A message that a relay is sending at this moment may still arrive." : ""),
    yes: "Discard",
  },
};

const dialog = byId("dialog");

/** Opens the confirmation of an action on `event`, by default the open one. Once confirmed, performs
 * the action and reports its result. */
function confirmAction(action, event = open?.event) {
  const target = open;
  const isPossible = action === "retry" ? canRetry : canDiscard;
  if (!isPossible(event) || dialog.open) return;
  const { title, text, yes } = CONFIRMATIONS[action];
  const reason = byId("dialog-reason");
  const confirm = byId("dialog-yes");
  byId("dialog-title").textContent = title;
  byId("dialog-text").textContent = text(event);
  byId("dialog-error").textContent = "";
  byId("dialog-reason-row").hidden = action !== "discard";
  reason.required = action === "discard";
  reason.value = "";
  confirm.textContent = yes;
  confirm.classList.toggle("danger", action === "discard");
  dialog.querySelector("form").onsubmit = async (submit) => {
    submit.preventDefault();
    confirm.disabled = true;
    try {
      const body = { aggregate_id: event.aggregate_id, sequence: event.sequence };
      if (action === "discard") body.reason = reason.value;
      const change = await post(`/api/${action}`, body);
      dialog.close();
      target.onChange(changeText(action, change));
      if (target === open) reload(target);
    } catch (error) {
      byId("dialog-error").textContent = error.message;
    } finally {
      confirm.disabled = false;
    }
  };
  dialog.showModal();
  (action === "discard" ? reason : confirm).focus();
}

byId("dialog-no").addEventListener("click", () => dialog.close());

function changeText(action, { changed, status: current }) {
  if (!changed) return `Not changed: the event is ${current}`;
  return action === "retry" ? "Retried: the event is pending, and the next sweep publishes it" : "Discarded";
}
