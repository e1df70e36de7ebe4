// What the Ollama servers have: for the lists to choose from, and for who is on Ollama.

import { byId } from "./dom.js";
import { on } from "./feed.js";

let servers = [];
let ownModels = [];

const fullName = name => name.includes(":", name.lastIndexOf("/") + 1) ? name : `${name}:latest`;

export function chosenServer() {
  return byId("server-choice").hidden ? "" : byId("server").value;
}

export const hasSeveralServers = () => servers.length > 1;

export const shortAddress = url => url.replace(/^https?:\/\//, "").replace(/\/$/, "");

const onOllama = () => servers.flatMap(server => server.models ?? []);

// What Ollama has by that name, or undefined. Ollama's names are the same in any case.
export function foundOnOllama(name) {
  const wanted = fullName(name).toLowerCase();
  return onOllama().find(model => model.name.toLowerCase() === wanted);
}

export const isOnOllama = name => Boolean(foundOnOllama(name));

// Any of them, and our own models, may be the base of an adapter.
function offerBases() {
  const bases = [...new Set([...ownModels, ...onOllama().map(model => model.name)])].sort();
  byId("bases").replaceChildren(...bases.map(name => new Option(name)));
}

function offerServers() {
  const urls = servers.map(server => server.url);
  byId("server-choice").hidden = urls.length < 2;
  const [all, ...known] = byId("server").options;
  if (known.map(option => option.value).join() !== urls.join()) {
    byId("server").replaceChildren(all, ...urls.map(url => new Option(shortAddress(url), url)));
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
