"use strict";
// Renders the JSON report that html.rs embeds in the page. Values of the report are only ever set
// as text, never as markup.

const report = JSON.parse(document.getElementById("report").textContent);
const page = document.getElementById("page");

// --- Numbers -------------------------------------------------------------------------------------

// `12,345`
function count(number) {
  return String(number).replace(/\B(?=(\d{3})+$)/g, ",");
}

// `870 ms`, `3.4 s`, `2 min 5 s`
function duration(millis) {
  if (millis < 1000) return `${millis} ms`;
  // Above this one decimal would be rounded up to a whole minute.
  if (millis < 59950) return `${(Math.round(millis / 100) / 10).toFixed(1)} s`;
  const seconds = Math.round(millis / 1000);
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

// `63.4 MiB`
function mebibytes(bytes) {
  return `${(Math.floor((bytes * 10) / (1024 * 1024)) / 10).toFixed(1)} MiB`;
}

// `1 relay`, `2 relays`
function plural(number, singular) {
  return `${count(number)} ${singular}${number === 1 ? "" : "s"}`;
}

// A percentile in milliseconds; a dash if there were no values.
function percentile(millis, values) {
  return values === 0 ? "–" : duration(millis);
}

function sum(byKey) {
  return Object.values(byKey).reduce((all, one) => all + one, 0);
}

// --- Elements ------------------------------------------------------------------------------------

function append(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat(Infinity).filter((child) => child !== null));
  return element;
}

function html(tag, attributes = {}, ...children) {
  return append(document.createElement(tag), attributes, children);
}

function section(heading, ...children) {
  return html("section", {}, html("h2", {}, heading), children);
}

function soft(text) {
  return html("p", { class: "soft" }, text);
}

function wide(child) {
  return html("div", { class: "wide", tabindex: "0" }, child);
}

function cell(content) {
  return html("td", {}, content);
}

// A cell with a number, aligned to the right.
function number(content) {
  return html("td", { class: "n" }, content);
}

function label(content, attributes = {}) {
  return html("th", { scope: "row", ...attributes }, content);
}

function row(...cells) {
  return html("tr", {}, cells);
}

// A heading of a column: `>` in front aligns it to the right, above numbers.
function head(...names) {
  const cells = names.map((name) =>
    name.startsWith(">")
      ? html("th", { scope: "col", class: "n" }, name.slice(1))
      : html("th", { scope: "col" }, name),
  );
  return html("thead", {}, row(cells));
}

function table(heads, rows) {
  return html("table", {}, heads, html("tbody", {}, rows));
}

function percentiles(of) {
  return [of.p50, of.p99, of.max]
    .map((millis) => number(percentile(millis, of.count)))
    .concat(number(count(of.count)));
}

const PERCENTILES = [">p50", ">p99", ">max", ">of"];

// --- Heading and verdict -------------------------------------------------------------------------

function heading() {
  const settings = report.settings;
  const splits = settings.split_every_ms === null ? "" : `, one closed every ${duration(settings.split_every_ms)}`;
  const cloud = settings.endpoint ?? `the embedded cloud with ${plural(settings.shards, "shard")}${splits}`;
  return [
    html("h1", {}, document.title),
    soft(
      `${duration(settings.duration_ms)} from ${settings.started_at}: ${count(settings.rate)} orders/s, ` +
        `${plural(settings.relays, "relay")}, ${plural(settings.workers, "worker")}, ` +
        `lease of ${duration(settings.lease_duration_ms)}, against ${cloud}`,
    ),
    html("p", {}, html("code", {}, report.command)),
  ];
}

function verdict() {
  const violated = report.invariants.filter((invariant) => invariant.violations > 0);
  if (violated.length > 0) {
    const all = report.invariants.length;
    return html("p", { class: "verdict bad" }, `✗ ${violated.length} of ${all} invariants are violated.`);
  }
  const judged = report.recovery
    .filter((of) => of.limit_ms !== null)
    .map((of) => `${count(of.judged)} after ${of.name}`);
  const text = `✓ Every invariant holds. Recoveries judged: ${judged.join(", ")}.`;
  return html("p", { class: "verdict good" }, text);
}

