// The page: what the relay says, and which view and event the address names.

import { Chart } from "./charts.js";
import { detail } from "./detail.js";
import { byId, duration, el, number, plural, prose, rate, setText, timeText } from "./dom.js";
import { List, SHOWN, tick } from "./list.js";
import { follow, get, token } from "./client.js";

const VIEWS = ["failed", "pending", "published", "shards"];
const TITLES = {
  failed: "Failed events",
  pending: "Pending events",
  published: "Events this relay published",
  shards: "Shards and their owners",
  search: "Search",
};
const EMPTY = {
  failed: "No event has failed.",
  pending: "Nothing is pending: everything that was committed is published.",
  published: "This relay has published nothing since it started.",
  shards: "No relay has come to this stream yet.",
};

/** Figures that are an average are one of the last this many seconds. */
const RECENT_SECONDS = 60;

/** Everything the relay has told. */
const told = { about: null, beat: null, status: null, failed: null, pending: null };
/** Slots by their start, and the events this relay published, the latest first. */
const slots = new Map();
let published = [];

/** Pages of the view that were asked for, after the one that is told live. */
let more = { items: [], next: undefined };
let found = null;

const list = new List((link) => {
  location.hash = link;
});

const charts = {
  published: new Chart(byId("published-chart"), {
    title: "Published per second",
    least: 1,
    format: rate,
    series: [
      { name: "published", draw: "bars", value: (slot) => (slot.published ?? 0) / told.beat.slot_seconds },
      { name: "failed", draw: "marks", value: (slot) => slot.quarantined ?? 0 },
    ],
  }),
  lag: new Chart(byId("lag-chart"), {
    title: "Lag, commit to queue",
    least: 10,
    format: duration,
    series: [
      { name: "slowest", draw: "band", value: (slot) => (slot.lag_count > 0 ? slot.lag_max_ms : null) },
      { name: "mean", draw: "line", value: (slot) => (slot.lag_count > 0 ? slot.lag_total_ms / slot.lag_count : null) },
    ],
  }),
  pending: new Chart(byId("pending-chart"), {
    title: "Pending",
    least: 10,
    format: (value) => number(Math.round(value)),
    series: [{ name: "pending", draw: "line", holds: 120, value: (slot) => slot.pending ?? null }],
  }),
};

// The address: #view=failed&q=…&id=…&sequence=…

function route() {
  const hash = new URLSearchParams(location.hash.slice(1));
  const view = hash.get("view");
  return {
    view: view === "search" || VIEWS.includes(view) ? view : "failed",
    query: hash.get("q") ?? "",
    id: hash.get("id"),
    sequence: hash.get("sequence"),
  };
}

function address({ view, query, id, sequence }) {
  const hash = new URLSearchParams({ view });
  if (query) hash.set("q", query);
  if (id) {
    hash.set("id", id);
    hash.set("sequence", sequence);
  }
  return hash.toString();
}

const keyOf = (item) => `${item.sequence} ${item.aggregate_id}`;

let shown = { view: null, query: null };

