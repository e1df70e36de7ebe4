// Where on the Ollama servers a model is.

import { on } from "./feed.js";

let servers = [];
let known = new Map();  // by full name: where it is

const fullName = name => (name.includes(":", name.lastIndexOf("/") + 1) ? name : `${name}:latest`).toLowerCase();

export const serverUrls = () => servers.map(({ url }) => url);

// What the servers have by that name, [{ url, model }]; whether one of them hasn't said, and whether one
// doesn't answer; whether there are several.
export function whereOnOllama(name) {
  return {
    places: known.get(fullName(name)) ?? [],
    isUnknown: servers.some(server => !server.models),
    isSilent: servers.some(server => server.error),
    several: servers.length > 1,
  };
}

on("servers", found => {
  servers = found;
  known = Map.groupBy(
    servers.flatMap(({ url, models = [] }) => models.map(model => ({ url, model }))),
    ({ model }) => model.name.toLowerCase());
});
