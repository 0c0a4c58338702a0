// Who trained what when: a lane for every device, and gaps where one was idle.

import { timeTicks } from "./axis.js";
import { Chart, firstAt } from "./chart.js";
import { bpb, duration, moment } from "./format.js";
import { Raster, packed } from "./raster.js";

const PALETTE = ["ink", "muted", "line", "idle", "block", "keep", "crash", "replicate", "running", "select"];
const FAILED = new Set(["crash", "timeout", "rejected"]);

export class Strip extends Chart {
  constructor(host, tip, axes, store, open) {
    super(host, tip, axes.time, {
      store, margins: { left: 64, right: 18, top: 4, bottom: 24 }, palette: PALETTE, open,
    });
    Object.assign(this, { raster: new Raster(), lanes: [] });
  }

  /** The store has changed: sort the trials into lanes, in the order of their starts. */
  arrange() {
    const { trials, status } = this.store;
    const { worker, start } = trials.data;
    this.lanes = status.lanes.map(() => ({ trials: [], starts: [] }));
    for (let trial = 0; trial < trials.length; trial += 1) {
      this.lanes[worker[trial]].trials.push(trial);
      this.lanes[worker[trial]].starts.push(start[trial]);
    }
    const tall = this.lanes.length > 16 ? 8 : this.lanes.length > 8 ? 14 : 22;
    const height = `${this.lanes.length * tall + this.margins.top + this.margins.bottom}px`;
    if (this.host.style.height !== height) this.host.style.height = height;
    this.grow();
  }

  /** Time has passed: the axis and what runs are longer. */
  grow() {
    const last = Math.max(1, this.store.status.elapsed);
    this.axis.extend(-0.01 * last, 1.01 * last);
    this.redraw();
  }

  end(trial) {
    const { start, seconds, outcome } = this.store.trials.data;
    if (outcome[trial] >= 0) return start[trial] + seconds[trial];
    return this.isRunning(trial) ? this.store.status.elapsed : start[trial];
  }

  /** Open in the journal, and something is there to run it. */
  isRunning(trial) {
    const { outcome, worker } = this.store.trials.data;
    if (outcome[trial] >= 0) return false;
    const name = this.store.status.lanes[worker[trial]];
    return this.store.status.workers.some((one) => one.name === name && one.trial);
  }

  /** `keep`, `block` (discarded), `crash`, `replicate` or `running`. */
  kind(trial) {
    const { purpose, outcome } = this.store.trials.data;
    if (outcome[trial] < 0) return "running";
    const ended = this.store.words.outcomes[outcome[trial]];
    if (FAILED.has(ended)) return "crash";
    if (this.store.words.purposes[purpose[trial]] !== "experiment") return "replicate";
    const row = this.rowOf(trial);
    return row !== undefined && this.store.verdict(row) === "keep" ? "keep" : "block";
  }

  lane(n) {
    const tall = (this.bottom - this.margins.top) / this.lanes.length;
    return [this.margins.top + n * tall, tall];
  }

  draw(context) {
    if (!this.lanes.length) return;
    const { ratio, colour, raster, margins } = this;
    const pixels = {};
    for (const name of PALETTE) pixels[name] = packed(colour[name]);
    raster.begin(this.base.width, this.base.height);
    const [low, high] = this.axis.range;
    const scale = ((this.right - margins.left) * ratio) / (high - low);
    const edge = Math.round(margins.left * ratio), last = Math.round(this.right * ratio);
    this.lanes.forEach((lane, n) => {
      const [y, tall] = this.lane(n);
      const gap = tall > 10 ? 2 : 1;
      const top = Math.round((y + gap / 2) * ratio), bottom = Math.round((y + tall - gap / 2) * ratio);
      raster.box(edge, top, last, bottom, pixels.idle);
      for (let i = Math.max(0, firstAt(lane.starts, low) - 1); i < lane.trials.length; i += 1) {
        if (lane.starts[i] > high) break;
        const trial = lane.trials[i];
        const x0 = edge + Math.round((lane.starts[i] - low) * scale);
        const x1 = edge + Math.round((this.end(trial) - low) * scale);
        // A hairline between trials, where there is room for one.
        const width = x1 - x0 > 4 * ratio ? x1 - Math.round(ratio) : Math.max(x1, x0 + 1);
        raster.box(Math.max(edge, x0), top, Math.min(last, width), bottom, pixels[this.kind(trial)]);
      }
    });
    context.setTransform(1, 0, 0, 1, 0, 0);
    raster.drawOn(context, 0, 0);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.drawNames(context);
    this.drawn = this.store.trials.length;
  }