function violations() {
  const violated = report.invariants.filter((invariant) => invariant.violations > 0);
  if (violated.length === 0) return null;
  const of = (invariant) => {
    const examples = invariant.examples.map((example) =>
      html("li", {}, example.at === null ? "" : `at ${duration(example.at)}: `, example.what),
    );
    const hidden = invariant.violations - invariant.examples.length;
    if (hidden > 0) examples.push(html("li", {}, `and ${count(hidden)} more`));
    return [html("h3", {}, `${invariant.statement}: ✗ ${count(invariant.violations)}`), html("ul", {}, examples)];
  };
  const shown = section("Violations", violated.map(of));
  shown.classList.add("violations");
  return shown;
}

function tiles() {
  const tile = (figure, what) =>
    html("div", { class: "tile" }, html("b", {}, figure), html("span", {}, what));
  const { calm, with_faults: withFaults } = report.latency.processing;
  return html(
    "div",
    { class: "tiles" },
    tile(count(report.orders.stored), "orders stored"),
    tile(count(sum(report.faults.killed)), "processes killed"),
    tile(count(report.faults.total), "faults injected"),
    tile(count(report.repeats.total), "events sent again"),
    tile(percentile(calm.p99, calm.count), "p99 to PROCESSED, no fault"),
    tile(percentile(withFaults.p99, withFaults.count), "p99 to PROCESSED, with faults"),
  );
}

// --- Tables --------------------------------------------------------------------------------------

function invariants() {
  const mark = (violations) =>
    violations === 0
      ? html("span", { class: "mark good" }, "✓ holds")
      : html("span", { class: "mark bad" }, `✗ ${count(violations)}`);
  const rows = report.invariants.map((one) => row(cell(mark(one.violations)), cell(`${one.statement}.`)));
  return section("Invariants", wide(table(null, rows)));
}

function latency() {
  const rows = (what, of) => [
    row(label(what), cell("no fault"), percentiles(of.calm)),
    row(label(what), cell("with faults"), percentiles(of.with_faults)),
  ];
  return section(
    "Latency",
    soft("No fault: none was active at that time, nor in the seconds before it, while its effects last."),
    wide(
      table(head("", "", ...PERCENTILES), [
        rows("POST to 201", report.latency.confirmation),
        rows("order committed to PROCESSED", report.latency.processing),
      ]),
    ),
  );
}

function recoveryRows(of) {
  const rows = [];
  if (of.limit_ms !== null) {
    const judged = of.judged === 0 ? [": ", html("b", {}, "none could be judged")] : [];
    const isolated = of.isolated > 0 ? [`, isolated faults: ${count(of.isolated)}`] : [];
    rows.push(
      row(label(of.name), cell(["none", judged, isolated].flat()), number(duration(of.limit_ms)), percentiles(of.undisturbed)),
    );
  }
  if (of.others.count > 0) {
    const meanwhile = of.limit_ms === null ? "any" : "some";
    rows.push(row(label(of.name), cell(meanwhile), number("–"), percentiles(of.others)));
  }
  if (of.never > 0) {
    const text = `not recovered by the end of the run: ${count(of.never)}`;
    rows.push(row(label(of.name), html("td", { colspan: 6 }, text)));
  }
  return rows;
}

function recovery() {
  const each = report.recovery.flatMap((of) =>
    of.each.map((one) =>
      row(
        number(duration(one.at)),
        cell(of.name),
        cell(one.process ?? "–"),
        number(one.took_ms === null ? "never" : duration(one.took_ms)),
        cell(one.disturbed_by ?? "–"),
      ),
    ),
  );
  return section(
    "Time to recovery",
    soft(
      "From the fault until the event that had waited longest was published. The limit applies where no " +
        "other fault was active; otherwise it is the lease duration and two seconds from the last other " +
        "fault on. The API and the workers have no limit, since the run decides how long they stay down.",
    ),
    wide(table(head("after", "other faults", ">limit", ...PERCENTILES), report.recovery.map(recoveryRows))),
    html(
      "details",
      {},
      html("summary", {}, "Each recovery"),
      wide(table(head(">at", "after", "process", ">took", "other fault"), each)),
    ),
  );
}

