// The top of the page: the key, the colours, and what the service says of itself.

import { byId, made } from "./dom.js";
import { on, refresh } from "./feed.js";
import { askForKey } from "./service.js";

function showServers(servers) {
  byId("servers").replaceChildren(...servers.map(({ url, version, error }) => made("li", { title: error ?? url },
    made("span", { className: `dot ${error ? "bg-danger" : "bg-success"}` }),
    version ? ` Ollama ${version}` : ` ${url}`)));
}

function chooseTheme(theme) {
  if (theme === "auto") localStorage.removeItem("theme");
  else localStorage.setItem("theme", theme);
  dispatchEvent(new Event("theme"));
}

for (const choice of document.querySelectorAll("[data-choose-theme]")) {
  choice.addEventListener("click", () => chooseTheme(choice.dataset.chooseTheme));
}
byId("sign-in").addEventListener("click", async () => await askForKey() && refresh());
on("open", state => byId("sign-in").hidden = state !== "key");
on("servers", showServers);
