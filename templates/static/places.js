// Where on the Ollama servers a model is.

import { on } from "./feed.js";

let servers = [];

const fullName = name => (name.includes(":", name.lastIndexOf("/") + 1) ? name : `${name}:latest`).toLowerCase();

// What the servers have by that name, [{ url, model }]; the addresses of those that haven't said;
// whether there are several servers.
export function whereOnOllama(name) {
  const full = fullName(name);
  const places = servers.map(({ url, models = [] }) => ({ url, model: models.find(model => model.name.toLowerCase() === full) }));
  return {
    places: places.filter(({ model }) => model),
    unknown: servers.filter(server => !server.models).map(server => server.url),
    several: servers.length > 1,
  };
}

on("servers", found => servers = found);
