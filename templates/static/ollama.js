// What the Ollama servers have: for the lists to choose from, and for who is on Ollama.

import { ask } from "./service.js";
import { byId } from "./words.js";

let servers = [];

const fullName = name => name.includes(":", name.lastIndexOf("/") + 1) ? name : `${name}:latest`;

export async function refreshServers() {
  const answer = await ask("/ollama/");
  if (!answer.ok) return;
  ({ servers } = await answer.json());
  const urls = servers.map(server => server.url);
  byId("server-choice").hidden = urls.length < 2;
  const [all, ...known] = byId("server").options;
  if (known.map(option => option.value).join() !== urls.join()) {
    byId("server").replaceChildren(all, ...urls.map(url => new Option(url, url)));
  }
}

export function chosenServer() {
  return byId("server-choice").hidden ? "" : byId("server").value;
}

// The server that a request about a model on Ollama goes to, as a query.
export function serverOf(name) {
  const having = servers.find(server => hasModel(server, name));
  return having && servers.length > 1 ? `?server=${encodeURIComponent(having.url)}` : "";
}

function hasModel(server, name) {
  return (server.models ?? []).some(model => model.name === fullName(name));
}

export function isOnOllama(name) {
  return servers.some(server => hasModel(server, name));
}

// Any of them, and our own models, may be the base of an adapter.
export function offerBases(ownModels) {
  const names = servers.flatMap(server => server.models ?? []).map(model => model.name);
  const bases = [...new Set([...ownModels, ...names])].sort();
  byId("bases").replaceChildren(...bases.map(name => new Option(name)));
}
