// Light or dark: the system's preference, unless the button or #theme=… has set another.
"use strict";

const root = document.documentElement;
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
const themeListeners = [];
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemIsDark.matches);
const byId = (id) => document.getElementById(id);

const resolvedColors = new Map();
// light-dark() in a custom property is resolved only where it is used as a color.
const paint = (name) => {
  const key = `${name} ${isDark()}`;
  if (!resolvedColors.has(key)) {
    const probe = document.createElement("i");
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    resolvedColors.set(key, getComputedStyle(probe).color);
    probe.remove();
  }
  return resolvedColors.get(key);
};

const applyTheme = (theme) => {
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;
  byId("theme-word").textContent = isDark() ? "light" : "dark";
  for (const listener of themeListeners) listener();
};

byId("theme").hidden = false;
byId("theme").addEventListener("click", () => applyTheme(isDark() ? "light" : "dark"));
systemIsDark.addEventListener("change", () => applyTheme());
applyTheme(new URLSearchParams(location.hash.slice(1)).get("theme"));
