// The head of the page: what the swarm is at, what it has found, and what that cost.

import { byId, el, say } from "./dom.js";
import { bpb, count, duration, percent, short, signed, usd } from "./format.js";

export function showHead(store) {
  const { status } = store;
  document.title = `${status.tag} · ${status.state}`;
  say(byId("tag"), status.tag);
  const orphan = status.state === "running" && !status.supervisor;
  const state = byId("state");
  state.hidden = false;
  state.dataset.state = orphan ? "orphan" : status.state;
  say(state, status.state);
  say(byId("why"), orphan ? "without its supervisor; swarm recover starts it again" : status.reason);
  const choice = byId("device-class");
  byId("classes").hidden = status.device_classes.length < 2;
  if (choice.options.length !== status.device_classes.length) {
    choice.replaceChildren(...status.device_classes.map((known, i) => el("option", { value: i }, known.name)));
    choice.value = store.deviceClass;
  }
}

/** Name, value, unit and line of each figure; differences are to the baseline. */
export function figures(store) {
  const { status, known } = store;
  return [incumbent(known), best(known), experiments(store), devices(status), cost(status), time(status)];
}

export function showFigures(store) {
  const host = byId("figures");
  const made = figures(store);
  while (host.children.length < made.length) {
    host.append(el("div", {}, el("dt"), el("dd", {}, el("b"), el("span")), el("dd", { class: "more" })));
  }
  made.forEach(({ name, value, unit = "", more = "", href }, i) => {
    const [title, main, line] = host.children[i].children;
    say(title, name);
    const [number, suffix] = main.children;
    if (number.textContent && number.textContent !== value && i < 2) flash(host.children[i]);
    say(number, value);
    say(suffix, unit);
    if (line.dataset.text === more + href) return;
    line.dataset.text = more + href;
    line.replaceChildren(...(href ? [el("a", { href: `#${href}` }, href), " "] : []), more);
  });
}

function flash(element) {
  element.classList.remove("new");
  void element.offsetWidth; // starts the animation again
  element.classList.add("new");
}

function incumbent(known) {
  const { incumbent: top, baseline, noise } = known;
  if (!top) return { name: "Incumbent", value: "–", more: "no score yet" };
  const error = noise.sd / Math.sqrt(top.replicates);
  const found = { name: "Incumbent val_bpb", value: bpb(top.mean), unit: `± ${error.toFixed(6)} s.e.`, href: top.experiment };
  if (!baseline || top.experiment === "e0") return { ...found, more: "the baseline" };
  const gain = top.mean - baseline.mean;
  const sigmas = Math.abs(gain) / noise.sd;
  return { ...found, more: `${signed(gain)} (${signed((100 * gain) / baseline.mean, 2)} %, ${sigmas.toFixed(sigmas < 100 ? 1 : 0)} σ)` };
}

function best(known) {
  const { best: found, baseline } = known;
  if (!found) return { name: "Best", value: "–", more: "nothing is claimed yet" };
  const gain = baseline ? found.mean - baseline.mean : 0;
  const told = found.experiment === "e0" ? "the baseline"
    : found.confirmed ? `${signed(gain)}, n = ${found.replicates}` : "not confirmed";
  const held = known.drift?.is_real ? "; overfitted" : "";
  return { name: found.confirmed ? "Best, confirmed" : "Best", value: bpb(found.mean), href: found.experiment, more: told + held };
}

function experiments(store) {
  const { status, shown, rows, words } = store;
  const tally = {};
  for (const row of shown) {
    const verdict = words.verdicts[rows.data.verdict[row]];
    tally[verdict] = (tally[verdict] ?? 0) + 1;
  }
  const failed = (tally.crash ?? 0) + (tally.timeout ?? 0) + (tally.rejected ?? 0);
  const kept = Math.max(0, (tally.keep ?? 0) - 1); // the baseline is none
  return {
    name: "Experiments",
    value: count(status.experiments),
    unit: status.max_experiments ? `of ${count(status.max_experiments)}` : "",
    more: `${count(kept)} kept, ${count(failed)} failed${status.device_classes.length > 1 ? " in this class" : ""}`,
  };
}

function devices(status) {
  const cycles = status.workers.map((worker) => worker.duty_cycle).filter((cycle) => cycle !== null);
  const mean = cycles.length ? cycles.reduce((sum, cycle) => sum + cycle, 0) / cycles.length : null;
  const hours = status.spend.device_hours;
  const training = status.workers.filter((worker) => worker.trial).length;
  return {
    name: "Duty cycle",
    value: percent(mean, 1),
    more: `${training} of ${status.workers.length} train · ${hours < 100 ? hours.toFixed(1) : count(Math.round(hours))} device-h`,
  };
}

function cost(status) {
  const { spend } = status;
  if (!spend.usd && !spend.tokens) return { name: "Cost", value: "–", more: "no model, no price of a device" };
  // What an experiment costs is the part of the agents.
  const each = spend.usd_per_experiment === null ? "" : ` · ${usd(spend.usd_per_experiment)} each`;
  const agents = spend.devices_usd === null ? `${short(spend.tokens)} tokens` : `agents ${usd(spend.agents_usd)}`;
  const more = spend.unpriced_tokens ? `${short(spend.unpriced_tokens)} tokens have no known price` : `${agents}${each}`;
  return { name: "Cost", value: usd(spend.usd), unit: spend.max_usd === null ? "" : `of ${usd(spend.max_usd)}`, more };
}

function time(status) {
  const started = new Date(status.started); // the last time, if it was spawned again
  const limit = status.max_hours === null ? "" : `of ${status.max_hours} h`;
  const since = `since ${started.toLocaleString(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" })}`;
  return { name: status.lives ? "Running" : "Ran", value: duration(status.seconds), unit: limit, more: since };
}
