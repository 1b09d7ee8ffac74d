// Charts of the last minutes: one value per activity slot, drawn as SVG.

import { el, svg, setText, timeText } from "./dom.js";

const HEIGHT = 92;
const TOP = 6;
const BOTTOM = 16;
const WINDOW_SECONDS = 15 * 60;

/** A chart in the element `host`. Each of `series` has a `name`, a `shape` (`bars`, `line`, `band` or
 * `marks`), and `value(slot)`, which returns the value of a slot or `null`. With `holdSeconds` a
 * value also stands for the following slots without one, for that long. `format` formats a value. */
export class Chart {
  constructor(host, { title, series, format, minScale }) {
    this.series = series;
    this.format = format;
    /** Lower bound of the end of the scale, so that noise does not look like a peak. */
    this.minScale = minScale;
    this.slots = [];
    this.cursor = null;
    this.reading = el("output", { class: "reading" });
    this.picture = svg("svg", { role: "img", "aria-label": title });
    this.legend = el(
      "span",
      { class: "legend" },
      // A single series is named by the title.
      series.length > 1 && series.map(({ name, shape }) => el("span", { class: `key ${shape}` }, name)),
    );
    host.append(
      el("figcaption", {}, el("strong", {}, title), this.legend, this.reading),
      this.picture,
    );
    host.tabIndex = 0;
    host.addEventListener("pointermove", (event) => this.#onPointerMove(event));
    host.addEventListener("pointerleave", () => this.#showSlot(null));
    host.addEventListener("blur", () => this.#showSlot(null));
    host.addEventListener("keydown", (event) => this.#onKeyDown(event));
    new ResizeObserver(() => this.#render()).observe(this.picture);
  }

  /** Draws `slots`, each `slotSeconds` long, up to the time `now` in epoch seconds. */
  show(slots, now, slotSeconds) {
    this.slotSeconds = slotSeconds;
    // The current slot is left out: it is incomplete and would look like a drop.
    const end = (Math.floor(now / slotSeconds) - 1) * slotSeconds;
    const count = WINDOW_SECONDS / slotSeconds;
    const known = new Map(slots.map((slot) => [slot.start, slot]));
    this.slots = Array.from({ length: count }, (_, n) => {
      const start = end - (count - 1 - n) * slotSeconds;
      return known.get(start) ?? { start };
    });
    this.#render();
  }

  #render() {
    const width = this.picture.clientWidth;
    if (width === 0 || this.slots.length === 0) return;
    const values = this.series.map(({ value, holdSeconds }) => {
      const known = this.slots.map(value);
      return holdSeconds ? hold(known, holdSeconds / this.slotSeconds) : known;
    });
    const max = Math.max(this.minScale, ...values.flat().filter((value) => value !== null));
    const top = roundUp(max);
    this.x = (n) => ((n + 0.5) * width) / this.slots.length;
    this.y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    this.values = values;
    this.picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.cross = svg("g", { class: "cursor" });
    const levels = [top, top / 2];
    this.picture.replaceChildren(
      ...this.#grid(width, levels),
      ...this.series.map(({ shape }, n) => SHAPES[shape](values[n], this.x, this.y)),
      // Above the shapes, which reach the left edge once they fill the window.
      ...levels.map((value) => svg("text", { class: "level", x: 0, y: this.y(value) + 11 }, this.format(value))),
      this.cross,
    );
    this.#showSlot(this.cursor);
  }

  #grid(width, levels) {
    const base = this.y(0);
    const parts = levels.map((value) =>
      svg("line", { class: "grid", x1: 0, x2: width, y1: this.y(value), y2: this.y(value) }),
    );
    parts.push(svg("line", { class: "base", x1: 0, x2: width, y1: base, y2: base }));
    for (const minutes of [10, 5]) {
      const x = width * (1 - (minutes * 60) / WINDOW_SECONDS);
      parts.push(svg("text", { class: "tick", x, y: HEIGHT - 3 }, `−${minutes} min`));
    }
    parts.push(svg("text", { class: "tick end", x: width, y: HEIGHT - 3 }, "now"));
    return parts;
  }

  #onPointerMove(event) {
    const box = this.picture.getBoundingClientRect();
    const n = Math.floor(((event.clientX - box.left) / box.width) * this.slots.length);
    this.#showSlot(n >= 0 && n < this.slots.length ? n : null);
  }

  #onKeyDown(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const last = this.slots.length - 1;
    this.#showSlot(Math.min(last, Math.max(0, (this.cursor ?? last + 1) + step)));
  }

  /** Shows the values of slot `n`, or removes them if it is `null`. */
  #showSlot(n) {
    this.cursor = n;
    this.legend.hidden = n !== null;
    if (n === null || this.values === undefined) {
      setText(this.reading, "");
      this.cross?.replaceChildren();
      return;
    }
    const x = this.x(n);
    this.cross.replaceChildren(svg("line", { x1: x, x2: x, y1: TOP, y2: this.y(0) }));
    const texts = this.series.map(({ name }, index) => {
      const value = this.values[index][n];
      return `${name} ${value === null ? "–" : this.format(value)}`;
    });
    setText(this.reading, `${timeText(new Date(this.slots[n].start * 1000))}  ${texts.join("  ")}`);
  }
}

/** Functions that draw a series, from its values and the scales of the axes. */
const SHAPES = {
  bars(values, x, y) {
    const half = (x(1) - x(0)) / 2;
    const path = values.map((value, n) => (value ? `M${x(n) - half},${y(0)}V${y(value)}H${x(n) + half}V${y(0)}` : ""));
    return svg("path", { class: "bars", d: path.join("") });
  },

  /** Draws a mark on the base line for each slot with a value other than zero. */
  marks(values, x, y) {
    const marks = values.map((value, n) => (value ? svg("circle", { cx: x(n), cy: y(0), r: 3 }) : null));
    return svg("g", { class: "marks" }, marks);
  },

  line: (values, x, y) => svg("path", { class: "line", d: linePath(values, x, y) }),
  band: (values, x, y) => svg("path", { class: "band", d: linePath(values, x, y) }),
};

/** Fills gaps of at most `slots` slots with the value before them. */
function hold(values, slots) {
  let last = null;
  let age = 0;
  return values.map((value) => {
    age = value === null ? age + 1 : 0;
    if (value !== null || age > slots) last = value;
    return last;
  });
}

/** Returns an SVG path that joins neighbouring values by a line; a lone value becomes a dot. */
function linePath(values, x, y) {
  const known = (n) => (values[n] ?? null) !== null;
  const parts = values.map((value, n) => {
    if (!known(n)) return "";
    const point = `${x(n)},${y(value)}`;
    if (known(n - 1)) return `L${point}`;
    return known(n + 1) ? `M${point}` : `M${point}h0.01`;
  });
  return parts.join("");
}

/** Returns the next larger number that is round and whose half is round. */
function roundUp(value) {
  const magnitude = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.6, 2, 3, 4, 6, 8, 10].map((factor) => factor * magnitude).find((end) => end >= value);
}
