// The top of the page: what the service says of itself and of its Ollama servers, the key, the
// colours. When the service goes away, the last that it said stays, marked as such.

import { byId, icon, made, memory } from "./dom.js";
import { on, refresh } from "./feed.js";
import { shortAddress } from "./ollama.js";
import { askForKey, base, forgetKey, hasKey } from "./service.js";
import { _, inUnits } from "./text.js";

const hasChanged = memory();
let isLost = false;

function aboutAdapters({ takes_adapters: takes }) {
  if (takes === undefined || takes === null) return _("not known whether it takes adapters");
  return takes ? _("takes adapters") : _("adapters are merged into their base");
}

function serverItem(server, isAlone) {
  const { url, version, error } = server;
  const address = shortAddress(url);
  const colour = isLost || !(version || error) ? "unknown" : error ? "bad" : "good";
  const said = error ?? (version ? aboutAdapters(server) : _("not known yet"));
  const name = isAlone ? "Ollama" : address;
  return made("li", { className: "server", title: `${address}: ${said}` },
    made("span", { className: `dot ${colour}` }),
    made("span", {}, `${name} ${version ?? ""}`.trim()),
    made("span", { className: "visually-hidden" }, `: ${said}`),
    error && made("span", { className: "error" }, _("doesn't answer")));
}

function showState(state) {
  if (!hasChanged([state.servers.map(({ models, ...others }) => others), state.free_bytes, state.is_short, isLost, hasKey()])) return;
  byId("servers").replaceChildren(...state.servers.map(server => serverItem(server, state.servers.length < 2)));
  byId("space").textContent = _("%(size)s free", { size: inUnits(state.free_bytes) });
  byId("space").classList.toggle("error", state.is_short);
  byId("key-state").replaceChildren(icon("key"), " ", state.has_key ? _("API key entered") : _("no API key set"));
  byId("forget-key").hidden = !state.has_key;
}

let last = null;

on("state", state => {
  last = state;
  showState(state);
});
on("models", models => byId("models-count").textContent = models.length || "");
on("open", state => {
  isLost = state === "no";
  byId("sign-in").hidden = state !== "key";
  byId("stale").hidden = !isLost;
  document.documentElement.classList.toggle("is-stale", isLost);
  if (last) showState(last);
});

function chooseTheme(theme) {
  if (theme === "auto") localStorage.removeItem("theme");
  else localStorage.setItem("theme", theme);
  dispatchEvent(new Event("theme"));
  showTheme();
}

function showTheme() {
  for (const choice of document.querySelectorAll("[data-choose-theme]")) {
    const isChosen = choice.dataset.chooseTheme === document.documentElement.dataset.theme;
    choice.classList.toggle("active", isChosen);
    choice.setAttribute("aria-pressed", isChosen);
  }
}

for (const choice of document.querySelectorAll("[data-choose-theme]")) {
  choice.addEventListener("click", () => chooseTheme(choice.dataset.chooseTheme));
}
for (const choice of document.querySelectorAll("[data-choose-language]")) {
  choice.addEventListener("click", () => {
    document.cookie = `language=${choice.dataset.chooseLanguage}; path=${base || "/"}; max-age=31536000; SameSite=Strict`;
    location.reload();
  });
}
// The place that is read: the nearest to a line that goes from the window's top to its bottom while the
// page goes from its own top to its end. Of two side by side, the one that was asked for.
function currentPlace() {
  const { scrollTop, scrollHeight, clientHeight } = document.documentElement;
  const line = clientHeight * scrollTop / Math.max(1, scrollHeight - clientHeight);
  const distances = places.map(({ hash }) => {
    const { top, bottom } = document.querySelector(hash).getBoundingClientRect();
    return Math.max(0, top - line, line - bottom);
  });
  const nearest = places.filter((_, at) => distances[at] === Math.min(...distances));
  return nearest.find(({ hash }) => hash === location.hash) ?? nearest[0];
}

function showPlace(link) {
  for (const each of places) {
    each.classList.toggle("active", each === link);
    if (each === link) each.setAttribute("aria-current", "location");
    else each.removeAttribute("aria-current");
  }
}

const places = [...document.querySelectorAll("#places a")];
for (const link of places) link.addEventListener("click", () => showPlace(link));
addEventListener("scroll", () => showPlace(currentPlace()), { passive: true });
showPlace(currentPlace());
showTheme();
byId("sign-in").addEventListener("click", async () => await askForKey() && refresh());
byId("forget-key").addEventListener("click", () => {
  forgetKey();
  refresh();
});
