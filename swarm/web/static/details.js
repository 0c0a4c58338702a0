// One experiment in full, in a drawer that its address (#e17) opens.

import { byId, el } from "./dom.js";
import { json } from "./feed.js";
import { bpb, duration, moment, percent, short, signed, usd } from "./format.js";
import { progress } from "./workers.js";

export class Details {
  constructor(store) {
    this.store = store;
    this.dialog = byId("details");
    this.body = byId("details-body");
    this.name = null;
    this.dialog.addEventListener("close", () => this.closed());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    addEventListener("hashchange", () => this.follow());
  }

  /** Show what the address says, or nothing. */
  async follow() {
    const name = /^#(e\d+)$/.exec(location.hash)?.[1];
    if (!name) {
      if (this.dialog.open) this.dialog.close();
      return;
    }
    if (this.name !== name) {
      this.body.replaceChildren(this.head({ experiment: name }));
      this.trial = null; // whose log is shown; null: the last one
    }
    this.name = name;
    if (!this.dialog.open) this.dialog.showModal();
    await this.refresh();
  }

  closed() {
    this.name = null;
    history.replaceState(null, "", location.pathname + location.search);
  }

  async refresh() {
    const { name } = this;
    try {
      const found = await json(`/api/experiment/${name}?device_class=${this.store.deviceClass}`);
      if (this.trial) Object.assign(found, { log: (await json(`/api/log/${this.trial}`)).log, log_of: this.trial });
      if (this.name === name && !this.isRead()) this.fill(found);
    } catch (error) {
      if (this.name === name) this.body.replaceChildren(this.head({ experiment: name }), el("p", {}, String(error.message)));
    }
  }

  /** Whether somebody has marked text here, which would be gone. */
  isRead() {
    const selection = getSelection();
    return !selection.isCollapsed && this.body.contains(selection.anchorNode);
  }

  fill(found) {
    const at = this.dialog.scrollTop;
    const log = this.body.querySelector(".log")?.scrollTop;
    const focused = document.activeElement?.dataset?.key;
    const note = found.no_diff || (found.diff ? "" : "It changes nothing.");
    this.body.replaceChildren(
      this.head(found), ...this.verdict(found), ...this.running(found), this.facts(found),
      part("Change", found.diff && diff(found.diff), note && el("p", { class: "muted" }, note)),
      part("Trials", trials(found.trials, (trial) => { this.trial = trial; this.refresh(); })),
      part(found.log_of ? `Log of ${found.log_of}, its end` : "Log",
        found.log ? el("pre", { class: "log", tabindex: 0 }, found.log) : el("p", { class: "muted" }, "There is none here.")),
      part("Commands", this.commands(found)),
    );
    this.dialog.scrollTop = at;
    if (log) this.body.querySelector(".log")?.scrollTo(0, log);
    if (focused) this.body.querySelector(`[data-key="${focused}"]`)?.focus();
  }

  head(found) {
    const verdict = found.confirmed ? "confirmed" : found.verdict;
    return el("header", {},
      el("h2", { id: "details-title" }, found.experiment),
      verdict && el("span", { class: `verdict ${verdict}` }, verdict),
      el("span", { class: "push" }),
      el("button", { type: "button", class: "icon", "data-key": "close", "aria-label": "Close", onclick: () => this.dialog.close() }, "×"));
  }

  verdict(found) {
    return [
      el("p", { class: "description" }, found.description),
      el("p", { class: "because" }, found.reason),
    ];
  }

  /** Its trials that run now, and how far they are. */
  running(found) {
    const trials = this.store.status.workers.map((worker) => worker.trial).filter((trial) => trial?.experiment === found.experiment);
    return trials.map((trial) => el("p", { class: "now" },
      el("progress", { max: 100, value: trial.percent, "aria-label": `trial ${trial.trial}` }), `${trial.trial}: ${progress(trial)}`));
  }

