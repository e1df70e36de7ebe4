// Where on the Ollama servers a model is.

import { on } from "./feed.js";

let servers = [];
let known = new Map();  // by full name: where it is

const fullName = name => (name.includes(":", name.lastIndexOf("/") + 1) ? name : `${name}:latest`).toLowerCase();

// What the servers have by that name, [{ url, model }]; the addresses of those that haven't said;
// whether there are several servers.
export function whereOnOllama(name) {
  return {
    places: known.get(fullName(name)) ?? [],
    unknown: servers.filter(server => !server.models).map(server => server.url),
    several: servers.length > 1,
  };
}

on("servers", found => {
  servers = found;
  known = Map.groupBy(
    servers.flatMap(({ url, models = [] }) => models.map(model => ({ url, model }))),
    ({ model }) => model.name.toLowerCase());
});
