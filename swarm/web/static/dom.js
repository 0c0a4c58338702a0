// Elements are made here, and text only ever becomes a text node: nothing is parsed as markup.

export const byId = (id) => document.getElementById(id);

/** `el("a", {href: "#e1", class: "link", onclick: f}, "text", another)` */
export function el(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

/** Set the text of an element if it changed; so a screen reader is not told twice. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Call `action` at most once in `milliseconds`, and the last time for certain. */
export function throttled(action, milliseconds) {
  let last = -Infinity, waiting = 0;
  return () => {
    if (waiting) return;
    const wait = Math.max(0, last + milliseconds - performance.now());
    waiting = setTimeout(() => { waiting = 0; last = performance.now(); action(); }, wait);
  };
}

const probe = el("i", { hidden: true });

/** The colours of the theme by their names: `colours("keep")` is what `var(--keep)` is now. */
export function colours(...names) {
  if (!probe.isConnected) document.body.append(probe);
  return names.map((name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  });
}
