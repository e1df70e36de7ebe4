// Requests to the service. The API key, where it wants one, stays in this tab.

import { byId, confirmed } from "./dom.js";

export function hasKey() {
  return sessionStorage.getItem("key") !== null;
}

export async function askForKey() {
  byId("key").value = "";
  const given = await confirmed(byId("key-dialog"));
  if (given) sessionStorage.setItem("key", byId("key").value);
  return given;
}

export function keyHeader() {
  return hasKey() ? { "X-API-Key": sessionStorage.getItem("key") } : {};
}

export async function ask(path, options = {}) {
  return fetch(path, { ...options, headers: { ...keyHeader(), ...options.headers } });
}

export function askJson(path, value, options = {}) {
  const headers = { "Content-Type": "application/json" };
  return ask(path, { method: "POST", body: JSON.stringify(value), headers, ...options });
}

// fetch can't tell how far an upload is.
export function open(method, path) {
  const request = new XMLHttpRequest();
  request.open(method, path);
  for (const [name, value] of Object.entries(keyHeader())) request.setRequestHeader(name, value);
  return request;
}
