// The plot that this field knows: what was tried, what was kept, and how val_bpb came down.

import { ticks, timeTicks } from "./axis.js";
import { Chart, firstAt } from "./chart.js";
import { bpb, moment, signed } from "./format.js";
import { circle, disc, line } from "./ink.js";
import { Raster, packed } from "./raster.js";

const PALETTE = ["ink", "muted", "line", "tried", "keep", "keep-soft", "crash", "heldout", "select", "card"];
const REACH = 12; // pixels from a point at which it is still meant
const FAILED = new Set(["crash", "timeout", "rejected"]);

export class Progress extends Chart {
  constructor(host, tip, axes, store, open) {
    super(host, tip, axes.number, {
      store, margins: { left: 64, right: 18, top: 14, bottom: 26 }, palette: PALETTE, open,
    });
    Object.assign(this, { axes, mode: "number", raster: new Raster(), y: null });
    this.arrange();
  }

  /** The store has changed: put what is drawn into arrays. */
  arrange() {
    const { rows, shown } = this.store;
    if (!shown) return;
    const { number, time, val_bpb: scores, verdict } = rows.data;
    const words = this.store.words.verdicts, keep = words.indexOf("keep");
    const failed = words.map((word) => FAILED.has(word));
    const count = shown.length;
    this.xs = { number: new Float64Array(count), time: new Float64Array(count) };
    this.ys = new Float64Array(count);
    this.kept = []; this.failed = [];
    this.at = new Map();
    shown.forEach((row, i) => {
      this.xs.number[i] = number[row];
      this.xs.time[i] = time[row];
      this.ys[i] = scores[row] ?? NaN;
      this.at.set(row, i);
      if (verdict[row] === keep && scores[row] !== null) this.kept.push(i);
      else if (failed[verdict[row]]) this.failed.push(i);
    });
    this.lineage = this.store.lineage().map((row) => this.at.get(row));
    const last = Math.max(1, this.xs.number.at(-1) ?? 1);
    this.axes.number.extend(-0.01 * last, 1.01 * last);
    this.focus();
    this.redraw();
  }

  /** The range of val_bpb that matters: the lineage, and the tries near it. */
  focus() {
    const scored = this.ys.filter((y) => y === y).sort();
    if (!scored.length) { this.full = [0, 1]; return; }
    const { baseline, best } = this.store.known;
    const sigma = this.store.known.noise.sd;
    const held = this.store.rows.data.heldout_bpb;
    const line = this.lineage.flatMap((i) => [this.ys[i], held[this.store.shown[i]]]).filter((y) => y != null);
    const low = Math.min(scored[Math.floor(scored.length * 0.002)], best?.mean ?? Infinity, ...line);
    const high = Math.max(baseline?.mean ?? -Infinity, ...line, low + 8 * sigma);
    const near = scored[Math.floor((scored.length - 1) * 0.6)];
    const top = Math.max(high, Math.min(near, high + 0.35 * (high - low)));
    this.full = [low - 0.13 * (top - low), top + 0.06 * (top - low)];
  }

  setMode(mode) {
    this.mode = mode;
    this.use(this.axes[mode]);
  }

  get range() { return this.y ?? this.full; }

  level(value) {
    const [low, high] = this.range;
    return this.margins.top + ((high - value) / (high - low)) * (this.bottom - this.margins.top);
  }

  valueOf(pixel) {
    const [low, high] = this.range;
    return high - ((pixel - this.margins.top) / (this.bottom - this.margins.top)) * (high - low);
  }

  place(i) { return [this.x(this.xs[this.mode][i]), this.level(this.ys[i])]; }
  rowOf(i) { return this.store.shown[i]; }
  nameOf(i) { return this.store.name(this.rowOf(i)); }

  // ---- the picture -----------------------------------------------------------------------------

  draw(context) {
    if (!this.xs) return;
    this.drawGrid(context);
    const { left } = this.margins;
    context.save();
    context.beginPath();
    context.rect(left - 9, 0, this.right - left + 18, this.bottom + 6);
    context.clip();
    this.drawTried(context);
    this.drawFailed(context);
    this.drawKept(context);
    this.drawLineage(context);
    context.restore();
    this.drawn = this.xs.number.length;
  }

