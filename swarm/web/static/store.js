// What is known of the swarm: the columns that the server sends, and what follows from them.

/** Columns that grow; a part that the server sends says by `row` which places are new. */
class Columns {
  constructor() { this.data = {}; this.length = 0; }

  merge(part) {
    const places = part.row;
    for (const [name, values] of Object.entries(part)) {
      const column = (this.data[name] ??= []);
      for (let i = 0; i < places.length; i += 1) column[places[i]] = values[i];
    }
    for (const place of places) this.length = Math.max(this.length, place + 1);
  }
}

export class Store extends EventTarget {
  constructor() {
    super();
    this.deviceClass = null; // the one that the swarm is about, until another is chosen
    this.clear();
  }

  clear() {
    this.id = "";
    this.status = null;
    this.rows = new Columns();
    this.trials = new Columns();
  }

  get began() { return new Date(this.status.began); }
  get known() { return this.status.device_classes[this.deviceClass]; }
  get words() { return this.status.words; }

  /** Take what the server sent; tell listeners what of it is new. */
  take(update) {
    this.id = update.id;
    this.status = update.status;
    this.trouble = update.trouble;
    if (update.experiments) this.rows.merge(update.experiments);
    if (update.trials) this.trials.merge(update.trials);
    if (!this.known) this.deviceClass = this.status.primary;
    if (update.experiments) this.arrange();
    this.dispatchEvent(new CustomEvent("update", { detail: update }));
  }

  choose(deviceClass) {
    this.deviceClass = deviceClass;
    this.arrange();
    this.dispatchEvent(new CustomEvent("update", { detail: { experiments: { row: [] }, chosen: true } }));
  }

  /** The experiments of the device class, in their order, and in every one where a number stands. */
  arrange() {
    const { device_class: classes, number } = this.rows.data;
    this.shown = [];
    this.places = [];
    for (let row = 0; row < this.rows.length; row += 1) {
      (this.places[classes[row]] ??= new Map()).set(number[row], row);
      if (classes[row] === this.deviceClass) this.shown.push(row);
    }
  }

  /** The row of the experiment with this number in a device class. */
  rowOf(number, deviceClass = this.deviceClass) { return this.places[deviceClass]?.get(number); }

  /** Rows that the incumbent is built of, the baseline first. */
  lineage() {
    const { parent, val_bpb: scores } = this.rows.data;
    const top = this.known.incumbent;
    const found = [];
    let row = top ? this.rowOf(Number(top.experiment.slice(1))) : undefined;
    while (row !== undefined) {
      if (scores[row] !== null) found.push(row);
      row = this.rowOf(parent[row]);
    }
    return found.reverse();
  }

  verdict(row) { return this.words.verdicts[this.rows.data.verdict[row]]; }
  name(row) { return `e${this.rows.data.number[row]}`; }
  worker(row) { return this.status.lanes[this.rows.data.worker[row]] ?? ""; }
}
