// One event: its history, its payload, and what can be done with it.

import { between, byId, duration, el, number, prose, time } from "./dom.js";
import { status } from "./list.js";
import { pretty } from "./json.js";
import { get, post } from "./client.js";

/** A payload larger than this is shown in part. */
const SHOWN_CHARACTERS = 100_000;

/** An event on its way is asked for again after this. */
const AGAIN_MS = 1_000;

const panel = byId("detail");

/** The event that is open, if any. */
let open = null;

export const detail = {
  get isOpen() {
    return open !== null;
  },

  /** Shows the event of this key, and keeps it up to date while it moves. */
  async show(aggregateId, sequence, { onClose, onChange, forAggregate }) {
    const same = open?.aggregateId === aggregateId && open?.sequence === sequence;
    if (same) return;
    close();
    open = { aggregateId, sequence, onClose, onChange, forAggregate, event: null, text: null };
    await refresh(open);
    if (innerWidth <= 1000) panel.focus();
  },

  close,

  /** Asks for it again: something happened. */
  refresh() {
    if (open !== null) refresh(open);
  },

  retry: () => act("retry"),
  discard: () => act("discard"),
};

function close() {
  if (open === null) return;
  clearTimeout(open.timer);
  open = null;
  panel.hidden = true;
  panel.replaceChildren();
}

/** Brings `of` up to date. What calls for it while an answer is awaited is
 * answered by one more request, so that no old answer follows a newer one. */
async function refresh(of) {
  of.outdated = true;
  if (of.asking) return;
  of.asking = true;
  try {
    while (of.outdated && of === open) {
      of.outdated = false;
      await ask(of);
    }
  } finally {
    of.asking = false;
  }
}

async function ask(of) {
  clearTimeout(of.timer);
  let event;
  try {
    event = await get("/api/event", { aggregate_id: of.aggregateId, sequence: of.sequence });
  } catch (error) {
    if (of === open) {
      of.event = null;
      of.text = null;
      panel.hidden = false;
      panel.replaceChildren(closing(), el("p", { class: "problem", role: "alert" }, error.message));
    }
    return;
  }
  if (of !== open) return;
  const text = JSON.stringify(event);
  if (text !== of.text) {
    of.text = text;
    of.event = event;
    render(event);
  }
  if (isMoving(event)) of.timer = setTimeout(() => refresh(of), AGAIN_MS);
}

/** Whether more is to be expected soon. */
function isMoving(event) {
  if (event.status === "PENDING") return true;
  const consumed = event.timeline.some(({ step }) => step === "processed");
  return event.status === "PUBLISHED" && event.aggregate !== null && !consumed
    && (between(event.published_at) ?? Infinity) < 60_000;
}

function render(event) {
  const scrolled = panel.scrollTop;
  panel.hidden = false;
  panel.replaceChildren(
    closing(),
    el("h2", {}, event.event_id),
    el("p", { class: "summary" }, status(event.status), el("span", { class: "muted" }, event.event_type ?? "no event type")),
    ...actions(event),
    ...reasons(event),
    el("h3", {}, "Timeline"),
    timeline(event),
    el("h3", {}, "Facts"),
    facts(event),
    ...payload(event.payload),
    ...others(event.other),
  );
  panel.scrollTop = scrolled;
}

const closing = () =>
  el("button", { class: "icon close", "aria-label": "Close", title: "Close (Esc)", click: () => open?.onClose() }, "✕");

function actions(event) {
  const parts = [];
  if (event.status === "FAILED") {
    parts.push(
      el("button", { id: "retry", class: "main", title: "r", click: () => act("retry") }, "Retry"),
      el("button", { id: "discard", title: "d", click: () => act("discard") }, "Discard…"),
    );
  }
  if (event.trace_url) {
    parts.push(el("a", { href: event.trace_url, target: "_blank", rel: "noreferrer" }, "Trace in Jaeger ↗"));
  }
  return parts.length === 0 ? [] : [el("div", { class: "actions" }, parts)];
}

function reasons(event) {
  const texts = [];
  if (event.status === "FAILED") texts.push(event.failure ?? "no reason is stored");
  if (event.malformed) texts.push(`This is no event of the contract: ${event.malformed}`);
  return [...new Set(texts)].map((text) => el("p", { class: "reason" }, prose(text)));
}

const STEPS = {
  committed: "Committed",
  failed: "Failed",
  retried: "Retried",
  replayed: "Replayed",
  published: "Published",
  discarded: "Discarded",
  processed: "Processed",
};

