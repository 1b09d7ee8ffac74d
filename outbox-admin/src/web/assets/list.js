// The list of the current view: its columns, its rows, and moving between rows with the keyboard.

import { actions, trace } from "./dead_letters.js";
import { between, byId, duration, el, prose, setText, time } from "./dom.js";
import { hashOf } from "./location.js";

/** Maximum number of published events in the list. */
export const MAX_PUBLISHED = 200;

/** Maximum number of new rows that are highlighted; more at once are usual and not notable. */
const MAX_HIGHLIGHTED = 5;

const event = {
  name: "Event",
  kind: "c-event",
  cell: (item) => el("a", { href: `#${item.link}`, title: item.event_id }, item.event_id),
};
const type = { name: "Type", kind: "c-type", cell: (item) => item.event_type ?? "" };
const committed = { name: "Committed", kind: "c-time", cell: (item) => time(item.occurred_at ?? "") };

export const status = (name, text = name) => el("span", { class: `status ${name}` }, text ?? "none");

/** Creates the age of an event, which `updateAges` keeps current. */
const age = (since) => el("span", { "data-since": since }, ageText(since));
const ageText = (since) => {
  const ms = between(since);
  return ms === null ? "" : duration(ms);
};

export function updateAges() {
  for (const element of document.querySelectorAll("[data-since]")) {
    setText(element, ageText(element.dataset.since));
  }
}

/** Texts of the states of a lease; the same as those of `outbox-relay shards`. */
const LEASE_STATES = {
  alive: "alive",
  silent: "no heartbeat",
  free: "no owner",
  waiting: "waits for parent",
  unknown: "unknown",
  unreadable: "unreadable",
};

const COLUMNS = {
  failed: [
    event,
    type,
    { name: "Failed", kind: "c-time", cell: (item) => time(item.failed_at ?? item.occurred_at ?? "") },
    { name: "Reason", kind: "c-text", cell: (item) => prose(item.failure ?? "") },
  ],
  pending: [
    event,
    type,
    committed,
    { name: "Age", kind: "c-short", label: "age", cell: (item) => age(item.occurred_at) },
    { name: "", kind: "c-wide", cell: repetition },
  ],
  published: [
    event,
    type,
    { name: "Published", kind: "c-time", cell: (item) => time(item.published_at) },
    { name: "Lag", kind: "c-short", label: "lag", cell: lag },
    { name: "Queue", kind: "c-wide", cell: (item) => item.queue + (item.path === "sweep" ? ", by the sweeper" : "") },
  ],
  search: [
    event,
    type,
    { name: "Status", kind: "c-status", cell: (item) => status(item.status) },
    committed,
    { name: "Reason", kind: "c-text", cell: (item) => prose(item.discard_reason ?? item.failure ?? "") },
  ],
  dead: [
    { name: "Event", kind: "c-event", cell: deadEvent },
    { name: "Type", kind: "c-type", cell: (letter) => letter.event_type ?? "" },
    { name: "Queue", kind: "c-wide", cell: (letter) => letter.source_queue ?? letter.queue },
    { name: "Age", kind: "c-short", label: "age", cell: (letter) => (letter.sent_at ? age(letter.sent_at) : "") },
    { name: "Trace", kind: "c-text", cell: trace },
    { name: "", kind: "c-actions", cell: actions },
  ],
  shards: [
    { name: "Lease", kind: "c-event", cell: (lease) => el("span", { class: "mono", title: lease.lease }, leaseName(lease)) },
    { name: "Owner", kind: "c-wide", cell: (lease) => lease.owner ?? "none" },
    { name: "State", kind: "c-status", cell: (lease) => status(lease.life, LEASE_STATES[lease.life]) },
    { name: "Epoch", kind: "c-short", label: "epoch", cell: (lease) => lease.epoch },
    { name: "Settled up to", kind: "c-time", label: "settled up to", cell: (lease) => (lease.passed ? time(lease.passed) : "") },
  ],
};

