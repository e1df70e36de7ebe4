// The models that are stored, and what can be done with each.

import { CREATE_PHASES, run } from "./activity.js";
import { offerTrial } from "./chat.js";
import { byId, confirmed, made, memory } from "./dom.js";
import { on } from "./feed.js";
import { isOnOllama } from "./ollama.js";
import { ask, hasKey } from "./service.js";
import { _, inName, inShort, inUnits, language } from "./text.js";

const pathOf = model => `/models/${encodeURIComponent(model)}`;
const hasChanged = memory();
let models = null;
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
  byId("typed-name").setCustomValidity(isRight ? "" : _("Type the model's name to delete it"));
}

// A browser's own download can't carry the key.
function download({ model }) {
  if (!hasKey()) return location.assign(`${pathOf(model)}/download`);
  const url = `${location.origin}${pathOf(model)}/download`;
  byId("download-line").textContent = `curl -H "X-API-Key: $API_KEY" -o ${quoted(`${model}.zip`)} ${quoted(url)}`;
  byId("download-dialog").showModal();
}

function button(text, facts, action) {
  const element = made("button", { type: "button", className: "btn btn-sm btn-outline-secondary" }, text);
  element.setAttribute("aria-label", `${text} ${facts.model}`);
  element.addEventListener("click", () => action(facts));
  return element;
}

function nameOnOllama({ last_create: last }) {
  return last && isOnOllama(last.model_name_on_ollama) ? last.model_name_on_ollama : "";
}

function row(facts) {
  const { model, kind, architecture, quantization, size, name } = facts;
  const parameters = facts.parameter_count ? inShort(facts.parameter_count) : "";
  const date = facts.created_at ? new Date(facts.created_at).toLocaleDateString(language) : "";
  const actions = made("div", { className: "d-flex gap-1 mt-1" }, button(_("Create"), facts, create));
  if (name) actions.append(button(_("Try"), facts, () => offerTrial(name)));
  actions.append(button(_("Download"), facts, download), button(_("Delete"), facts, remove));
  return made("tr", {},
    made("th", { scope: "row", className: "name" }, model, actions),
    ...[name, kind, architecture, parameters, quantization, inUnits(size), date]
      .map(text => made("td", { className: "num" }, text ?? "")));
}

function show() {
  if (models === null) return;
  const rows = models.map(facts => ({ ...facts, name: nameOnOllama(facts) }));
  if (!hasChanged(rows)) return;
  byId("models").replaceChildren(...rows.map(row));
  byId("no-models").hidden = rows.length > 0;
}

byId("typed-name").addEventListener("input", checkTyped);
on("open", state => byId("models-place").hidden = state !== "yes");
on("servers", show);
on("models", found => {
  models = found;
  show();
});