function queueOutages() {
  if (report.queue_outages.length === 0) return [];
  const rows = report.queue_outages.map((one) =>
    row(
      label(one.queue),
      [duration(one.at), duration(one.until - one.at), count(one.deferred)].map(number),
      percentiles(one.others),
    ),
  );
  return [
    section(
      "Outages of one queue",
      soft("Deferred events are published from the table after the outage. The percentiles are of the events of the other queues, from commit to acceptance."),
      wide(table(head("queue", ">at", ">for", ">events deferred", ...PERCENTILES), rows)),
    ),
  ];
}

function faults() {
  const by = (programs, signal) =>
    Object.entries(programs).map(([program, ended]) =>
      row(label(`${program} ended by ${signal}`), number(count(ended))),
    );
  const kinds = Object.entries(report.faults.by_kind).map(([kind, injected]) =>
    row(label(kind), number(count(injected))),
  );
  return section(
    "Faults",
    table(null, [kinds, by(report.faults.killed, "SIGKILL"), by(report.faults.terminated, "SIGTERM")]),
  );
}

function memory() {
  const rows = Object.entries(report.memory).map(([process, bytes]) =>
    row(label(process), number(mebibytes(bytes))),
  );
  return section("Highest memory use", table(null, rows));
}

function orders() {
  const { orders, events } = report;
  const figure = (what, value) => row(label(what), number(count(value)));
  const drained = report.drained_after_ms;
  return section(
    "Orders and events",
    table(null, [
      figure("orders requested", orders.wanted),
      figure("requests", orders.requests),
      Object.entries(orders.answers).map(([status, responses]) =>
        figure(status === "none" ? "without a response" : `response ${status}`, responses),
      ),
      figure("response with an earlier order", orders.replayed),
      figure("orders PROCESSED", orders.processed),
      figure("orders REJECTED", orders.rejected),
      figure("stored, never confirmed to a client", orders.unconfirmed),
      figure("events committed", events.committed),
      figure("accepted by queues", events.published),
      figure("delivered to consumers", events.delivered),
      figure("delivered again by a fault", events.duplicates_injected),
      figure("of these to two processes at once", events.concurrent_duplicates),
      figure("shards of the outbox's stream read", report.shards.read),
      figure("of these to their end", report.shards.closed),
      row(label("drained after the last fault"), number(drained === null ? "never" : duration(drained))),
    ]),
  );
}

function repeats() {
  const { repeats } = report;
  const total = (what, value) => row(label(what, { colspan: 4 }), number(count(value)), cell(""));
  const after = repeats.after.map((one) => {
    const inFlight =
      one.in_flight === null ? `≤ ${count(repeats.in_flight_bound)}` : count(one.in_flight.max);
    const each = one.repeats;
    return row(label(one.name), [each.p50, each.max, each.count, one.total].map((value) => number(count(value))), number(inFlight));
  });
  return section(
    "Events sent more than once",
    soft(
      "In flight: sent and not yet marked. For a killed relay it is what had passed the proxies; " +
        "otherwise it is the most that a relay can have in flight.",
    ),
    wide(
      table(head("after", ">p50", ">max", ">cases", ">total", ">in flight, max"), [
        after,
        total("lost responses", repeats.lost_answers),
        total("without a cause", repeats.unexplained),
        total("total", repeats.total),
      ]),
    ),
  );
}

// --- Timeline ------------------------------------------------------------------------------------

// Sizes in the units of the SVG's view box.
const WIDTH = 960;
const LEFT = 64;
const RIGHT = 12;
const TITLE = 22;
const PANEL = 120;
const GAP = 14;
const LANE = 20;
const AXIS = 24;
const BACKLOG_TOP = TITLE;
const RATE_TOP = BACKLOG_TOP + PANEL + GAP + TITLE;
const LANES_TOP = RATE_TOP + PANEL + GAP + TITLE;

