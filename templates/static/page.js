const byId = id => document.getElementById(id);
const texts = JSON.parse(byId("texts").textContent);
const form = document.querySelector("form");
const PHASES = ["upload", "extract", "push", "create"];
const PHASE_OF = [
  [/^Start(ed)? save|^Start extract|^Extracting/, "extract"],
  [/^Start(ed to)? create|^Pushing|^Hashing|^Merging/, "push"],
  [/^Start structure|^Ollama:/, "create"],
];
let running = null;

// The API key, where the service wants one, stays in this tab.
function askForKey() {
  const key = prompt(texts.ask_key);
  if (key) sessionStorage.setItem("key", key);
  return Boolean(key);
}

function open(method, url) {
  const request = new XMLHttpRequest();
  request.open(method, url);
  const key = sessionStorage.getItem("key");
  if (key) request.setRequestHeader("X-API-Key", key);
  return request;
}

async function ask(url) {
  const key = sessionStorage.getItem("key");
  return fetch(url, { headers: key ? { "X-API-Key": key } : {} });
}

function say(text, failed = false) {
  byId("said").textContent = text;
  byId("said").className = failed ? "error" : "";
}

function linesOf(text) {
  return text.split("\n").slice(0, -1).map(line => JSON.parse(line));
}

function inUnits(bytes) {
  const power = Math.min(4, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  return (bytes / 1000 ** power).toFixed(power ? 1 : 0) + " " + ["B", "kB", "MB", "GB", "TB"][power];
}

function showUpload(event, started) {
  const seconds = (performance.now() - started) / 1000;
  const rate = event.loaded / Math.max(seconds, 0.001);
  const left = Math.ceil((event.total - event.loaded) / rate);
  byId("upload").value = event.loaded / event.total;
  say(`${texts.phase_upload}: ${inUnits(rate)}/s, ${left} s ${texts.left}`);
}

// Bars before the phase under way are full; within a phase, bytes or Ollama's own count move it.
function showLines(text) {
  byId("log").textContent = text;
  const lines = linesOf(text);
  if (!lines.length) return;
  const { status, message } = lines.at(-1);
  const { error, hint, bytes, total_bytes: total, model_name_on_ollama: made } = message.details;
  if (status !== 200) return say([message.action, error, hint].filter(Boolean).join(" "), true);
  const phase = PHASE_OF.find(([pattern]) => pattern.test(message.action))?.[1];
  const at = phase ? PHASES.indexOf(phase) : -1;
  PHASES.forEach((id, number) => {
    if (number < at) byId(id).value = 1;
  });
  if (at >= 0 && total) byId(phase).value = bytes / total;
  say(message.action);
  if (!made) return;
  PHASES.forEach(id => byId(id).value = 1);
  say(`${made} ${texts.done}`);
  byId("run").textContent = `ollama run ${made}`;
  byId("run").hidden = false;
}

function run(method, url, body, again) {
  running?.abort();
  const request = running = open(method, url + "?verbose=1");
  const started = performance.now();
  byId("task").hidden = false;
  byId("run").hidden = true;
  byId("log").textContent = "";
  byId("cancel").disabled = false;
  PHASES.forEach(id => byId(id).value = body instanceof FormData ? 0 : Number(id < "f"));
  say("");
  request.upload.onprogress = event => showUpload(event, started);
  request.upload.onload = () => byId("upload").value = 1;
  request.onprogress = () => showLines(request.responseText);
  request.onload = () => {
    if (request.status === 401 && askForKey()) return again();
    showLines(request.responseText);
  };
  request.onerror = () => say(texts.lost, true);
  request.onabort = () => say(texts.cancelled);
  request.onloadend = () => {
    byId("cancel").disabled = true;
    refresh();
  };
  if (!(body instanceof FormData)) request.setRequestHeader("Content-Type", "application/json");
  request.send(body);
}

function deploy() {
  const fields = new FormData(form);
  for (const [name, value] of [...fields]) if (value === "") fields.delete(name);
  run("POST", "/models/deploy/", fields, deploy);
}

function create(model) {
  const name = prompt(texts.ask_name, model);
  const body = JSON.stringify({ model, model_name_on_ollama: name });
  if (name) run("POST", "/models/create/", body, () => create(model));
}

function remove(model) {
  if (prompt(`${texts.ask_delete} ${model}`) !== model) return;
  run("DELETE", "/models/", JSON.stringify({ model }), () => remove(model));
}

async function showModelfile(model) {
  const answer = await ask(`/models/${encodeURIComponent(model)}/modelfile`);
  byId("modelfile").textContent = await answer.text();
  byId("modelfile").hidden = false;
}

function button(text, model, action) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.setAttribute("aria-label", `${text} ${model}`);
  made.addEventListener("click", () => action(model));
  return made;
}

function modelRow({ model, kind, architecture, quantization, size, created_at: created }) {
  const row = document.createElement("tr");
  const date = created ? new Date(created).toLocaleString() : "";
  for (const text of [model, kind, architecture, quantization, inUnits(size), date]) {
    row.insertCell().textContent = text ?? "";
  }
  const cell = row.insertCell();
  cell.append(button(texts.create, model, create), button(texts.modelfile, model, showModelfile));
  cell.append(button(texts.delete, model, remove));
  return row;
}

async function refresh() {
  const answers = await Promise.all([ask("/models/?verbose=1"), ask("/tasks/")]);
  byId("shelf").hidden = !answers.every(answer => answer.ok);
  if (byId("shelf").hidden) return;
  const models = linesOf(await answers[0].text());
  byId("models").replaceChildren(...models.map(line => modelRow(line.message.details)));
  const { tasks } = await answers[1].json();
  byId("tasks").replaceChildren(...tasks.slice(0, 10).map(task => {
    const item = document.createElement("li");
    item.textContent = [task.started, task.model, task.action, task.state].filter(Boolean).join(" · ");
    return item;
  }));
  if (!tasks.length) byId("tasks").textContent = texts.none;
}

async function choose(file) {
  const entries = await listing(file);
  const names = entries?.map(entry => entry.name).filter(name => !name.endsWith("/"));
  let problem = "";
  if (!entries) problem = texts.not_zip;
  else if (entries.some(entry => entry.encrypted)) problem = texts.encrypted;
  else if (!names.some(name => /\.(gguf|safetensors)$/i.test(name))) problem = texts.no_model;
  const shown = names?.slice(0, 8).join(", ") + (names?.length > 8 ? ", …" : "");
  byId("listing").textContent = problem || `${texts.holds}: ${shown}`;
  byId("listing").className = problem ? "error" : "";
  byId("zip").setCustomValidity(problem);
  if (!byId("name").value) {
    byId("name").value = file.name.replace(/\.zip$/i, "").replace(/[^\w.-]+/g, "-");
  }
}

form.addEventListener("submit", event => {
  event.preventDefault();
  deploy();
});
byId("zip").addEventListener("change", event => choose(event.target.files[0]));
byId("cancel").addEventListener("click", () => running.abort());
document.addEventListener("dragover", event => event.preventDefault());
document.addEventListener("drop", event => {
  event.preventDefault();
  if (!event.dataTransfer.files.length) return;
  byId("zip").files = event.dataTransfer.files;
  choose(byId("zip").files[0]);
});
refresh();
setInterval(() => document.hidden || refresh(), 5000);
