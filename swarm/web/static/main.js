// The page: one store, and what shows it.

import { Axis } from "./axis.js";
import { Details } from "./details.js";
import { byId, say, throttled } from "./dom.js";
import { follow } from "./feed.js";
import { showFigures, showHead } from "./figures.js";
import { bpb, count, percent, signed } from "./format.js";
import { Progress } from "./progress.js";
import { Store } from "./store.js";
import { Strip } from "./strip.js";
import { Table } from "./table.js";
import { showWorkers } from "./workers.js";

const store = new Store();
const axes = { number: new Axis(), time: new Axis() };
const open = (name) => { location.hash = name; };
const progress = new Progress(byId("progress"), byId("tip"), axes, store, open);
const strip = new Strip(byId("strip"), byId("tip"), axes, store, open);
const table = new Table(store);
const details = new Details(store);

const refreshTable = throttled(() => table.refresh(), 2000);
const refreshDetails = throttled(() => details.name && details.refresh(), 2000);

// ---- what is new ------------------------------------------------------------------------------

let isFirst = true;
store.addEventListener("update", ({ detail }) => {
  const { status, trouble } = store;
  document.querySelector("main").hidden = false;
  byId("reading").hidden = true;
  showHead(store);
  warn(trouble && `Something cannot be read: ${trouble}. What was known before is shown.`);
  showWorkers(store);
  if (detail.experiments || isFirst) {
    progress.arrange();
    refreshTable();
  }
  showFigures(store);
  const joined = status.lanes.length !== strip.lanes.length;
  if (detail.trials || detail.chosen || joined || isFirst) strip.arrange();
  else if (status.state === "running") strip.grow();
  describe();
  if (isFirst) details.follow();
  else if (detail.experiments) {
    tell(detail.experiments.row);
    refreshDetails();
  } else if (details.name && status.workers.some((worker) => worker.trial?.experiment === details.name)) refreshDetails();
  isFirst = false;
});

function warn(text) {
  byId("trouble").hidden = !text;
  say(byId("trouble"), text);
}

/** What the plots say, in words. */
function describe() {
  const { known, shown, status } = store;
  const { baseline, incumbent } = known;
  const kept = Math.max(0, progress.kept.length - 1), failed = progress.failed.length; // without the baseline
  const fell = baseline && incumbent && incumbent.experiment !== "e0"
    ? ` val_bpb came from ${bpb(baseline.mean)} to ${bpb(incumbent.mean)} (${signed((100 * (incumbent.mean - baseline.mean)) / baseline.mean, 2)} %) in ${progress.lineage.length - 1} kept steps.`
    : "";
  const noise = ` σ of a trial is ${known.noise.sd.toFixed(6)}${known.noise.replicates ? "" : ", assumed: nothing was replicated yet"}.`;
  const drift = known.drift ? ` Held-out: ${known.drift.text}.` : "";
  say(byId("progress-text"), `${count(shown.length - 1)} experiments: ${count(kept)} kept, ${count(failed)} failed.${fell}${noise}${drift}`);
  const busy = status.workers.map((worker) => `${worker.name} ${percent(worker.duty_cycle)}`);
  say(byId("strip-text"), `${count(store.trials.length)} trials. Busy: ${busy.slice(0, 8).join(", ")}${busy.length > 8 ? ", …" : ""}.`);
}

const heard = new Set();
const speak = throttled(() => {
  const kept = [...heard].filter((row) => store.verdict(row) === "keep");
  const told = (kept.length ? kept : [...heard]).slice(-3);
  say(byId("news"), told.map((row) => `${store.name(row)}: ${store.verdict(row)}, val_bpb ${bpb(store.rows.data.val_bpb[row])}`).join("; "));
  heard.clear();
}, 10000);

/** Say to a screen reader what has a verdict now, but not all the time. */
function tell(rows) {
  for (const row of rows) {
    if (store.verdict(row) !== "candidate" && store.rows.data.device_class[row] === store.deviceClass) heard.add(row);
  }
  if (heard.size) speak();
}

// ---- what a reader may choose -------------------------------------------------------------------

function byMode(mode) {
  byId("by-number").setAttribute("aria-pressed", mode === "number");
  byId("by-time").setAttribute("aria-pressed", mode === "time");
  progress.setMode(mode);
  offerResets();
}

/** A zoom can be taken back where there is one. */
function offerResets() {
  byId("reset-progress").disabled = !progress.axis.isZoomed && !progress.y;
  byId("reset-strip").disabled = !axes.time.isZoomed;
}
byId("by-number").addEventListener("click", () => byMode("number"));
byId("by-time").addEventListener("click", () => byMode("time"));
byId("reset-progress").addEventListener("click", () => progress.reset());
byId("reset-strip").addEventListener("click", () => strip.reset());
for (const axis of Object.values(axes)) axis.addEventListener("change", offerResets);
byId("device-class").addEventListener("change", (event) => {
  progress.reset(); // what was zoomed to need not be there
  store.choose(Number(event.target.value));
  table.ask({});
});

// The address says more than the table is long: a plain #experiments goes there.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("experiments").focus();
});

follow(store, (state, text) => {
  byId("connection").dataset.state = state;
  say(byId("connection"), text);
  if (!store.status && state === "lost") warn(text);
});
