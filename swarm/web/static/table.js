// The table of experiments: searched and sorted by the server, of which only what is seen is here.

import { byId, el, say } from "./dom.js";
import { json } from "./feed.js";
import { bpb, count, duration, short, signed, usd } from "./format.js";

const PAGE = 100, HEIGHT = 34, AROUND = 12;
const COLUMNS = [
  ["experiment", "experiment"],
  ["verdict", "verdict"],
  ["val_bpb", "val_bpb", "n"],
  [null, "Δ baseline", "n wide"],
  ["replicates", "n", "n wide"],
  ["heldout_bpb", "held-out", "n wider"],
  ["worker", "worker", "wide"],
  ["parent", "on", "wide"],
  ["tokens_per_second", "tok/s", "n wider"],
  ["seconds", "trained", "n wider"],
  ["usd", "cost", "n wider"],
  ["description", "change"],
];

export class Table {
  constructor(store) {
    this.store = store;
    this.query = { sort: "val_bpb", descending: false, search: "", verdict: "" };
    this.pages = new Map();
    this.total = 0;
    this.focused = 0;
    this.wanted = null; // the place that is to have the focus
    this.scroller = byId("scroller");
    this.body = byId("rows");
    this.above = el("tr", { "aria-hidden": "true" }, el("td", { colspan: COLUMNS.length }));
    this.below = this.above.cloneNode(true);
    byId("columns").append(...COLUMNS.map((column) => this.head(column)));
    this.scroller.addEventListener("scroll", () => this.show(), { passive: true });
    new ResizeObserver(() => this.show()).observe(this.scroller);
    this.body.addEventListener("focusin", (event) => {
      const row = event.target.closest("tr[data-place]");
      if (row) this.focused = Number(row.dataset.place);
    });
    this.body.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr[data-place]");
      if (row && !event.target.closest("a") && !getSelection().toString()) row.querySelector("a").click();
    });
    byId("verdict").append(...["keep", "confirmed", "discard", "candidate", "crash", "timeout", "rejected", "interrupted"]
      .map((verdict) => el("option", { value: verdict }, verdict)));
    byId("verdict").addEventListener("change", (event) => this.ask({ verdict: event.target.value }));
    let typing = 0;
    byId("search").addEventListener("input", (event) => {
      clearTimeout(typing);
      typing = setTimeout(() => this.ask({ search: event.target.value }), 150);
    });
  }

  head([sort, name, kind = ""]) {
    const cell = el("th", { scope: "col", class: kind });
    if (!sort) return cell.append(name), cell;
    cell.dataset.sort = sort;
    cell.append(el("button", { type: "button", onclick: () => this.sortBy(sort) }, name));
    return cell;
  }

  sortBy(sort) {
    const again = this.query.sort === sort;
    this.ask({ sort, descending: again ? !this.query.descending : sort === "experiment" });
  }

  /** Ask for other rows, from the first one. */
  ask(change) {
    Object.assign(this.query, change);
    this.scroller.scrollTop = 0;
    this.focused = 0;
    this.refresh();
  }

  /** Fetch what is seen again; what is on screen stays there until that has come. */
  async refresh() {
    for (const cell of byId("columns").children) {
      const order = this.query.descending ? "descending" : "ascending";
      if (cell.dataset.sort === this.query.sort) cell.setAttribute("aria-sort", order);
      else cell.removeAttribute("aria-sort");
    }
    const asked = (this.asked = {});
    const first = Math.floor(Math.max(0, this.first() - AROUND) / PAGE);
    const pages = new Map();
    try {
      for (const page of [first, first + 1]) {
        pages.set(page, await this.fetch(page));
        if (this.asked !== asked) return;
        if ((page + 1) * PAGE >= this.total) break;
      }
    } catch { // the connection says so itself; what is shown is what was known
      return;
    }
    this.pages = pages;
    this.show();
  }

  async fetch(page) {
    const wanted = { ...this.query, device_class: this.store.deviceClass, offset: page * PAGE, limit: PAGE };
    const found = await json(`/api/rows?${new URLSearchParams(wanted)}`);
    this.total = found.total;
    say(byId("found"), count(found.total));
    return found.rows;
  }

  first() { return Math.floor(this.scroller.scrollTop / HEIGHT); }

  /** Draw the rows that are seen, and some around them. */
  show() {
    const from = Math.max(0, this.first() - AROUND);
    const seen = Math.ceil(this.scroller.clientHeight / HEIGHT) + 2 * AROUND;
    const to = Math.min(this.total, from + seen);
    if (this.body.contains(document.activeElement)) this.wanted = this.focused;
    else if (document.activeElement !== document.body) this.wanted = null;
    const rows = [];
    for (let place = from; place < to; place += 1) {
      const page = Math.floor(place / PAGE);
      const found = this.pages.get(page);
      if (found === undefined) this.load(page);
      rows.push(this.row(place, found?.[place % PAGE]));
    }
    this.above.firstChild.style.height = `${from * HEIGHT}px`;
    this.below.firstChild.style.height = `${Math.max(0, this.total - to) * HEIGHT}px`;
    this.body.parentElement.setAttribute("aria-rowcount", this.total + 1);
    const at = this.scroller.scrollTop;
    this.body.replaceChildren(this.above, ...rows, this.below);
    this.scroller.scrollTop = at; // an empty table may have been laid out in between
    if (!this.total) this.above.after(el("tr", {}, el("td", { colspan: COLUMNS.length, class: "none" }, "Nothing is found.")));
    this.regain();
  }

  /** Rows are made anew: the focus goes back to the one that had it, once that is there. */
  regain() {
    const link = this.wanted === null ? null : this.body.querySelector(`tr[data-place="${this.wanted}"] a`);
    if (!link) return;
    for (const other of this.body.querySelectorAll('a[tabindex="0"]')) other.tabIndex = -1;
    link.tabIndex = 0;
    link.focus({ preventScroll: true });
    this.wanted = null;
  }

  async load(page) {
    this.pages.set(page, null); // is on its way
    const { pages } = this;
    try {
      pages.set(page, await this.fetch(page));
      if (this.pages === pages) this.show();
    } catch {
      pages.delete(page);
    }
  }

  row(place, found) {
    const made = el("tr", { "data-place": place, "aria-rowindex": place + 2 });
    if (!found) return made.append(el("td", { colspan: COLUMNS.length, class: "none" }, "…")), made;
    const { known } = this.store;
    const link = el("a", { href: `#${found.experiment}`, tabindex: place === this.focused ? 0 : -1 }, found.experiment);
    const top = known.incumbent?.experiment === found.experiment, best = known.best?.experiment === found.experiment;
    const verdict = found.confirmed ? "confirmed" : found.running && found.verdict === "candidate" ? "running" : found.verdict;
    const sd = found.sd === null ? "" : ` sd ${found.sd.toFixed(6)}`;
    const cells = [
      [link, top && el("span", { class: "tag keep" }, "incumbent"), best && el("span", { class: "tag" }, "best")],
      [el("span", { class: `verdict ${verdict}` }, verdict)],
      [bpb(found.val_bpb), el("small", {}, sd)],
      [el("span", { class: found.gain > 0 ? "better" : "" }, found.gain === null ? "–" : signed(-found.gain))],
      [String(found.replicates)],
      [bpb(found.heldout_bpb)],
      [found.worker || "–"],
      [found.parent ? el("a", { href: `#${found.parent}`, tabindex: -1 }, found.parent) : "–"],
      [short(found.tokens_per_second)],
      [found.seconds ? duration(found.seconds) : "–"],
      [usd(found.usd)],
      [found.description],
    ];
    cells.forEach((content, i) => made.append(
      el("td", { class: COLUMNS[i][2], title: i === 11 ? found.description : null }, ...content.filter(Boolean))));
    return made;
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / HEIGHT) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.focus(Math.min(this.total - 1, Math.max(0, this.focused + steps[event.key])));
  }

  focus(place) {
    this.focused = place;
    const top = place * HEIGHT, { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top + 3 * HEIGHT > scrollTop + clientHeight) this.scroller.scrollTop = top + 3 * HEIGHT - clientHeight;
    this.wanted = place;
    if (this.body.querySelector(`tr[data-place="${place}"] a`)) this.regain();
    else this.show();
  }
}
