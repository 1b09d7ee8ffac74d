// The upper part of the page: health, problems, figures and charts.

import { Chart } from "./charts.js";
import { byId, duration, el, number, plural, prose, rate, setText, timeText } from "./dom.js";

/** Length of the window over which rates and means are computed. */
const RECENT_SECONDS = 60;

/** Time after which a slot is forgotten: more than a chart shows. */
const SLOT_RETENTION_SECONDS = 20 * 60;

/** Activity slots by their start, and their length in seconds. */
const slots = new Map();
let slotSeconds = 1;

const charts = {
  published: new Chart(byId("published-chart"), {
    title: "Published per second",
    minScale: 1,
    format: rate,
    series: [
      { name: "published", shape: "bars", value: (slot) => (slot.published ?? 0) / slotSeconds },
      { name: "failed", shape: "marks", value: (slot) => slot.quarantined ?? 0 },
    ],
  }),
  lag: new Chart(byId("lag-chart"), {
    title: "Lag, commit to queue",
    minScale: 10,
    format: duration,
    series: [
      { name: "slowest", shape: "band", value: (slot) => (slot.lag_count > 0 ? slot.lag_max_ms : null) },
      { name: "mean", shape: "line", value: (slot) => (slot.lag_count > 0 ? slot.lag_total_ms / slot.lag_count : null) },
    ],
  }),
  pending: new Chart(byId("pending-chart"), {
    title: "Pending",
    minScale: 10,
    format: (value) => number(Math.round(value)),
    series: [{ name: "pending", shape: "line", holdSeconds: 120, value: (slot) => slot.pending ?? null }],
  }),
};

/** Forgets the activity: the relay sends all that it remembers after a new connection. */
export function resetActivity() {
  slots.clear();
}

/** Shows the activity of a heartbeat. `pending` is the latest count of pending events, if any. */
export function showActivity({ now, slot_seconds, slots: changed }, pending) {
  slotSeconds = slot_seconds;
  for (const slot of changed) slots.set(slot.start, slot);
  const seconds = now / 1000;
  for (const start of slots.keys()) {
    if (start < seconds - SLOT_RETENTION_SECONDS) slots.delete(start);
  }
  const all = [...slots.values()];
  charts.published.show(all, seconds, slotSeconds);
  charts.lag.show(all, seconds, slotSeconds);
  charts.pending.show(pendingSlots(all, pending, seconds), seconds, slotSeconds);
  showRates(all.filter((slot) => slot.start > seconds - RECENT_SECONDS));
}

/** Returns the slots with a count of pending events. The latest count also holds for the current
 * slot: it stays valid until the events are counted again. */
function pendingSlots(all, pending, seconds) {
  const counted = all.filter((slot) => slot.pending !== null);
  if (pending) {
    const start = Math.floor(seconds / slotSeconds) * slotSeconds;
    slots.set(start, { ...slots.get(start), start, pending: pending.count });
    counted.push(slots.get(start));
  }
  return counted;
}

function showRates(recent) {
  const sum = (name) => recent.reduce((total, slot) => total + (slot[name] ?? 0), 0);
  const count = sum("lag_count");
  setText(byId("published-rate"), `${rate(sum("published") / RECENT_SECONDS)}/s`);
  setText(byId("lag"), count === 0 ? "–" : duration(sum("lag_total_ms") / count));
  setText(byId("lag-note"), count === 0 ? "no events in the last minute" : `slowest ${duration(Math.max(...recent.map((slot) => slot.lag_max_ms ?? 0)))}`);
}

/** Formats a count, which may be a lower bound. */
const formatCount = ({ count, exact }) => (exact ? number(count) : `${number(count)}+`);

