// What the service and its Ollama servers have, asked for again and again, and told to whoever
// listens: on("models" | "tasks" | "servers", listener), on("open", listener) for whether it may be
// asked.

import { ask } from "./service.js";
import { linesOf } from "./text.js";

const IDLE_MS = 5000, BUSY_MS = 1000;
const listeners = {};

export function on(kind, listener) {
  (listeners[kind] ??= []).push(listener);
}

function tell(kind, value) {
  for (const listener of listeners[kind] ?? []) listener(value);
}

async function refreshServers() {
  const answer = await ask("/ollama/");
  if (answer.ok) tell("servers", (await answer.json()).servers);
}

async function refreshLists() {
  const answers = await Promise.all([ask("/models/?verbose=1"), ask("/tasks/")]);
  const isOpen = answers.every(answer => answer.ok);
  tell("open", isOpen ? "yes" : answers[0].status === 401 ? "key" : "no");
  if (!isOpen) return false;
  tell("models", linesOf(await answers[0].text()).map(line => line.message.details));
  const { tasks } = await answers[1].json();
  tell("tasks", tasks);
  return tasks.some(task => task.state === "running");
}

export async function refresh() {
  await refreshServers();
  await refreshLists();
}

async function keepFresh() {
  let isBusy = false;
  try {
    if (!document.hidden) isBusy = await refreshLists();
  } catch {
    tell("open", "no");
  }
  setTimeout(keepFresh, isBusy ? BUSY_MS : IDLE_MS);
}

export function start() {
  refreshServers().finally(keepFresh);
}
