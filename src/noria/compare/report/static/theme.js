// Light or dark: the system's preference, unless #theme=dark, #theme=light or the button set another.
"use strict";

const root = document.documentElement;
const THEME_KEY = "noria-theme";
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemIsDark.matches);
const hashOptions = () => new URLSearchParams(location.hash.slice(1));

const storedTheme = () => {
  try {
    return localStorage.getItem(THEME_KEY);
  } catch {
    return null; // a page opened from disk may have no storage
  }
};

const applyTheme = () => {
  const theme = hashOptions().get("theme") || storedTheme();
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;
  else delete root.dataset.theme;
  document.getElementById("theme-word").textContent = isDark() ? "light" : "dark";
};

const button = document.getElementById("theme");
button.hidden = false;
button.addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  try {
    localStorage.setItem(THEME_KEY, theme);
  } catch {
    // without storage the choice is lost when the page is closed
  }
  const options = hashOptions();
  if (options.has("theme")) {
    options.set("theme", theme);
    location.hash = options.toString();
  }
  root.dataset.theme = theme;
  document.getElementById("theme-word").textContent = isDark() ? "light" : "dark";
});

addEventListener("hashchange", applyTheme);
systemIsDark.addEventListener("change", applyTheme);
applyTheme();
