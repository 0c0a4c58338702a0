// What the charts share: a canvas that is drawn when needed, a second one for what is pointed at,
// and the pointer and keys that zoom and choose.

import { colours, el, say } from "./dom.js";
import { json } from "./feed.js";

const DRAG = 6; // pixels, before a press becomes a drag
const DOUBLE = 220; // milliseconds, within which a click may become a double one

export class Chart {
  /** `axis` is the horizontal one; `open("e17")` is called for what is clicked. */
  constructor(host, tip, axis, { store, margins, palette, open }) {
    Object.assign(this, { host, tip, store, margins, palette, open });
    this.base = el("canvas", { "aria-hidden": "true" });
    this.overlay = el("canvas", { "aria-hidden": "true" });
    this.readout = el("p", { class: "readout", "aria-live": "polite" });
    host.append(this.base, this.overlay);
    host.after(this.readout);
    this.hovered = this.selected = this.box = null;
    this.dirty = new Set();
    this.axis = axis;
    this.redraw = () => this.schedule("base");
    axis.addEventListener("change", this.redraw);
    new ResizeObserver(() => this.resize()).observe(host);
    addEventListener("themechange", () => { this.colour = null; this.redraw(); });
    this.listen();
  }

  use(axis) {
    this.axis.removeEventListener("change", this.redraw);
    this.axis = axis;
    axis.addEventListener("change", this.redraw);
    this.redraw();
  }

  // ---- drawing ---------------------------------------------------------------------------------

  resize() {
    this.ratio = devicePixelRatio || 1;
    this.width = this.host.clientWidth;
    this.margins.left = this.width < 500 ? 46 : 64;
    this.height = this.host.clientHeight;
    for (const canvas of [this.base, this.overlay]) {
      canvas.width = Math.round(this.width * this.ratio);
      canvas.height = Math.round(this.height * this.ratio);
    }
    this.redraw();
  }

  schedule(layer) {
    if (this.dirty.size === 0) requestAnimationFrame(() => this.frame());
    this.dirty.add(layer);
    if (layer === "base") this.dirty.add("overlay");
  }

  frame() {
    const layers = this.dirty;
    this.dirty = new Set();
    if (!this.width || !this.height) return;
    this.colour ??= Object.fromEntries(colours(...this.palette).map((c, i) => [this.palette[i], c]));
    if (layers.has("base")) this.paint(this.base, (context) => this.draw(context));
    this.paint(this.overlay, (context) => this.drawOver(context));
    this.host.dataset.drawn = this.drawn ?? 0; // for whoever waits for the picture
  }

  paint(canvas, draw) {
    const context = canvas.getContext("2d");
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    context.font = '11px system-ui, -apple-system, "Segoe UI", sans-serif';
    draw(context);
  }

  drawOver(context) {
    if (this.box) {
      const [x0, y0, x1, y1] = this.box;
      context.fillStyle = this.colour.select;
      context.fillRect(x0, y0, x1 - x0, y1 - y0);
    }
    for (const item of new Set([this.selected, this.hovered])) {
      if (item !== null) this.mark(context, item);
    }
  }

  // ---- coordinates -----------------------------------------------------------------------------

  get right() { return this.width - this.margins.right; }
  get bottom() { return this.height - this.margins.bottom; }

  x(value) {
    const [low, high] = this.axis.range;
    return this.margins.left + ((value - low) / (high - low)) * (this.right - this.margins.left);
  }

  valueAt(pixel) {
    const [low, high] = this.axis.range;
    return low + ((pixel - this.margins.left) / (this.right - this.margins.left)) * (high - low);
  }

  // ---- pointer and keys ------------------------------------------------------------------------

  listen() {
    const on = (name, handler, options) => this.host.addEventListener(name, handler, options);
    const at = (event) => {
      const box = this.host.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    on("pointermove", (event) => (this.press ? this.drag(at(event)) : this.hover(this.pick(...at(event)), at(event))));
    on("pointerleave", () => this.hover(null));
    on("pointerdown", (event) => {
      if (event.button !== 0 || event.pointerType === "touch") return;
      this.press = at(event);
      this.host.setPointerCapture(event.pointerId);
    });
    on("pointerup", (event) => this.release(at(event)));
    on("pointercancel", () => { this.press = this.box = null; this.schedule("overlay"); });
    on("click", (event) => {
      if (event.pointerType === "touch") this.choose(this.pick(...at(event), 24));
    });
    on("dblclick", () => { clearTimeout(this.opening); this.reset(); });
    // A page scrolls with the wheel: it zooms once the chart is chosen, or with Ctrl (a pinch).
    on("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== this.host) return;
      event.preventDefault();
      const pixels = event.deltaMode === 1 ? event.deltaY * 16 : event.deltaY;
      if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.axis.pan(event.deltaX / this.width);
      else this.wheel(Math.exp(Math.max(-60, Math.min(60, pixels)) * 0.006), at(event), event.shiftKey);
    }, { passive: false });
    on("keydown", (event) => this.key(event));
    on("blur", () => this.hover(null));
  }

