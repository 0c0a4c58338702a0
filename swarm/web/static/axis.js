// An axis: the range that is shown of what there is, and where its ticks stand.

import { clock } from "./format.js";

/** Shows `full` until it is zoomed; then what was chosen. Several charts may share one. */
export class Axis extends EventTarget {
  constructor() {
    super();
    this.full = [0, 1];
    this.chosen = null;
  }

  get range() { return this.chosen ?? this.full; }
  get isZoomed() { return this.chosen !== null; }

  extend(low, high) {
    this.full = high > low ? [low, high] : [low - 0.5, low + 0.5];
  }

  show(low, high) {
    const [first, last] = this.full;
    const least = (last - first) * 1e-5;
    if (!(high - low > least)) return;
    const width = Math.min(high - low, last - first);
    const start = Math.min(Math.max(low, first), last - width);
    this.chosen = width >= (last - first) * 0.999 ? null : [start, start + width];
    this.dispatchEvent(new Event("change"));
  }

  /** `factor` below 1 shows less, around `at`. */
  zoom(factor, at) {
    const [low, high] = this.range;
    this.show(at - (at - low) * factor, at + (high - at) * factor);
  }

  pan(share) {
    const [low, high] = this.range;
    const by = (high - low) * share;
    this.show(low + by, high + by);
  }

  reset() {
    this.chosen = null;
    this.dispatchEvent(new Event("change"));
  }
}

/** Round values between `low` and `high`, about `wanted` of them, and how many digits they need. */
export function ticks(low, high, wanted) {
  const rough = (high - low) / Math.max(1, wanted);
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * size).find((n) => n >= rough) ?? 10 * size;
  const values = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i += 1) values.push(i * step + 0);  // never -0
  return { values, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];

/** Ticks of a time axis: seconds since `began` (a Date), at round times of the reader's day. */
export function timeTicks(low, high, wanted, began) {
  const step = STEPS.find((s) => (high - low) / s <= wanted) ?? 2592000;
  const origin = began.getTime() / 1000 - began.getTimezoneOffset() * 60;
  const found = [];
  for (let t = Math.ceil((origin + low) / step) * step - origin; t <= high; t += step) {
    found.push([t, clock(new Date(began.getTime() + t * 1000), step < 60)]);
  }
  return found;
}
