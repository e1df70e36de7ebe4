// Requests to the service. Paths are those of its description, "/models/"; they are asked for below
// the address that it has itself. The API key, where it wants one, stays in this tab.

import { byId, confirmed } from "./dom.js";
import { _, language } from "./text.js";

// What the browser keeps for this service is told by its address from what it keeps for another.
export const base = document.documentElement.dataset.base;
export const addressOf = path => base + path;
const KEY = `${base}key`;

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

export const forgetKey = () => sessionStorage.removeItem(KEY);

// Whether the service takes a key; it is asked before the dialog closes.
async function isTaken(key) {
  const answer = await fetch(addressOf("/state/"), { headers: { "X-API-Key": key } }).catch(() => null);
  if (answer?.ok) return true;
  byId("key-said").textContent = answer?.status === 401
    ? _("The service doesn't take this key.") : _("The service doesn't answer. Try again.");
  byId("key").classList.add("is-invalid");
  byId("key").select();
  return false;
}

export async function askForKey() {
  const dialog = byId("key-dialog");
  byId("key").value = byId("key-said").textContent = "";
  byId("key").classList.remove("is-invalid");
  const given = await confirmed(dialog);
  if (given) sessionStorage.setItem(KEY, byId("key").value);
  return given;
}

byId("key-form").addEventListener("submit", async event => {
  if (event.submitter?.value !== "yes") return;
  event.preventDefault();
  if (await isTaken(byId("key").value)) byId("key-dialog").close("yes");
});

// The key, and the language in which the service is to say what is wrong.
export function ownHeaders() {
  const key = hasKey() ? { "X-API-Key": sessionStorage.getItem(KEY) } : {};
  return { "Accept-Language": language, ...key };
}

export async function ask(path, options = {}) {
  return fetch(addressOf(path), { ...options, headers: { ...ownHeaders(), ...options.headers } });
}

export function askJson(path, value, options = {}) {
  const headers = { "Content-Type": "application/json" };
  return ask(path, { method: "POST", body: JSON.stringify(value), headers, ...options });
}

// The lines of an answer, each as it comes.
export async function* linesOf(answer) {
  let rest = "";
  for (const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    yield* lines;
  }
}

// fetch can't tell how far an upload is.
export function open(method, path) {
  const request = new XMLHttpRequest();
  request.open(method, addressOf(path));
  for (const [name, value] of Object.entries(ownHeaders())) request.setRequestHeader(name, value);
  return request;
}