// Distances between labels of the time axis, in milliseconds.
const TIME_STEPS = [
  1000, 2000, 5000, 10000, 15000, 30000, 60000, 120000, 300000, 600000, 1800000, 3600000, 7200000, 14400000,
];
const MAX_LABELS = 10;

// The backlog of an outage is published much faster than events are committed. The rate is cut off
// at this multiple of the highest rate of commits, so that the rest of the run remains visible.
const CUT_OFF = 4;

// The lanes of faults of processes and services; a lane below them has those of single requests.
// A test in html.rs reads this list as JSON: every kind of fault has one lane.
const LANES = [
  {"name": "SIGKILL", "class": "kill", "kinds": ["kill", "kill-all", "kill-after-send"]},
  {"name": "SIGTERM", "class": "term", "kinds": ["term"]},
  {"name": "SIGSTOP", "class": "pause", "kinds": ["stop"]},
  {"name": "outage", "class": "outage", "kinds": ["outage", "queue-outage"]},
  {"name": "degraded", "class": "degraded", "kinds": ["slow-transactions", "hot-partitions", "index-delay", "stream-delay"]}
];

const SERVICES = { dynamodb: "DynamoDB", streams: "DynamoDB Streams", sqs: "SQS" };

const timeline = document.getElementById("timeline");

function svg(tag, attributes, ...children) {
  return append(document.createElementNS(timeline.namespaceURI, tag), attributes, children);
}

// The next of 2, 4, 10, 20, 40, 100, … so that half of it is a whole number.
function roundUp(most) {
  for (let step = 1; ; step *= 10) {
    const end = [2, 4, 10].find((factor) => most <= step * factor);
    if (end !== undefined) return step * end;
  }
}

// `1:05`: minutes and seconds since the start.
function clock(at) {
  const seconds = Math.floor(at / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

function describe(annotation) {
  const target = annotation.process ?? annotation.queue ?? SERVICES[annotation.service] ?? null;
  const until = annotation.until;
  return (
    `${annotation.kind} at ${duration(annotation.at)}` +
    (target === null ? "" : `: ${target}`) +
    (until === null ? "" : `, for ${duration(Math.max(0, until - annotation.at))}`)
  );
}

// A path through the middle of each step; for an area it is closed along the bottom.
function curve(values, bottom, y, isArea) {
  const step = (WIDTH - LEFT - RIGHT) / values.length;
  const x = (index) => (LEFT + step * (index + 0.5)).toFixed(1);
  const points = values.map((value, index) => `${x(index)} ${y(value).toFixed(1)}`);
  if (!isArea) return `M${points.join("L")}`;
  const end = `${x(values.length - 1)} ${bottom}`;
  return `M${x(0)} ${bottom}L${points.join("L")}L${end}Z`;
}

// A chart whose axis reaches from zero to `most`, with one path for each series.
function chart(title, top, most, series) {
  const end = roundUp(most);
  const bottom = top + PANEL;
  const y = (value) => bottom - (PANEL * Math.min(value, end)) / end;
  const grid = [end / 2, end].map((value) => [
    svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
    svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, count(value)),
  ]);
  return [
    svg("text", { class: "title", x: LEFT, y: top - 8 }, title),
    grid,
    svg("text", { x: LEFT - 8, y: bottom + 4, "text-anchor": "end" }, "0"),
    series.map(([name, values]) => svg("path", { class: name, d: curve(values, bottom, y, name === "area") })),
    svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: bottom, y2: bottom }),
  ];
}

