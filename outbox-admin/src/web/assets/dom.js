// Elements, and formats of values. Data becomes a text node or an attribute, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** Creates an element. An attribute whose value is a function becomes the listener of the event of
 * that name. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Sets the text of an element. Leaves the page untouched if the text is the same. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Returns the parts of a sentence, with names between backticks as code elements. */
export function prose(text) {
  const parts = text.split("`");
  if (parts.length % 2 === 0) return [text];
  return parts.map((part, n) => (n % 2 === 1 ? el("code", {}, part) : part));
}

const whole = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "2-digit", month: "short" });

export const number = (value) => whole.format(value);

/** Formats a rate: `1.2`, `34`, `5,678`. */
export function rate(value) {
  if (value === 0 || value >= 10) return whole.format(Math.round(value));
  return value.toFixed(1);
}

/** Formats milliseconds: `12 ms`, `3.4 s`, `5 min`, `2 h 5 min`, `3 d 4 h`. */
export function duration(ms) {
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  const seconds = ms / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 120) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return pair(hours, "h", minutes % 60, "min");
  return pair(Math.floor(hours / 24), "d", hours % 24, "h");
}

const pair = (large, unit, small, smaller) =>
  small === 0 ? `${large} ${unit}` : `${large} ${unit} ${small} ${smaller}`;

/** Creates an element for a stored time, in this browser's time zone and with the date if that is not
 * today. The title has the time as it is stored. */
export function time(stored) {
  const at = new Date(stored);
  if (Number.isNaN(at.getTime())) return el("span", {}, stored);
  return el("time", { datetime: stored, title: stored }, timeText(at));
}

export function timeText(at) {
  const today = at.toDateString() === new Date().toDateString();
  return today ? clock.format(at) : `${day.format(at)} ${clock.format(at)}`;
}

/** Returns the milliseconds from one stored time to another, or to now; `null` if one is malformed. */
export function between(from, to) {
  const start = Date.parse(from);
  const end = to === undefined ? Date.now() : Date.parse(to);
  return Number.isNaN(start) || Number.isNaN(end) ? null : end - start;
}

export const plural = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;