function timeline(event) {
  // A consumer may be done before the relay has the queue's answer; what comes
  // of an event is shown after it all the same.
  const isOutcome = ({ step }) => step === "processed";
  const steps = [...event.timeline.filter((moment) => !isOutcome(moment)), ...event.timeline.filter(isOutcome)];
  let before = null;
  const moments = steps.map(({ at, step, note }) => {
    const after = before === null ? null : between(before, at);
    before = at;
    return el("li", { class: step },
      el("strong", {}, STEPS[step]),
      time(at),
      el("span", { class: "after" }, after === null ? "" : `+${duration(after)}`),
      note && note !== event.failure && note.toLowerCase() !== step ? el("span", { class: "note" }, prose(note)) : null);
  });
  const awaited = next(event);
  if (awaited) moments.push(el("li", { class: "awaited" }, el("strong", { class: "muted" }, awaited)));
  return el("ol", { class: "timeline" }, moments);
}

/** What comes next, when that is known. */
function next(event) {
  if (event.status === "PENDING") return "Publishing";
  if (event.status === "PUBLISHED" && isMoving(event)) return "Processing";
  return null;
}

function facts(event) {
  const aggregate = event.aggregate;
  const rows = [
    [event.aggregate_type ?? "Aggregate", link(event.aggregate_id)],
    ["Sequence", event.sequence],
    ["Its state", aggregate && (aggregate.problem ? prose(aggregate.problem) : aggregate.status)],
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
  el("a", { href: `#${open.forAggregate(aggregateId)}`, title: "All its events" }, aggregateId);

function payload(text) {
  if (text === null) return [el("h3", {}, "Payload"), el("p", { class: "muted" }, "There is none.")];
  const whole = pretty(text);
  const shown = el("pre", { tabindex: 0 }, whole.slice(0, SHOWN_CHARACTERS));
  const bytes = new TextEncoder().encode(text).length;
  const title = el("h3", {}, `Payload, ${number(bytes)} bytes`, el("span", {}, copy(text)));
  if (whole.length <= SHOWN_CHARACTERS) return [title, shown];
  const rest = el("button", {
    class: "quiet",
    click: () => {
      shown.textContent = whole;
      rest.remove();
    },
  }, `Show all ${number(whole.length)} characters`);
  return [title, shown, rest];
}

function copy(text) {
  // Only where the browser has a clipboard: at localhost and over TLS.
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

function others(other) {
  if (Object.keys(other).length === 0) return [];
  return [el("h3", {}, "Other attributes"), el("pre", { tabindex: 0 }, JSON.stringify(other, null, 2))];
}

const QUESTIONS = {
  retry: {
    title: "Retry this event?",
    text: (event) => `${event.event_id} becomes pending again and is published by the normal path, with its own trace.`,
    yes: "Retry",
  },
  discard: {
    title: "Discard this event?",
    text: (event) => `${event.event_id} will never be published. It stays in the table with your reason.`,
    yes: "Discard",
  },
};

const dialog = byId("dialog");

/** Asks, does it, and says what came of it. */
function act(action) {
  const of = open;
  if (of?.event?.status !== "FAILED" || dialog.open) return;
  const { title, text, yes } = QUESTIONS[action];
  const reason = byId("dialog-reason");
  const agree = byId("dialog-yes");
  byId("dialog-title").textContent = title;
  byId("dialog-text").textContent = text(of.event);
  byId("dialog-error").textContent = "";
  byId("dialog-reason-row").hidden = action !== "discard";
  reason.required = action === "discard";
  reason.value = "";
  agree.textContent = yes;
  agree.classList.toggle("danger", action === "discard");
  dialog.querySelector("form").onsubmit = async (submit) => {
    submit.preventDefault();
    agree.disabled = true;
    try {
      const body = { aggregate_id: of.aggregateId, sequence: of.sequence };
      if (action === "discard") body.reason = reason.value;
      const acted = await post(`/api/${action}`, body);
      dialog.close();
      of.onChange(said(action, acted));
      if (of === open) refresh(of);
    } catch (error) {
      byId("dialog-error").textContent = error.message;
    } finally {
      agree.disabled = false;
    }
  };
  dialog.showModal();
  (action === "discard" ? reason : agree).focus();
}

byId("dialog-no").addEventListener("click", () => dialog.close());

function said(action, { changed, status: now }) {
  if (!changed) return `Nothing was changed: it is ${now} already`;
  return action === "retry" ? "Pending again; it is published at the next sweep" : "Discarded";
}