function drawTimeline() {
  const { step_ms: stepMs, steps } = report.timeline;
  const lasted = Math.max(1, steps.length * stepMs);
  const x = (at) => LEFT + ((WIDTH - LEFT - RIGHT) * Math.min(at, lasted)) / lasted;
  // At least two units wide, so that an instant is visible.
  const span = (annotation) => ({
    x: x(annotation.at),
    width: Math.max(2, x(annotation.until ?? annotation.at) - x(annotation.at)),
  });
  const perSecond = (number) => Math.floor((number * 1000) / stepMs);
  const backlog = steps.map((step) => step.backlog);
  const committed = steps.map((step) => perSecond(step.committed));
  const published = steps.map((step) => perSecond(step.published + step.repeated));
  const peak = Math.max(0, ...published);
  const usual = Math.max(0, ...committed);
  const most = Math.max(usual, Math.min(peak, usual * CUT_OFF));
  const bottom = LANES_TOP + (LANES.length + 1) * LANE;

  const bands = report.annotations
    .filter((annotation) => annotation.kind === "outage" || annotation.kind === "queue-outage")
    .map((outage) =>
      svg(
        "rect",
        { class: "band", ...span(outage), y: BACKLOG_TOP, height: RATE_TOP + PANEL - BACKLOG_TOP },
        svg("title", {}, describe(outage)),
      ),
    );
  const legend = [
    svg("rect", { class: "key-area", x: WIDTH - 236, y: RATE_TOP - 14, width: 12, height: 8 }),
    svg("text", { x: WIDTH - 220, y: RATE_TOP - 6 }, "published"),
    svg("line", { class: "line", x1: WIDTH - 130, x2: WIDTH - 112, y1: RATE_TOP - 10, y2: RATE_TOP - 10 }),
    svg("text", { x: WIDTH - 106, y: RATE_TOP - 6 }, "committed"),
  ];
  const lane = (name, top) => [
    svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: top, y2: top }),
    svg("text", { x: LEFT - 8, y: top + LANE - 6, "text-anchor": "end" }, name),
  ];
  const lanes = LANES.map(({ name, class: style, kinds }, index) => {
    const top = LANES_TOP + index * LANE;
    const marks = report.annotations
      .filter((annotation) => kinds.includes(annotation.kind))
      .map((annotation) =>
        svg(
          "rect",
          { class: style, ...span(annotation), y: top + 3, height: LANE - 6 },
          svg("title", {}, describe(annotation)),
        ),
      );
    return [lane(name, top), marks];
  });
  const mostRequests = Math.max(1, ...steps.map((step) => step.request_faults));
  const requests = steps.map((step, index) => {
    if (step.request_faults === 0) return null;
    const height = ((LANE - 4) * step.request_faults) / mostRequests;
    const at = index * stepMs;
    return svg(
      "rect",
      { class: "requests", x: x(at), y: bottom - 2 - height, width: x(at + stepMs) - x(at), height },
      svg("title", {}, `${duration(at)}: ${plural(step.request_faults, "request")}`),
    );
  });
  const every =
    TIME_STEPS.find((step) => Math.floor(lasted / step) <= MAX_LABELS) ?? Math.ceil(lasted / MAX_LABELS);
  const ticks = [];
  for (let at = 0; at <= lasted; at += every) {
    ticks.push(
      svg("line", { class: "tick", x1: x(at), x2: x(at), y1: bottom, y2: bottom + 4 }),
      svg("text", { x: x(at), y: bottom + 17, "text-anchor": "middle" }, clock(at)),
    );
  }

  append(timeline, { viewBox: `0 0 ${WIDTH} ${bottom + AXIS}` }, [
    svg("title", {}, "Backlog, events per second and faults over time"),
    bands,
    chart("Backlog: events committed and not yet published", BACKLOG_TOP, Math.max(0, ...backlog), [["area", backlog]]),
    chart(`Events per second, ${count(peak)} at most`, RATE_TOP, most, [["area", published], ["line", committed]]),
    legend,
    svg("text", { class: "title", x: LEFT, y: LANES_TOP - 8 }, "Faults"),
    lanes,
    lane("requests", bottom - LANE),
    requests,
    svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: bottom, y2: bottom }),
    ticks,
  ]);
}

// --- The page ------------------------------------------------------------------------------------

function columns(...each) {
  return html("div", { class: "columns" }, each.map((sections) => html("div", {}, sections)));
}

// A page with violations shows them before everything else.
page.prepend(...[heading(), verdict(), violations(), tiles()].flat().filter((part) => part !== null));
drawTimeline();
page.append(
  invariants(),
  latency(),
  recovery(),
  ...queueOutages(),
  columns([faults(), memory()], [orders(), repeats()]),
);