function navigate() {
  const now = route();
  if (now.view !== shown.view || now.query !== shown.query) {
    shown = now;
    more = { items: [], next: undefined };
    found = null;
    byId("query").value = now.query;
    if (now.view === "search") search(now.query);
  }
  for (const link of document.querySelectorAll("[data-view]")) {
    if (link.dataset.view === now.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  setText(byId("view-title"), TITLES[now.view]);
  show();
  if (now.id === null) {
    detail.close();
    return;
  }
  detail.show(now.id, now.sequence, {
    onClose: closeDetail,
    onChange: (text) => {
      toast(text);
      if (route().view === "search") search(route().query);
    },
    forAggregate: (id) => address({ view: "search", query: id }),
  });
}

function closeDetail() {
  const now = route();
  const key = keyOf({ sequence: now.sequence, aggregate_id: now.id });
  location.hash = address({ view: now.view, query: now.query });
  document.querySelector(`#list tr[data-key="${CSS.escape(key)}"] a`)?.focus();
}

// The list

/** What the view shows: `items`, where it goes `next`, what is the `problem`. */
function contents(view) {
  if (view === "published") return { items: published.slice(0, SHOWN) };
  if (view === "search") return found ?? { items: null };
  if (view === "shards") return leases();
  const first = told[view];
  if (first === null) return { items: null };
  if (first.problem) return { items: [], problem: first.problem };
  const keys = new Set(first.events.map(keyOf));
  const following = more.items.filter((item) => !keys.has(keyOf(item)));
  return {
    items: [...first.events, ...following],
    next: more.next === undefined ? first.next : more.next,
    problem: more.problem,
  };
}

function leases() {
  const status = told.status;
  if (status === null) return { items: null };
  if (status.problem) return { items: [], problem: status.problem };
  const items = [...status.shards, ...(status.sweeper ? [status.sweeper] : [])];
  return { items: items.map((lease) => ({ ...lease, key: lease.lease })) };
}

let waiting = false;

/** Brings the list up to date. What moves by itself waits while it is in use. */
function show({ byItself = false } = {}) {
  const now = route();
  if (byItself && now.view === "published" && list.inUse) {
    waiting = true;
    return;
  }
  waiting = false;
  const { items, next, problem } = contents(now.view);
  const problemLine = byId("view-problem");
  problemLine.hidden = !problem;
  setText(problemLine, problem ?? "");
  const rows = (items ?? []).map((item) =>
    item.aggregate_id === undefined
      ? item
      : { ...item, key: keyOf(item), link: address({ ...now, id: item.aggregate_id, sequence: item.sequence }) },
  );
  list.show(now.view, rows);
  list.mark(now.id === null ? null : keyOf({ sequence: now.sequence, aggregate_id: now.id }));
  const empty = byId("empty");
  empty.hidden = rows.length > 0 || Boolean(problem);
  setText(empty, items === null ? "Looking…" : EMPTY[now.view] ?? "");
  byId("more-row").hidden = !next;
  setText(byId("more"), now.view === "failed" ? "Earlier ones" : "Later ones");
}

byId("list").addEventListener("pointerleave", () => {
  if (waiting) show();
});

byId("more").addEventListener("click", async () => {
  const { view } = route();
  const { next } = contents(view);
  byId("more").disabled = true;
  try {
    const page = await get("/api/events", { state: view, after: next });
    if (route().view === view) more = { items: [...more.items, ...page.events], next: page.next };
  } catch (error) {
    more = { ...more, problem: error.message };
  } finally {
    byId("more").disabled = false;
  }
  show();
});

async function search(query) {
  try {
    const { events, next } = await get("/api/search", { q: query });
    found = { items: events, problem: next ? `Only the first ${number(events.length)} events are shown.` : undefined };
  } catch (error) {
    found = { items: [], problem: error.message };
  }
  if (route().view === "search" && route().query === query) show();
}

byId("search").addEventListener("submit", (submit) => {
  submit.preventDefault();
  const query = byId("query").value.trim();
  if (query !== "") location.hash = address({ view: "search", query });
  else if (route().view === "search") location.hash = address({ view: "failed" });
});

// What the relay says

const on = {
  message(name, data) {
    told[name] = data;
    if (name === "about") connected(data);
    if (name === "beat") beat(data);
    if (name === "status") status(data);
    if (name === "failed") latestFailure(data);
    // Everything but a beat may be about the event that is open.
    if (name !== "beat") detail.refresh();
    const { view, query } = route();
    if (name === view || (name === "status" && view === "shards")) show();
    if (name === "status" && view === "search" && found?.items.some(({ status: now }) => now === "PENDING")) search(query);
    health();
  },

  lost(reason) {
    health(reason);
  },

  denied(reason, code) {
    byId("content").hidden = true;
    health(null, "Not signed in");
    byId("sign-in").hidden = code !== 401;
    troubles(code === 403 ? [reason] : []);
    if (code === 401 && token.get() !== null) setText(byId("sign-in-error"), reason);
    token.forget();
    byId("sign-out").hidden = true;
    byId("token").focus();
  },
};

function connected(about) {
  byId("sign-in").hidden = true;
  byId("content").hidden = false;
  byId("sign-out").hidden = token.get() === null;
  setText(byId("relay"), `${about.instance} · group ${about.consumer_group} · table ${about.outbox_table} · ${about.version}`);
  document.title = `Outbox · ${about.instance}`;
  // Another process, or the same after a pause: it tells all it knows again.
  slots.clear();
  published = [];
  told.status = null;
  if (shown.view === null) navigate();
}

function beat({ now, slot_seconds: span, slots: changed, published: sent }) {
  for (const slot of changed) slots.set(slot.start, slot);
  const seconds = now / 1000;
  for (const start of slots.keys()) {
    if (start < seconds - 20 * 60) slots.delete(start);
  }
  const all = [...slots.values()];
  charts.published.show(all, seconds, span);
  charts.lag.show(all, seconds, span);
  charts.pending.show(withLatest(all), seconds, span);
  figures(all.filter((slot) => slot.start > seconds - RECENT_SECONDS));
  if (sent.length > 0) {
    published = [...sent.reverse(), ...published].slice(0, 2 * SHOWN);
    if (route().view === "published") show({ byItself: true });
  }
  tick();
}

/** The number of pending events stays what it was until it is counted again. */
function withLatest(all) {
  const counted = told.status?.pending;
  const points = all.filter((slot) => slot.pending !== null);
  if (counted && told.beat) {
    const start = Math.floor(told.beat.now / 1000 / told.beat.slot_seconds) * told.beat.slot_seconds;
    slots.set(start, { ...slots.get(start), start, pending: counted.count });
    points.push(slots.get(start));
  }
  return points;
}

function figures(recent) {
  const sum = (name) => recent.reduce((total, slot) => total + (slot[name] ?? 0), 0);
  const count = sum("lag_count");
  setText(byId("published-rate"), `${rate(sum("published") / RECENT_SECONDS)}/s`);
  setText(byId("lag"), count === 0 ? "–" : duration(sum("lag_total_ms") / count));
  setText(byId("lag-note"), count === 0 ? "nothing in the last minute" : `slowest ${duration(Math.max(...recent.map((slot) => slot.lag_max_ms ?? 0)))}`);
}

const atLeast = ({ count, exact }) => (exact ? number(count) : `${number(count)}+`);

function status(report) {
  if (report.problem) return;
  setText(byId("failed-count"), atLeast(report.failed));
  byId("failed-count").classList.toggle("alarm", report.failed.count > 0);
  setText(byId("pending-count"), atLeast(report.pending));
  const age = report.oldest_pending_seconds;
  setText(byId("pending-note"), age === null ? "" : `oldest ${duration(age * 1000)}`);
  const held = report.shards.filter((lease) => lease.owner !== null && lease.life !== "silent");
  setText(byId("shards-count"), `${number(held.length)} of ${number(report.shards.length)}`);
  byId("shards-count").classList.toggle("alarm", held.length < report.shards.length);
  const owners = new Set(held.map((lease) => lease.owner));
  setText(byId("shards-note"), `on ${plural(owners.size, "relay", "relays")}`);
  for (const [view, count] of [["failed", report.failed], ["pending", report.pending]]) {
    document.querySelector(`[data-view=${view}]`).dataset.count = count.count > 0 ? atLeast(count) : "";
  }
}

function latestFailure({ events }) {
  const times = (events ?? []).map((event) => event.failed_at).filter(Boolean).sort();
  const latest = new Date(times.at(-1) ?? NaN);
  setText(byId("failed-note"), Number.isNaN(latest.getTime()) ? "" : `latest ${timeText(latest)}`);
}

/** The line at the top, and under it what is wrong. */
function health(lost = null, text = null) {
  const line = byId("health");
  byId("content").classList.toggle("stale", lost !== null);
  if (text !== null) return said(line, "waiting", text);
  if (lost !== null) {
    said(line, "lost", "No answer");
    const last = told.beat === null ? "" : `; what is shown is from ${new Date(told.beat.now).toLocaleTimeString("en-GB")}`;
    return troubles([`${lost}${last}`]);
  }
  if (told.beat === null) return;
  const { live, ready } = told.beat;
  const failing = ({ checks }) => checks.filter(({ ok }) => !ok).map(({ name, reason }) => `${name}: ${reason}`);
  const dead = failing(live);
  const around = [...failing(ready), ...(told.status?.problem ? [told.status.problem] : told.status?.problems ?? [])];
  if (dead.length > 0) said(line, "unhealthy", "Unhealthy");
  // As `status` in the terminal judges it: each failed event waits for someone.
  else if (around.length > 0 || told.status?.failed?.count > 0) said(line, "unready", "Needs attention");
  else if (told.status === null) said(line, "waiting", "Looking");
  else said(line, "well", "Healthy");
  troubles([...new Set([...dead, ...around])]);
}

function said(line, state, text) {
  line.dataset.state = state;
  setText(byId("health-text"), text);
}

function troubles(texts) {
  const host = byId("troubles");
  const now = JSON.stringify(texts);
  if (host.dataset.texts !== now) {
    host.dataset.texts = now;
    host.replaceChildren(...texts.map((text) => el("li", {}, prose(text))));
  }
}

let toastTimer;

function toast(text) {
  setText(byId("toast"), text);
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => setText(byId("toast"), ""), 5_000);
}

// Signing in and out

byId("sign-in").addEventListener("submit", (submit) => {
  submit.preventDefault();
  const secret = byId("token").value;
  // What a header carries, and RELAY_ADMIN_TOKEN may be.
  if (!/^[\x21-\x7e]+$/.test(secret)) {
    setText(byId("sign-in-error"), "A token has visible ASCII characters only, and no spaces.");
    return;
  }
  token.set(secret);
  byId("token").value = "";
  setText(byId("sign-in-error"), "");
  // Until the relay wants another token, this one is being tried.
  byId("sign-in").hidden = true;
  follow(on);
});

byId("sign-out").addEventListener("click", () => {
  token.forget();
  location.reload();
});

// Keys

addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea") || byId("dialog").open;
  if (event.key === "Escape" && event.target === byId("query")) byId("query").blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const act = {
    j: () => list.move(1),
    k: () => list.move(-1),
    "/": () => byId("query").select(),
    Escape: () => detail.isOpen && closeDetail(),
    r: () => detail.retry(),
    d: () => detail.discard(),
    1: () => view(0),
    2: () => view(1),
    3: () => view(2),
    4: () => view(3),
  }[event.key];
  if (act === undefined) return;
  event.preventDefault();
  act();
});

function view(n) {
  location.hash = address({ view: VIEWS[n] });
}

addEventListener("hashchange", navigate);
follow(on);
