// Requests to the service. The API key, where it wants one, stays in this tab.

import { byId } from "./words.js";

// Shows a dialog; resolves to whether it was confirmed.
export function confirmed(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise(resolve => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

export function hasKey() {
  return sessionStorage.getItem("key") !== null;
}

export async function askForKey() {
  byId("key").value = "";
  const given = await confirmed(byId("key-dialog"));
  if (given) sessionStorage.setItem("key", byId("key").value);
  return given;
}

function keyHeader() {
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
