// The page: receives live updates, and shows the view and the event that the address names.

import { follow, get, token } from "./client.js";
import { DeadLetters } from "./dead_letters.js";
import { blockingCause, detail } from "./detail.js";
import { byId, el, number, setText } from "./dom.js";
import { List, MAX_PUBLISHED, updateAges } from "./list.js";
import { VIEWS, currentLocation, hashOf, keyOf } from "./location.js";
import {
  resetActivity, showActivity, showDisconnected, showHealth, showLatestFailure, showSignedOut, showStatus,
} from "./overview.js";

const TITLES = {
  failed: "Failed events",
  pending: "Pending events",
  published: "Events published by this relay",
  shards: "Leases of shards and sweepers, and their owners",
  dead: "Dead letters of the queues",
  search: "Search results",
};
const EMPTY = {
  failed: "No event has failed.",
  pending: "No event is pending.",
  published: "This relay has not published an event since it started.",
  dead: "The dead-letter queues are empty.",
  shards: "No leases: no relay of this consumer group has read the stream yet.",
};

/** The latest live update of each kind. */
const latest = { about: null, heartbeat: null, status: null, failed: null, pending: null };
/** Events that this relay published, the newest first. */
let published = [];

/** Pages after the first one, which live updates keep current, loaded on request. */
let laterPages = { items: [], next: undefined };
let searchResult = null;

const list = new List((link) => {
  location.hash = link;
});

const deadLetters = new DeadLetters({
  onChange: () => currentLocation().view === "dead" && renderList(),
  onDone: toast,
});

let shown = { view: null, query: null };