  wheel(factor, [x]) { this.axis.zoom(factor, this.valueAt(x)); }

  drag([x, y]) {
    const [x0, y0] = this.press;
    if (!this.box && Math.hypot(x - x0, y - y0) < DRAG) return;
    this.hover(null);
    this.box = this.boxOf(x0, y0, x, y);
    this.schedule("overlay");
  }

  boxOf(x0, y0, x1) { return [Math.min(x0, x1), this.margins.top, Math.max(x0, x1), this.bottom]; }

  release(at) {
    if (!this.press) return;
    const box = this.box;
    this.press = this.box = null;
    if (box) this.zoomTo(box);
    else {
      const found = this.pick(...at);
      clearTimeout(this.opening); // a second press may follow, which resets the zoom
      this.opening = setTimeout(() => this.choose(found), DOUBLE);
    }
    this.schedule("overlay");
  }

  zoomTo([x0, , x1]) { this.axis.show(this.valueAt(x0), this.valueAt(x1)); }
  reset() { this.axis.reset(); }

  choose(item) {
    if (item === null) return;
    this.selected = item;
    this.schedule("overlay");
    this.open(this.nameOf(item));
  }

  key(event) {
    const [low, high] = this.axis.range;
    const acts = {
      "+": () => this.axis.zoom(0.7, (low + high) / 2),
      "=": () => this.axis.zoom(0.7, (low + high) / 2),
      "-": () => this.axis.zoom(1 / 0.7, (low + high) / 2),
      0: () => this.reset(),
      Enter: () => this.choose(this.selected),
      Escape: () => { this.selected = null; this.hover(null); say(this.readout, ""); },
      ArrowLeft: () => this.step(-1, false), ArrowRight: () => this.step(1, false),
      ArrowUp: () => this.step(1, true), ArrowDown: () => this.step(-1, true),
      Home: () => this.step(-Infinity, false), End: () => this.step(Infinity, false),
    };
    if (!acts[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    acts[event.key]();
  }

  /** Select what stands `by` further. */
  step(by, special) {
    const item = this.neighbour(this.selected, by, special);
    if (item === null) return;
    this.selected = item;
    const x = this.place(item)[0];
    const [low, high] = this.axis.range;
    if (x < this.margins.left || x > this.right) {
      this.axis.show(this.valueAt(x) - (high - low) / 2, this.valueAt(x) + (high - low) / 2);
    }
    this.schedule("overlay");
    const [title, ...lines] = this.describe(item);
    say(this.readout, [title, ...lines].join(" · "));
    this.words(item, (text) => this.selected === item && say(this.readout, [title, ...lines, text].join(" · ")));
  }

  hover(item, at = null) {
    if (item === this.hovered && item === null) return;
    const isNew = item !== this.hovered;
    this.hovered = item;
    this.host.style.cursor = item === null ? "crosshair" : "pointer";
    this.schedule("overlay");
    if (item === null) { this.tip.hidden = true; return; }
    if (isNew) {
      this.tip.replaceChildren(...this.describe(item).map((line, i) => el(i ? "p" : "strong", {}, line)));
      this.tip.hidden = false;
      const text = el("p", { class: "words" });
      this.tip.append(text);
      this.words(item, (found) => { text.textContent = found; if (this.hovered === item) this.put(at); });
    }
    this.put(at);
  }

  /** The words of an experiment are fetched when somebody looks at it. */
  async words(item, then) {
    try {
      const found = await json(`/api/row/${this.nameOf(item)}?device_class=${this.store.deviceClass}`);
      then(found.description);
    } catch { // the connection says so itself
    }
  }

  /** The tip beside the pointer, where the window has room for it. */
  put([x, y]) {
    const box = this.host.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.tip;
    const px = box.left + x, py = box.top + y;
    const across = px + 16 + width > innerWidth ? px - 16 - width : px + 16;
    const down = Math.min(py + 12, innerHeight - height - 8);
    this.tip.style.transform = `translate(${Math.max(4, across)}px, ${Math.max(4, down)}px)`;
  }
}

/** The first place in an ascending column that is not below `value`. */
export function firstAt(column, value) {
  let low = 0, high = column.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (column[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