/** The maintenance lease has the name that earlier releases gave to that of their only sweeper. */
const leaseName = ({ lease, kind }) => (kind === "maintenance" ? `${lease} (maintenance)` : lease);

/** Creates the id of a dead letter's event, as a link to the events of its aggregate. */
function deadEvent({ message_id: message, event_id: id, aggregate }) {
  const title = `message ${message}`;
  if (!aggregate) return el("span", { class: "mono", title }, id ?? message);
  return el("a", { href: `#${hashOf({ view: "search", query: aggregate })}`, title }, id ?? message);
}

/** Returns what is special about a pending event, if anything. */
function repetition(item) {
  if (item.replayed_at) return `replay ${item.replays}`;
  if (item.retried_at) return "retried";
  return item.deferred_at ? "deferred" : "";
}

function lag(item) {
  const ms = item.occurred_at ? between(item.occurred_at, item.published_at) : null;
  return ms === null ? "" : duration(ms);
}

export class List {
  constructor(onOpen) {
    this.table = byId("list");
    this.head = this.table.tHead;
    this.body = this.table.tBodies[0];
    this.rows = new Map();
    this.view = null;
    this.body.addEventListener("click", (click) => {
      const row = click.target.closest("tr.opens");
      // A link opens the event itself, also in another tab.
      if (row && !click.target.closest("a") && getSelection().isCollapsed) onOpen(row.dataset.link);
    });
  }

  /** Shows `items`, each with a `key`. Rows that are unchanged keep their element and focus. */
  show(view, items) {
    if (view !== this.view) {
      this.view = view;
      this.rows.clear();
      this.table.classList.toggle("leases", view === "shards");
      const names = COLUMNS[view].map(({ name, kind }) => el("th", { class: kind, scope: "col" }, name));
      this.head.replaceChildren(el("tr", {}, names));
      this.body.replaceChildren();
    }
    const previous = this.rows;
    this.rows = new Map();
    const added = items.filter(({ key }) => !previous.has(key)).length;
    const highlight = previous.size > 0 && added <= MAX_HIGHLIGHTED;
    for (const item of items) {
      const text = JSON.stringify(item);
      const known = previous.get(item.key);
      const row = known?.text === text ? known.row : this.#row(item, highlight && !known);
      this.rows.set(item.key, { row, text });
    }
    this.table.hidden = items.length === 0;
    const rows = [...this.rows.values()].map(({ row }) => row);
    const focused = document.activeElement?.closest?.("#list tr")?.dataset.key;
    rows.forEach((row, n) => {
      if (this.body.children[n] !== row) this.body.insertBefore(row, this.body.children[n] ?? null);
    });
    while (this.body.children.length > rows.length) this.body.lastElementChild.remove();
    if (focused !== undefined && !this.body.contains(document.activeElement)) {
      this.rows.get(focused)?.row.querySelector("a")?.focus();
    }
  }

  #row(item, isNew) {
    const cells = COLUMNS[this.view].map(({ kind, label, cell }) =>
      el("td", { class: kind, "data-label": label }, cell(item)),
    );
    const text = cells.at(-1).textContent;
    if (text !== "") cells.at(-1).title = text;
    const kinds = [item.link !== undefined && "opens", isNew && "new"].filter(Boolean).join(" ");
    return el("tr", { class: kinds, "data-key": item.key, "data-link": item.link }, cells);
  }

  /** Marks the row of the event that is open. */
  mark(key) {
    for (const [known, { row }] of this.rows) row.classList.toggle("open", known === key);
  }

  /** Moves the focus by `step` rows. */
  moveFocus(step) {
    const links = [...this.body.querySelectorAll("td.c-event a")];
    const current = links.indexOf(document.activeElement);
    const next = current < 0 ? 0 : Math.min(links.length - 1, Math.max(0, current + step));
    links[next]?.focus();
  }

  /** True while the pointer or the focus is in the list, so that its rows should not move. */
  get isInUse() {
    return this.body.matches(":hover") || this.body.contains(document.activeElement);
  }
}
