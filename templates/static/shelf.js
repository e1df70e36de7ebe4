// The models that are stored, what can be done with each, and the recent tasks.

import { isOnOllama, offerBases, refreshServers } from "./ollama.js";
import { ask, askForKey, confirmed, hasKey } from "./service.js";
import { CREATE_PHASES, run } from "./task.js";
import { offerTrial } from "./trial.js";
import { byId, inName, inShort, inUnits, linesOf, texts } from "./words.js";

const IDLE_MS = 5000, BUSY_MS = 1000, SHOWN_TASKS = 10;
const pathOf = model => `/models/${encodeURIComponent(model)}`;
const shown = {};
let served = "";

// One word of a shell's line, whatever it holds.
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

async function showModelfile(model) {
  const from = byId("base-choice").hidden ? "" : byId("new-from").value;
  const query = from ? `?from=${encodeURIComponent(from)}` : "";
  const answer = await ask(`${pathOf(model)}/modelfile${query}`);
  const text = await answer.text();
  served = byId("modelfile").value = answer.ok ? text : "";
  const { error, hint } = answer.ok ? {} : JSON.parse(text).message.details;
  byId("modelfile-said").textContent = [error, hint].filter(Boolean).join(" ");
}

async function create({ model, kind }) {
  byId("create-model").textContent = model;
  byId("new-name").value = inName(model);
  byId("new-from").value = byId("new-quantize").value = "";
  byId("base-choice").hidden = Boolean(kind?.includes("base"));
  byId("new-from").onchange = () => showModelfile(model);
  showModelfile(model);
  if (!await confirmed(byId("create-dialog"))) return;
  const fields = {
    model,
    model_name_on_ollama: byId("new-name").value,
    from: byId("new-from").value,
    quantize: byId("new-quantize").value,
    verify: true,
    modelfile: byId("modelfile").value === served ? "" : byId("modelfile").value,
  };
  run("POST", "/models/create/", fields, fields.model_name_on_ollama, CREATE_PHASES);
}

async function remove({ model }) {
  byId("delete-model").textContent = model;
  byId("typed-name").value = "";
  checkTyped();
  if (await confirmed(byId("delete-dialog"))) run("DELETE", "/models/", { model }, model, []);
}

function checkTyped() {
  const isRight = byId("typed-name").value === byId("delete-model").textContent;
  byId("typed-name").setCustomValidity(isRight ? "" : texts.ask_delete);
}

// A browser's own download can't carry the key.
function download({ model }) {
  if (!hasKey()) return location.assign(`${pathOf(model)}/download`);
  const url = `${location.origin}${pathOf(model)}/download`;
  byId("download-line").textContent = `curl -H "X-API-Key: $API_KEY" -o ${quoted(`${model}.zip`)} ${quoted(url)}`;
  byId("download-dialog").showModal();
}

function button(text, facts, action) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.setAttribute("aria-label", `${text} ${facts.model}`);
  made.addEventListener("click", () => action(facts));
  return made;
}

function nameOnOllama({ last_create: last }) {
  return last && isOnOllama(last.model_name_on_ollama) ? last.model_name_on_ollama : "";
}

function modelRow(facts) {
  const { model, kind, architecture, quantization, size, name } = facts;
  const parameters = facts.parameter_count ? inShort(facts.parameter_count) : "";
  const date = facts.created_at ? new Date(facts.created_at).toLocaleDateString() : "";
  const row = document.createElement("tr");
  const heading = document.createElement("th");
  heading.scope = "row";
  heading.textContent = model;
  row.append(heading);
  for (const text of [name, kind, architecture, parameters, quantization, inUnits(size), date]) {
    row.insertCell().textContent = text ?? "";
  }
  const actions = document.createElement("div");
  heading.append(actions);
  actions.append(button(texts.create, facts, create));
  if (name) actions.append(button(texts.try, facts, () => offerTrial(name)));
  actions.append(button(texts.download, facts, download), button(texts.delete, facts, remove));
  return row;
}

function taskItem({ started, model, action, state, progress_ratio: ratio }) {
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.dateTime = started;
  time.textContent = new Date(started).toLocaleTimeString();
  item.append(time, model ?? "", document.createElement("span"));
  item.lastChild.textContent = `${texts[`state_${state}`]}: ${action ?? texts.phase_upload}`;
  if (state === "failed") item.lastChild.className = "error";
  if (state === "running") {
    const bar = document.createElement("progress");
    bar.value = ratio;
    item.append(bar);
  }
  return item;
}

// What hasn't changed stays as it is, so that nobody loses the button under their fingers.
function hasChanged(list, value) {
  const text = JSON.stringify(value);
  const before = shown[list];
  shown[list] = text;
  return text !== before;
}

function showModels(models) {
  const rows = models.map(facts => ({ ...facts, name: nameOnOllama(facts) }));
  if (!hasChanged("models", rows)) return;
  byId("models").replaceChildren(...rows.map(modelRow));
  byId("no-models").hidden = rows.length > 0;
}

function showTasks(tasks) {
  if (!hasChanged("tasks", tasks)) return;
  byId("tasks").replaceChildren(...tasks.map(taskItem));
  if (!tasks.length) byId("tasks").textContent = texts.none;
}

async function refresh() {
  const answers = await Promise.all([ask("/models/?verbose=1"), ask("/tasks/")]);
  byId("shelf").hidden = !answers.every(answer => answer.ok);
  byId("sign-in").hidden = answers[0].status !== 401;
  if (byId("shelf").hidden) return false;
  const models = linesOf(await answers[0].text()).map(line => line.message.details);
  const { tasks } = await answers[1].json();
  offerBases(models.map(facts => facts.model));
  showModels(models);
  showTasks(tasks.slice(0, SHOWN_TASKS));
  return tasks.some(task => task.state === "running");
}

async function refreshAll() {
  await refreshServers();
  await refresh();
}

async function keepFresh() {
  let isBusy = false;
  try {
    if (!document.hidden) isBusy = await refresh();
  } catch {
    byId("shelf").hidden = true;
  }
  setTimeout(keepFresh, isBusy ? BUSY_MS : IDLE_MS);
}

byId("typed-name").addEventListener("input", checkTyped);
byId("sign-in").addEventListener("click", async () => await askForKey() && refreshAll());
document.addEventListener("task-ended", refreshAll);
refreshServers().finally(keepFresh);
