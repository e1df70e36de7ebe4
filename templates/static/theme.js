// Before anything is drawn: the colours that were chosen here, or else those of the system.

(() => {
  const root = document.documentElement;
  const isDark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const chosen = localStorage.getItem("theme");
    root.dataset.bsTheme = chosen ?? (isDark.matches ? "dark" : "light");
    root.dataset.theme = chosen ?? "auto";
  };
  root.classList.add("scripted");
  isDark.addEventListener("change", apply);
  addEventListener("storage", apply);
  addEventListener("theme", apply);
  apply();
})();
