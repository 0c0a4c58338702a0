// A card per worker: what it trains, how far that is, and what keeps it from working.

import { byId, el, say } from "./dom.js";
import { bpb, left, percent, short, usd } from "./format.js";

const AGENT_STATES = {
  starting: "starting", waiting: "waits", prompt: "at prompt", dialog: "at a dialog",
  limit: "limited", login: "must log in", asks: "asks",
};
const cards = new Map();

export function showWorkers(store) {
  const host = byId("workers");
  const { workers } = store.status;
  host.classList.toggle("many", workers.length > 12);
  for (const worker of workers) {
    if (!cards.has(worker.name)) {
      cards.set(worker.name, card(worker.name));
      host.append(cards.get(worker.name).root);
    }
    fill(cards.get(worker.name), worker);
  }
  for (const [name, { root }] of cards) {
    if (workers.some((worker) => worker.name === name)) continue;
    root.remove();
    cards.delete(name);
  }
  const tally = {};
  for (const worker of workers) tally[word(worker)] = (tally[word(worker)] ?? 0) + 1;
  say(byId("workers-sum"), Object.entries(tally).map(([state, n]) => `${n} ${state}`).join(", "));
}

function card(name) {
  const parts = {
    state: el("span", { class: "state" }),
    agent: el("span", { class: "agent" }),
    link: el("a", { class: "trial" }),
    idea: el("span", { class: "idea" }),
    bar: el("progress", { max: 100, value: 0, "aria-label": `trial of ${name}` }),
    live: el("span", { class: "live" }),
    sums: el("p", { class: "sums" }),
    reason: el("p", { class: "reason" }),
  };
  parts.root = el("li", {},
    el("div", { class: "top" }, el("h3", {}, name), parts.state, parts.agent),
    el("div", { class: "now" }, parts.link, parts.idea),
    el("div", { class: "run" }, parts.bar, parts.live),
    parts.sums, parts.reason);
  return parts;
}

function fill(parts, worker) {
  const { trial } = worker;
  parts.root.dataset.state = trial ? "training" : worker.state;
  say(parts.state, word(worker));
  say(parts.agent, worker.agent);
  parts.agent.title = worker.agent;
  parts.link.parentElement.hidden = parts.bar.parentElement.hidden = !trial;
  if (trial) {
    parts.link.setAttribute("href", `#${trial.experiment}`);
    say(parts.link, trial.purpose === "experiment" ? trial.experiment : `${trial.experiment}, ${trial.purpose}`);
    say(parts.idea, trial.description);
    parts.idea.title = trial.description;
    parts.bar.value = trial.percent;
    say(parts.live, progress(trial));
  }
  const best = worker.best_val_bpb === null ? "" : ` · best ${bpb(worker.best_val_bpb)}`;
  const cost = worker.usd ? ` · ${usd(worker.usd)}` : "";
  say(parts.sums, `${worker.experiments} exps${best} · ${percent(worker.duty_cycle)} busy${cost}`);
  // While it trains, only what hinders its agent is worth a line.
  const hindered = !["working", "starting", "ended", ""].includes(worker.agent_state);
  const reasons = new Set([trial ? "" : worker.reason, hindered || !trial ? worker.agent_reason : ""]);
  if (worker.direction) reasons.add(`looks into ${worker.direction}`);
  say(parts.reason, [...reasons].filter(Boolean).join("; "));
  parts.reason.title = parts.reason.textContent;
}

/** The state in a word; what its agent is at says more than that it does not train. */
function word(worker) {
  if (worker.trial) return worker.trial.phase;
  return worker.state === "thinking" ? AGENT_STATES[worker.agent_state] ?? "thinking" : worker.state;
}

/** How far a running trial is, in a line. */
export function progress(trial) {
  if (trial.step === null) return `${trial.phase}, ${Math.round(trial.seconds)} s`;
  const parts = [`${Math.round(trial.percent)} %`];
  if (trial.loss !== null) parts.push(`loss ${trial.loss.toFixed(3)}`);
  if (trial.tokens_per_second !== null) parts.push(`${short(trial.tokens_per_second)} tok/s`);
  if (trial.seconds_left !== null) parts.push(`${left(trial.seconds_left)} left`);
  return parts.join(" · ");
}