  drawGrid(context) {
    const { left, top } = this.margins, { colour } = this;
    const wide = Math.max(2, Math.floor((this.right - left) / 110));
    const [low, high] = this.axis.range;
    context.strokeStyle = colour.line;
    context.fillStyle = colour.muted;
    context.lineWidth = 1;
    context.textBaseline = "middle";
    context.textAlign = "right";
    const levels = ticks(...this.range, Math.max(3, (this.bottom - top) / 48));
    for (const value of levels.values) {
      const y = Math.round(this.level(value)) + 0.5;
      line(context, left, y, this.right, y);
      context.fillText(value.toFixed(levels.digits), left - 8, y);
    }
    context.textAlign = "center";
    context.textBaseline = "top";
    const marks = this.mode === "time"
      ? timeTicks(low, high, wide, this.store.began)
      : ticks(low, high, wide).values.filter((value) => value >= 0 && Number.isInteger(value)).map((value) => [value, value.toLocaleString("en-US")]);
    for (const [value, text] of marks) context.fillText(text, this.x(value), this.bottom + 9);
    const { baseline } = this.store.known;
    if (!baseline) return;
    const y = this.level(baseline.mean);
    context.setLineDash([2, 4]);
    context.strokeStyle = colour.muted;
    line(context, left, y, this.right, y);
    context.setLineDash([]);
    context.textAlign = "right";
    context.textBaseline = "bottom";
    context.fillText("baseline", this.right - 4, y - 3);
  }

  drawTried(context) {
    const { left, top } = this.margins, { ratio } = this;
    const xs = this.xs[this.mode], [from, to] = this.between(0);
    const px = new Float32Array(to - from), py = new Float32Array(to - from);
    let count = 0;
    const above = new Uint8Array(Math.ceil(this.width) + 1);
    for (let i = from; i < to; i += 1) {
      if (this.ys[i] !== this.ys[i]) continue;
      const x = this.x(xs[i]), y = this.level(this.ys[i]);
      if (y < top) { above[Math.round(Math.min(this.width, Math.max(0, x)))] = 1; continue; }
      px[count] = x * ratio; py[count] = y * ratio;
      count += 1;
    }
    const radius = (count > 20000 ? 1.1 : count > 3000 ? 1.7 : 2.6) * ratio;
    const opacity = count > 20000 ? 0.35 : count > 3000 ? 0.45 : 0.6;
    this.raster.begin(this.base.width, this.base.height);
    this.raster.dots(px, py, count, radius, opacity, packed(this.colour.tried));
    context.setTransform(1, 0, 0, 1, 0, 0);
    this.raster.drawOn(context, 0, 0);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = this.colour.tried; // what is far above stands at the edge
    above.forEach((is, x) => is && x > left && context.fillRect(x, top - 8, 1, 4));
  }

  drawFailed(context) {
    context.fillStyle = this.colour.crash;
    const [low, high] = this.axis.range, [first, last] = this.axis.full;
    const seen = new Set(), crowd = (this.failed.length * (high - low)) / (last - first);
    context.globalAlpha = Math.max(0.3, Math.min(1, 250 / crowd));
    for (const i of this.failed) {
      const x = Math.round(this.x(this.xs[this.mode][i]));
      if (x < this.margins.left || x > this.right || seen.has(x)) continue;
      seen.add(x);
      context.fillRect(x, this.bottom - 7, 1.5, 7);
    }
    context.globalAlpha = 1;
  }

  drawKept(context) {
    context.fillStyle = this.colour["keep-soft"];
    const radius = this.kept.length > 2000 ? 2 : 3.2;
    for (const i of this.kept) {
      const [x, y] = this.place(i);
      if (x < 0 || x > this.width || y < 0) continue;
      disc(context, x, y, radius);
    }
  }

  drawLineage(context) {
    const { colour, lineage } = this;
    if (!lineage.length) return;
    const { replicates, confirmed, heldout_bpb: held } = this.store.rows.data;
    const sigma = this.store.known.noise.sd;
    context.lineJoin = "round";
    const steps = (values, end) => {
      context.beginPath();
      values.forEach(([x, y], n) => {
        if (n) context.lineTo(x, values[n - 1][1]);
        else context.moveTo(x, y);
        context.lineTo(x, y);
      });
      context.lineTo(end, values.at(-1)[1]);
      context.stroke();
    };
    const end = this.x(this.xs[this.mode].at(-1));
    const checked = lineage.filter((i) => held[this.rowOf(i)] !== null);
    if (checked.length) {
      context.strokeStyle = colour.heldout;
      context.lineWidth = 1.5;
      context.setLineDash([5, 3]);
      steps(checked.map((i) => [this.place(i)[0], this.level(held[this.rowOf(i)])]), end);
      context.setLineDash([]);
    }
    context.strokeStyle = colour.keep;
    context.lineWidth = 2;
    steps(lineage.map((i) => this.place(i)), end);
    for (const i of lineage) {
      const [x, y] = this.place(i), row = this.rowOf(i);
      const error = sigma / Math.sqrt(replicates[row]);
      context.strokeStyle = colour.keep;
      context.lineWidth = 1.25;
      line(context, x, this.level(this.ys[i] - error), x, this.level(this.ys[i] + error));
      context.fillStyle = colour.keep;
      disc(context, x, y, 4);
      if (!confirmed[row]) continue;
      context.strokeStyle = colour.ink;
      context.lineWidth = 1.5;
      circle(context, x, y, 7);
    }
    this.drawResult(context, lineage.at(-1), end);
  }