  facts(found) {
    const gained = found.gained && `${signed(-found.gained.gain)} ± ${found.gained.error.toFixed(6)} to ${found.gained.over}`;
    const facts = [
      ["val_bpb", `${bpb(found.val_bpb)} (n = ${found.replicates}${found.sd === null ? "" : `, sd ${found.sd.toFixed(6)}`})`],
      ["against its parent", gained],
      ["against the baseline", found.gain === null ? null : signed(-found.gain)],
      ["held-out", found.heldout_bpb === null ? null : bpb(found.heldout_bpb)],
      ["parent", found.parent && el("a", { href: `#${found.parent}` }, found.parent)],
      ["kept on top of it", found.children.length ? links(found.children) : null],
      ["by", found.worker && `${found.worker}, ${found.agent}`],
      ["submitted", moment(new Date(found.time))],
      ["steps", found.num_steps],
      ["speed", found.tokens_per_second && `${short(found.tokens_per_second)} tokens/s${found.mfu_percent ? `, MFU ${percent(found.mfu_percent / 100, 1)}` : ""}`],
      ["memory", found.memory_gb && `${found.memory_gb.toFixed(1)} GB`],
      ["trained", found.seconds ? duration(found.seconds) : null],
      ["cost", found.tokens && `${usd(found.usd)}, ${short(found.tokens)} tokens`],
    ];
    const shown = facts.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== 0);
    return el("dl", { class: "facts" }, ...shown.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  }

  commands(found) {
    const commands = [
      `swarm show ${found.experiment} --tag ${this.store.status.tag}`,
      `git show ${found.commit}`,
      `git switch --detach ${found.commit}`,
    ];
    return el("ul", { class: "commands" }, ...commands.map((command, i) => el("li", {},
      el("code", {}, command),
      el("button", { type: "button", "data-key": `copy${i}`, onclick: (event) => copy(event.currentTarget, command) }, "copy"))));
  }
}

function links(names) {
  return el("span", {}, ...names.flatMap((name, i) => [i ? ", " : "", el("a", { href: `#${name}` }, name)]));
}

function part(title, ...content) {
  return el("section", {}, el("h3", {}, title), ...content);
}

/** The lines of a unified diff, each in the colour of what it is; git's own words are left out. */
function diff(text) {
  const made = el("pre", { class: "diff", tabindex: 0, "aria-label": "unified diff" });
  let inHunk = false;
  for (const line of text.replace(/\n$/, "").split("\n")) {
    if (line.startsWith("diff ")) inHunk = false;
    if (line.startsWith("@@")) inHunk = true;
    if (/^(diff|index) /.test(line) && !inHunk) continue;
    const kind = !inHunk ? "file" : { "@": "hunk", "+": "add", "-": "del" }[line[0]] ?? "same";
    made.append(el("span", { class: kind }, `${line}\n`));
  }
  return made;
}

/** `show` is called with the trial whose log somebody wants. */
function trials(found, show) {
  if (!found.length) return el("p", { class: "muted" }, "None has run yet.");
  const head = ["trial", "worker", "seed", "purpose", "outcome", "val_bpb", "held-out", "took"];
  return el("div", { class: "wide-table" }, el("table", {},
    el("thead", {}, el("tr", {}, ...head.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, ...found.map((trial) => el("tr", {}, ...[
      el("button", { type: "button", "data-key": trial.trial, "aria-label": `Log of ${trial.trial}`, onclick: () => show(trial.trial) }, trial.trial),
      trial.worker, String(trial.seed), trial.purpose,
      (trial.outcome ?? "running") + (trial.slow ? ", disturbed" : "") + (trial.verified ? ", verified" : ""),
      bpb(trial.val_bpb), bpb(trial.heldout_bpb), trial.outcome ? duration(trial.seconds) : "–",
    ].map((value) => el("td", {}, value)))))));
}

async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "copied";
  } catch { // over plain HTTP from another machine a page has no clipboard
    getSelection().selectAllChildren(button.previousSibling);
    button.textContent = "selected";
  }
  setTimeout(() => { button.textContent = "copy"; }, 1500);
}
