// Light or dark: what the system prefers, unless the reader chose. Runs before the first paint.
"use strict";
(() => {
  const root = document.documentElement;
  const chosen = localStorage.getItem("swarm-theme");
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

  const isDark = () =>
    (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const announce = () => dispatchEvent(new Event("themechange"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", announce);

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const name = () => button.setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      localStorage.setItem("swarm-theme", root.dataset.theme);
      name();
      announce();
    });
    name();
  });
})();
