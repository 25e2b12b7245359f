/* Light or dark: the reader's system says, #theme=dark or the button may say otherwise. */
(() => {
  "use strict";
  const root = document.documentElement;
  const KEY = "noria-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");

  const remembered = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // a file opened from disk may have no storage
    }
  };

  const show = (theme) => {
    if (theme === "dark" || theme === "light") root.dataset.theme = theme;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
    document.getElementById("theme-word").textContent = dark ? "light" : "dark";
    return dark;
  };

  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", () => {
    const theme = show() ? "light" : "dark";
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // then it holds until the page is closed
    }
    show(theme);
  });
  system.addEventListener("change", () => show());
  show(new URLSearchParams(location.hash.slice(1)).get("theme") || remembered());
})();