  /** What the line has come to, readable on whatever it stands on. */
  drawResult(context, i, end) {
    const [, y] = this.place(i), text = `${this.nameOf(i)}  ${bpb(this.ys[i])}`;
    const x = Math.max(this.margins.left + 130, Math.min(end, this.right) - 4);
    context.font = `600 ${context.font}`;
    context.textAlign = "right";
    context.textBaseline = "top";
    context.strokeStyle = this.colour.card;
    context.lineWidth = 4;
    context.strokeText(text, x, y + 8);
    context.fillStyle = this.colour.keep;
    context.fillText(text, x, y + 8);
  }

  mark(context, i) {
    const [x, y] = this.place(i);
    const shown = this.ys[i] === this.ys[i] ? Math.max(this.margins.top - 6, y) : this.bottom - 4;
    context.strokeStyle = this.colour.ink;
    context.lineWidth = 2;
    circle(context, x, shown, 7);
  }

  // ---- what is pointed at ----------------------------------------------------------------------

  /** The part of the arrays that is within the axis, and `reach` pixels around it. */
  between(reach, x0 = this.margins.left, x1 = this.right) {
    const xs = this.xs[this.mode];
    return [firstAt(xs, this.valueAt(x0 - reach)), firstAt(xs, this.valueAt(x1 + reach))];
  }

  pick(x, y, reach = REACH) {
    if (!this.xs) return null;
    const [from, to] = this.between(reach, x, x);
    let found = null, least = reach * reach;
    const important = new Set(this.lineage);
    for (let i = from; i < to; i += 1) {
      const [px, py] = this.place(i);
      const shown = py === py ? Math.max(this.margins.top - 6, py) : this.bottom - 4;
      const distance = ((px - x) ** 2 + (shown - y) ** 2) * (important.has(i) ? 0.3 : 1);
      if (distance < least) { least = distance; found = i; }
    }
    return found;
  }

  neighbour(i, by, special) {
    const among = special ? this.lineage : null;
    const count = among ? among.length : this.ys.length;
    if (!count) return null;
    let at = i === null ? (by > 0 && !special ? -1 : count) : i;
    if (among && i !== null) {
      at = firstAt(among, i);
      if (by > 0 && among[at] !== i) at -= 1;
    }
    const next = Math.min(count - 1, Math.max(0, at + by));
    return among ? among[next] : next;
  }

  describe(i) {
    const row = this.rowOf(i), { data } = this.store.rows;
    const verdict = data.confirmed[row] ? "confirmed" : this.store.verdict(row);
    const lines = [`${this.store.name(row)} · ${verdict}`];
    if (data.val_bpb[row] !== null) {
      const sd = data.sd[row] === null ? "" : `, sd ${data.sd[row].toFixed(6)}`;
      const base = this.store.known.baseline;
      const gain = base ? `, ${signed(data.val_bpb[row] - base.mean, 5)} to baseline` : "";
      lines.push(`val_bpb ${bpb(data.val_bpb[row])} (n = ${data.replicates[row]}${sd})${gain}`);
    }
    const who = this.store.worker(row);
    const when = moment(new Date(this.store.began.getTime() + data.time[row] * 1000));
    lines.push(who ? `${who}, on e${data.parent[row]}, ${when}` : when);
    return lines;
  }

  wheel(factor, [x, y], vertical) {
    if (!vertical) return super.wheel(factor, [x]);
    const [low, high] = this.range, at = this.valueOf(y);
    this.stretch(at - (at - low) * factor, at + (high - at) * factor);
  }

  /** Show so much of val_bpb, but not less than a float can tell apart, nor endlessly more. */
  stretch(low, high) {
    const least = 1e-9, most = 1000 * (this.full[1] - this.full[0]);
    if (high - low > least && high - low < most) this.y = [low, high];
    this.axis.dispatchEvent(new Event("change"));
  }

  boxOf(x0, y0, x1, y1) {
    const [low, high] = [Math.min(y0, y1), Math.max(y0, y1)];
    // A flat drag is meant for the horizontal axis alone.
    return high - low < 24 ? super.boxOf(x0, y0, x1) : [Math.min(x0, x1), low, Math.max(x0, x1), high];
  }

  zoomTo(box) {
    const [, y0, , y1] = box;
    if (y1 - y0 < this.bottom - this.margins.top - 1) this.stretch(this.valueOf(y1), this.valueOf(y0));
    super.zoomTo(box);
  }

  reset() {
    this.y = null;
    super.reset();
  }
}