  drawNames(context) {
    context.fillStyle = this.colour.muted;
    context.textAlign = "right";
    context.textBaseline = "middle";
    const [, tall] = this.lane(0);
    const every = Math.ceil(12 / tall);
    this.store.status.lanes.forEach((name, n) => {
      if (n % every) return;
      const [y] = this.lane(n);
      context.fillText(name.slice(0, 9), this.margins.left - 8, y + tall / 2);
    });
    context.textAlign = "center";
    context.textBaseline = "top";
    const wide = Math.max(2, Math.floor((this.right - this.margins.left) / 110));
    for (const [value, text] of timeTicks(...this.axis.range, wide, this.store.began)) {
      context.fillText(text, this.x(value), this.bottom + 7);
    }
  }

  laneOf(trial) { return this.store.trials.data.worker[trial]; }
  place(trial) { return [this.x(this.store.trials.data.start[trial]), this.lane(this.laneOf(trial))[0]]; }

  mark(context, trial) {
    const [y, tall] = this.lane(this.laneOf(trial));
    const x0 = Math.max(this.margins.left, this.place(trial)[0]), x1 = Math.min(this.right, this.x(this.end(trial)));
    if (x1 < this.margins.left || x0 > this.right) return;
    context.strokeStyle = this.colour.ink;
    context.lineWidth = 2;
    context.strokeRect(x0 - 0.5, y, Math.max(3, x1 - x0), tall);
  }

  pick(x, y) {
    const n = Math.floor((y - this.margins.top) / this.lane(0)[1]);
    const lane = this.lanes[n];
    if (!lane || x < this.margins.left || x > this.right) return null;
    const i = firstAt(lane.starts, this.valueAt(x + 2)) - 1;
    return i >= 0 && this.valueAt(x - 3) <= this.end(lane.trials[i]) ? lane.trials[i] : null;
  }

  /** Left and right within a lane, up and down between lanes. */
  neighbour(trial, by, special) {
    if (trial === null) {
      const first = this.lanes.find((lane) => lane.trials.length);
      return first ? first.trials.at(-1) : null;
    }
    const { start } = this.store.trials.data;
    if (special) {
      const lane = this.lanes[this.laneOf(trial) - by];
      const i = lane ? firstAt(lane.starts, start[trial]) : 0;
      return lane?.trials.length ? lane.trials[Math.min(i, lane.trials.length - 1)] : null;
    }
    const lane = this.lanes[this.laneOf(trial)];
    const at = firstAt(lane.starts, start[trial]) + by;
    return lane.trials[Math.min(lane.trials.length - 1, Math.max(0, at))];
  }

  nameOf(trial) { return `e${this.store.trials.data.experiment[trial]}`; }

  rowOf(trial) {
    const { experiment, device_class: classes } = this.store.trials.data;
    return this.store.rowOf(experiment[trial], classes[trial]);
  }

  describe(trial) {
    const { experiment, worker, start, seconds, purpose, outcome } = this.store.trials.data;
    const ended = outcome[trial] < 0 ? "running" : this.store.words.outcomes[outcome[trial]];
    const what = this.store.words.purposes[purpose[trial]];
    const row = this.rowOf(trial);
    const took = outcome[trial] < 0 ? this.end(trial) - start[trial] : seconds[trial];
    const lines = [`e${experiment[trial]} · ${what === "experiment" ? ended : `${what}, ${ended}`}`];
    if (row !== undefined && this.store.rows.data.val_bpb[row] !== null) {
      lines.push(`${this.store.verdict(row)}, val_bpb ${bpb(this.store.rows.data.val_bpb[row])}`);
    }
    const when = moment(new Date(this.store.began.getTime() + start[trial] * 1000));
    lines.push(`${this.store.status.lanes[worker[trial]]}, ${when}, ${duration(took)}`);
    return lines;
  }
}