/** Shows the view and the event that the address names. */
function navigate() {
  const target = currentLocation();
  if (target.view !== shown.view || target.query !== shown.query) {
    shown = target;
    laterPages = { items: [], next: undefined };
    searchResult = null;
    byId("query").value = target.query;
    if (target.view === "search") search(target.query);
    if (target.view === "dead") deadLetters.load();
  }
  for (const link of document.querySelectorAll("[data-view]")) {
    if (link.dataset.view === target.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  setText(byId("view-title"), TITLES[target.view]);
  renderList();
  if (target.id === null) {
    detail.close();
    return;
  }
  detail.show(target.id, target.sequence, {
    onClose: closeDetail,
    onChange: (text) => {
      toast(text);
      if (currentLocation().view === "search") search(currentLocation().query);
    },
    aggregateHash: (id) => hashOf({ view: "search", query: id }),
    eventHash,
  });
}

/** Returns the location of an event within the current view. */
const eventHash = ({ aggregate_id: id, sequence }) => hashOf({ ...currentLocation(), id, sequence });

function closeDetail() {
  const { view, query, id, sequence } = currentLocation();
  const key = keyOf({ sequence, aggregate_id: id });
  location.hash = hashOf({ view, query });
  document.querySelector(`#list tr[data-key="${CSS.escape(key)}"] a`)?.focus();
}

// The list

/** Returns the content of a view: its `items` (`null` while they are loading), the token of the
 * `next` page, and a `problem`. */
function viewContent(view) {
  if (view === "published") return { items: published.slice(0, MAX_PUBLISHED) };
  if (view === "search") return searchResult ?? { items: null };
  if (view === "shards") return leaseContent();
  if (view === "dead") return deadLetters.content;
  const first = latest[view];
  if (first === null) return { items: null };
  if (first.problem) return { items: [], problem: first.problem };
  const keys = new Set(first.events.map(keyOf));
  const later = laterPages.items.filter((item) => !keys.has(keyOf(item)));
  return {
    items: [...first.events, ...later],
    next: laterPages.next === undefined ? first.next : laterPages.next,
    problem: laterPages.problem,
  };
}

function leaseContent() {
  const { status } = latest;
  if (status === null) return { items: null };
  if (status.problem) return { items: [], problem: status.problem };
  const leases = [...status.shards, ...(status.sweeper ? [status.sweeper] : []), ...status.sweepers];
  return { items: leases.map((lease) => ({ ...lease, key: lease.lease })) };
}

/** Returns a sentence about the event that blocks the listed aggregate. */
const blockedAggregate = (blocking) => [
  "This aggregate is blocked by ",
  el("a", { href: `#${eventHash(blocking)}` }, blocking.event_id),
  ...blockingCause(blocking).flat(Infinity),
];

let isRenderDeferred = false;

/** Renders the list. The published events change with every heartbeat: such a live update is
 * deferred while the list is in use, so that its rows do not move. */
function renderList({ isLiveUpdate = false } = {}) {
  const target = currentLocation();
  if (isLiveUpdate && target.view === "published" && list.isInUse) {
    isRenderDeferred = true;
    return;
  }
  isRenderDeferred = false;
  const { items, next, problem, blocking } = viewContent(target.view);
  byId("view-problem").hidden = !problem;
  setText(byId("view-problem"), problem ?? "");
  byId("view-blocked").hidden = !blocking;
  byId("view-blocked").replaceChildren(...(blocking ? blockedAggregate(blocking) : []));
  const rows = (items ?? []).map((item) =>
    item.aggregate_id === undefined
      ? item
      : { ...item, key: keyOf(item), link: hashOf({ ...target, id: item.aggregate_id, sequence: item.sequence }) },
  );
  list.show(target.view, rows);
  list.mark(target.id === null ? null : keyOf({ sequence: target.sequence, aggregate_id: target.id }));
  byId("empty").hidden = rows.length > 0 || Boolean(problem);
  setText(byId("empty"), items === null ? "Loading…" : EMPTY[target.view] ?? "");
  byId("more-row").hidden = !next;
  setText(byId("more"), target.view === "failed" ? "Show earlier events" : "Show later events");
}

byId("list").addEventListener("pointerleave", () => {
  if (isRenderDeferred) renderList();
});

byId("list").addEventListener("click", ({ target }) => {
  const { action, message } = target.dataset;
  if (action !== undefined) deadLetters.confirm(action, message);
});

byId("more").addEventListener("click", async () => {
  const { view } = currentLocation();
  const { next } = viewContent(view);
  byId("more").disabled = true;
  try {
    const page = await get("/api/events", { state: view, after: next });
    if (currentLocation().view === view) {
      laterPages = { items: [...laterPages.items, ...page.events], next: page.next };
    }
  } catch (error) {
    laterPages = { ...laterPages, problem: error.message };
  } finally {
    byId("more").disabled = false;
  }
  renderList();
});

async function search(query) {
  try {
    const { events, next, blocked_by: blocking } = await get("/api/search", { q: query });
    const problem = next ? `Only the first ${number(events.length)} events are shown.` : undefined;
    searchResult = { items: events, problem, blocking };
  } catch (error) {
    searchResult = { items: [], problem: error.message };
  }
  const target = currentLocation();
  if (target.view === "search" && target.query === query) renderList();
}

byId("search").addEventListener("submit", (submit) => {
  submit.preventDefault();
  const query = byId("query").value.trim();
  if (query !== "") location.hash = hashOf({ view: "search", query });
  else if (currentLocation().view === "search") location.hash = hashOf({ view: "failed" });
});

// Live updates

const handlers = {
  onMessage(name, data) {
    latest[name] = data;
    if (name === "about") onConnected(data);
    if (name === "heartbeat") onHeartbeat(data);
    if (name === "status") showStatus(data);
    if (name === "failed") showLatestFailure(data);
    // A change in the tables may concern the open event; a heartbeat does not.
    if (name !== "heartbeat") detail.refresh();
    const { view, query } = currentLocation();
    if (name === view || (name === "status" && view === "shards")) renderList();
    if (name === "status" && view === "search" && searchResult?.items.some(({ status }) => status === "PENDING")) search(query);
    showHealth(latest);
  },

  onDisconnected(reason) {
    showDisconnected(reason, latest.heartbeat);
  },

  onDenied(reason, status) {
    byId("content").hidden = true;
    byId("sign-in").hidden = status !== 401;
    showSignedOut(status === 403 ? [reason] : []);
    if (status === 401 && token.get() !== null) setText(byId("sign-in-error"), reason);
    token.remove();
    byId("sign-out").hidden = true;
    byId("token").focus();
  },
};

function onConnected(about) {
  document.body.toggleAttribute("data-read-only", about.read_only);
  byId("sign-in").hidden = true;
  byId("content").hidden = false;
  byId("sign-out").hidden = token.get() === null;
  setText(byId("relay"), `${about.instance} · group ${about.consumer_group} · table ${about.outbox_table} · ${about.version}`);
  document.title = `Outbox · ${about.instance}`;
  // The process may have been restarted. It sends all that it remembers to a new connection.
  resetActivity();
  published = [];
  latest.status = null;
  if (shown.view === null) navigate();
}

function onHeartbeat(heartbeat) {
  showActivity(heartbeat, latest.status?.pending);
  if (heartbeat.published.length > 0) {
    published = [...heartbeat.published.reverse(), ...published].slice(0, 2 * MAX_PUBLISHED);
    if (currentLocation().view === "published") renderList({ isLiveUpdate: true });
  }
  updateAges();
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
  // The characters that RELAY_ADMIN_TOKEN allows, which an HTTP header can carry.
  if (!/^[\x21-\x7e]+$/.test(secret)) {
    setText(byId("sign-in-error"), "A token consists of visible ASCII characters without spaces.");
    return;
  }
  token.set(secret);
  byId("token").value = "";
  setText(byId("sign-in-error"), "");
  // Hidden while this token is tried; shown again if the relay rejects it.
  byId("sign-in").hidden = true;
  follow(handlers);
});

byId("sign-out").addEventListener("click", () => {
  token.remove();
  location.reload();
});

// Keys

addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input, textarea") || byId("dialog").open;
  if (event.key === "Escape" && event.target === byId("query")) byId("query").blur();
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  const act = {
    j: () => list.moveFocus(1),
    k: () => list.moveFocus(-1),
    "/": () => byId("query").select(),
    Escape: () => detail.isOpen && closeDetail(),
    r: () => detail.retry(),
    d: () => detail.discard(),
    1: () => openView(0),
    2: () => openView(1),
    3: () => openView(2),
    4: () => openView(3),
    5: () => openView(4),
  }[event.key];
  if (act === undefined) return;
  event.preventDefault();
  act();
});

function openView(n) {
  location.hash = hashOf({ view: VIEWS[n] });
}

addEventListener("hashchange", navigate);
follow(handlers);
