// A task of the service: its bars, its lines, and how it ended.

import { chosenServer } from "./ollama.js";
import { askForKey, open } from "./service.js";
import { offerTrial } from "./trial.js";
import { byId, inMinutes, inUnits, linesOf, texts } from "./words.js";

const PHASES = ["upload", "extract", "push", "create"];
const PHASE_OF = [
  [/^Start(ed)? (save|extract)|^Extracting/, "extract"],
  [/^Start(ed to)? create|^Pushing|^Hashing|^Merging|^Converting/, "push"],
  [/^Start structure|^Ollama:|^Verif/, "create"],
];
let running = null;
let phase = "";
let shown = 0;  // of the answer, in characters

export const CREATE_PHASES = PHASES.slice(2);
export const DEPLOY_PHASES = PHASES;

function say(text, failed = false) {
  if (byId("said").textContent !== text) byId("said").textContent = text;
  byId("said").className = failed ? "error" : "";
}

function rowOf(id) {
  return byId(id).parentElement;
}

function fail(text) {
  if (phase) rowOf(phase).classList.add("failed");
  say(text, true);
}

function complete(ids) {
  for (const id of ids) {
    byId(id).value = 1;
    if (id !== "upload") byId(`${id}-figures`).textContent = "✓";
  }
}

function enter(next) {
  phase = next;
  complete(PHASES.slice(0, PHASES.indexOf(next)));
}

function showUpload(event, started) {
  const seconds = (performance.now() - started) / 1000;
  const rate = event.loaded / Math.max(seconds, 0.001);
  const left = event.total - event.loaded;
  byId("upload").value = event.loaded / event.total;
  byId("upload-figures").textContent = [
    left ? `${inUnits(event.loaded)} / ${inUnits(event.total)}` : inUnits(event.total),
    `${inUnits(rate)}/s`,
    left ? `${inMinutes(left / rate)} ${texts.left}` : "✓",
  ].join(" · ");
}

function showFigures({ action, details }) {
  const { bytes, total_bytes: total, server, ollama } = details;
  const done = total ? bytes / total : ollama?.total ? (ollama.completed ?? 0) / ollama.total : null;
  if (done !== null) byId(phase).value = done;
  const amount = total ? `${inUnits(bytes)} / ${inUnits(total)}` : "";
  const where = byId("server-choice").hidden ? "" : server;
  byId(`${phase}-figures`).textContent = [action, amount, where].filter(Boolean).join(" ");
}

function finish(name) {
  complete(PHASES);
  say(`${name} ${texts.done}`);
  byId("run").textContent = `ollama run ${name}`;
  byId("made").hidden = false;
  offerTrial(name);
}

function showLine({ status, message }) {
  const { error, hint, model_name_on_ollama: made } = message.details;
  if (status !== 200) return fail([message.action, error, hint].filter(Boolean).join("\n"));
  if (made) return finish(made);
  const next = PHASE_OF.find(([pattern]) => pattern.test(message.action))?.[1];
  if (next) enter(next);
  if (next) showFigures(message);
  say(message.action);
}

function showLines(text) {
  const fresh = text.slice(shown, text.lastIndexOf("\n") + 1);
  shown += fresh.length;
  byId("log").append(fresh);
  linesOf(fresh).forEach(showLine);
}

function reset(title, phases) {
  byId("task").hidden = false;
  byId("task-title").textContent = title;
  byId("made").hidden = true;
  byId("copy").textContent = texts.copy_line;
  byId("log").textContent = "";
  for (const id of PHASES) {
    byId(id).value = 0;
    byId(`${id}-figures`).textContent = "";
    rowOf(id).classList.remove("failed");
    rowOf(id).hidden = !phases.includes(id);
  }
  phase = phases[0] ?? "";
  shown = 0;
  say("");
}

function setRunning(request) {
  running = request;
  byId("send").disabled = Boolean(request);
  byId("cancel").hidden = !request;
}

// Runs one task at a time: a form's or a JSON object's way to `path`.
export function run(method, path, body, title, phases) {
  if (running) return say(texts.one_at_a_time);
  const isForm = body instanceof FormData;
  const server = chosenServer();
  const query = server ? `&server=${encodeURIComponent(server)}` : "";
  const request = open(method, `${path}?verbose=1${query}`);
  const started = performance.now();
  reset(title, phases);
  setRunning(request);
  request.upload.onprogress = event => isForm && showUpload(event, started);
  request.onprogress = () => showLines(request.responseText);
  request.onload = () => showLines(request.responseText);
  request.onerror = () => fail(texts.lost);
  request.onabort = () => say(CREATE_PHASES.includes(phase) ? texts.cancelled_kept : texts.cancelled);
  request.onloadend = async () => {
    setRunning(null);
    document.dispatchEvent(new Event("task-ended"));
    if (request.status === 401 && await askForKey()) run(method, path, body, title, phases);
  };
  if (!isForm) request.setRequestHeader("Content-Type", "application/json");
  request.send(isForm ? body : JSON.stringify(body));
  byId("task").scrollIntoView({ block: "nearest" });
}

// Works on pages without TLS too, where there is no navigator.clipboard.
function copy() {
  getSelection().selectAllChildren(byId("run"));
  document.execCommand("copy");
  byId("copy").textContent = texts.copied;
}

byId("cancel").addEventListener("click", () => running.abort());
byId("copy").addEventListener("click", copy);
addEventListener("beforeunload", event => running && event.preventDefault());
