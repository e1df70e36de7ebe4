// What the service and its Ollama servers have, asked for again and again and told to whoever
// listens: on("state", …) the whole, on("models" | "tasks" | "servers" | "uploads", …) its
// parts, on("open", …) "yes", "key" where one is wanted, or "no".
//
// Asked by one conditional request, which costs nothing where nothing has changed: often while
// something runs, seldom otherwise, and not at all while nobody looks.

import { ask } from "./service.js";

const IDLE_MS = 15_000, BUSY_MS = 1000, LOST_MS = 3000;
const listeners = {};
let timer = 0;
let isRunning = false;

export function on(kind, listener) {
  (listeners[kind] ??= []).push(listener);
}

function tell(kind, value) {
  for (const listener of listeners[kind] ?? []) listener(value);
}

function show(state) {
  tell("open", "yes");
  tell("state", state);
  for (const part of ["servers", "models", "tasks", "uploads"]) tell(part, state[part]);
}

async function look(options) {
  const answer = await ask("/state/", options).catch(() => null);
  if (answer?.ok) {
    const state = await answer.json();
    show(state);
    const isKnown = state.servers.every(server => server.version || server.error);
    return isRunning || !isKnown || state.tasks.some(task => task.state === "running") ? BUSY_MS : IDLE_MS;
  }
  tell("open", answer?.status === 401 ? "key" : "no");
  return answer?.status === 401 ? IDLE_MS : LOST_MS;
}

async function keepFresh(options) {
  clearTimeout(timer);
  if (document.hidden) return;
  const milliseconds = await look(options);
  clearTimeout(timer);
  timer = setTimeout(keepFresh, milliseconds);
}

// Has all asked for anew, the Ollama servers too.
export function refresh() {
  return keepFresh({ cache: "no-cache", headers: { "Cache-Control": "no-cache" } });
}

export function start() {
  document.addEventListener("visibilitychange", () => keepFresh());
  document.addEventListener("running", event => isRunning = event.detail);
  addEventListener("online", () => keepFresh());
  refresh();
}