/** Shows the figures of a status report. */
export function showStatus(status) {
  if (status.problem) return;
  setText(byId("failed-count"), formatCount(status.failed));
  byId("failed-count").classList.toggle("alarm", status.failed.count > 0);
  setText(byId("pending-count"), formatCount(status.pending));
  const age = status.oldest_pending_seconds;
  setText(byId("pending-note"), age === null ? "" : `oldest ${duration(age * 1000)}`);
  const held = status.shards.filter((lease) => lease.owner !== null && lease.life !== "silent");
  setText(byId("shards-count"), `${number(held.length)} of ${number(status.shards.length)}`);
  byId("shards-count").classList.toggle("alarm", held.length < status.shards.length);
  const owners = new Set(held.map((lease) => lease.owner));
  const running = status.members.length > owners.size ? ` of ${number(status.members.length)}` : "";
  setText(byId("shards-note"), `on ${number(owners.size)}${running} ${owners.size === 1 && running === "" ? "relay" : "relays"}`);
  byId("shards-note").title = status.members.join(", ");
  showDeferred(Object.entries(status.deferred));
  for (const [view, count] of [["failed", status.failed], ["pending", status.pending]]) {
    document.querySelector(`[data-view=${view}]`).dataset.count = count.count > 0 ? formatCount(count) : "";
  }
}

/** Shows the numbers of deferred events, pairs of queue and number. */
function showDeferred(counts) {
  const total = counts.reduce((sum, [, count]) => sum + count, 0);
  byId("deferred").hidden = total === 0;
  const queues = counts.map(([queue, count]) => `${number(count)} for ${queue}`).join(", ");
  setText(byId("deferred"), `${plural(total, "pending event is", "pending events are")} deferred until the queue accepts them, or an earlier event is retried or discarded: ${queues}`);
}

/** Shows the time of the latest failure among the listed failed events. */
export function showLatestFailure({ events }) {
  const times = (events ?? []).map((event) => event.failed_at).filter(Boolean).sort();
  const latest = new Date(times.at(-1) ?? NaN);
  setText(byId("failed-note"), Number.isNaN(latest.getTime()) ? "" : `latest ${timeText(latest)}`);
}

/** Shows the health of the relay and the outbox, and the problems below it. */
export function showHealth({ heartbeat, status }) {
  byId("content").classList.remove("stale");
  if (heartbeat === null) return;
  const failing = ({ checks }) => checks.filter(({ ok }) => !ok).map(({ name, reason }) => `${name}: ${reason}`);
  const errors = failing(heartbeat.live);
  const warnings = [...failing(heartbeat.ready), ...(status?.problem ? [status.problem] : status?.problems ?? [])];
  if (errors.length > 0) setHealth("unhealthy", "Unhealthy");
  // The command `status` also reports failed events as unhealthy: each needs an operator.
  else if (warnings.length > 0 || status?.failed?.count > 0) setHealth("warning", "Needs attention");
  else if (status === null) setHealth("unknown", "Checking");
  else setHealth("healthy", "Healthy");
  setProblems([...new Set([...errors, ...warnings])]);
}

/** Shows that the relay is disconnected, the reason, and the age of the data on the page. */
export function showDisconnected(reason, heartbeat) {
  byId("content").classList.add("stale");
  setHealth("disconnected", "No response");
  const age = heartbeat === null ? "" : `; the data shown is from ${new Date(heartbeat.now).toLocaleTimeString("en-GB")}`;
  setProblems([`${reason}; reconnecting${age}`]);
}

/** Shows that the relay rejected the request for live updates. */
export function showSignedOut(problems) {
  byId("content").classList.remove("stale");
  setHealth("unknown", "Not signed in");
  setProblems(problems);
}

function setHealth(state, text) {
  byId("health").dataset.state = state;
  setText(byId("health-text"), text);
}

function setProblems(texts) {
  const host = byId("problems");
  const json = JSON.stringify(texts);
  if (host.dataset.texts !== json) {
    host.dataset.texts = json;
    host.replaceChildren(...texts.map((text) => el("li", {}, prose(text))));
  }
}
