// What the Ollama servers have: for the lists to choose from, and for who is on Ollama.

import { byId } from "./dom.js";
import { on } from "./feed.js";

let servers = [];
let ownModels = [];

const fullName = name => name.includes(":", name.lastIndexOf("/") + 1) ? name : `${name}:latest`;

export function chosenServer() {
  return byId("server-choice").hidden ? "" : byId("server").value;
}

const namesOnOllama = () => servers.flatMap(server => server.models ?? []).map(model => model.name);

export function isOnOllama(name) {
  return namesOnOllama().includes(fullName(name));
}

// Any of them, and our own models, may be the base of an adapter.
function offerBases() {
  const bases = [...new Set([...ownModels, ...namesOnOllama()])].sort();
  byId("bases").replaceChildren(...bases.map(name => new Option(name)));
}

function offerServers() {
  const urls = servers.map(server => server.url);
  byId("server-choice").hidden = urls.length < 2;
  const [all, ...known] = byId("server").options;
  if (known.map(option => option.value).join() !== urls.join()) {
    byId("server").replaceChildren(all, ...urls.map(url => new Option(url, url)));
  }
}

on("servers", found => {
  servers = found;
  offerServers();
  offerBases();
});
on("models", models => {
  ownModels = models.map(facts => facts.model);
  offerBases();
});
