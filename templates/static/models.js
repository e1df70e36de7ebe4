// The models that are stored: found, put in order, shown a page at a time.

import { run } from "./activity.js";
import { tryOut } from "./chat.js";
import { create } from "./create.js";
import { inDays, inFull } from "./dates.js";
import { byId, confirmed, icon, made, memory } from "./dom.js";
import { on } from "./feed.js";
import { closePanel, openPanel, pathOf, tags } from "./model.js";
import { whereOnOllama } from "./places.js";
import { addressOf, hasKey } from "./service.js";
import { _, inUnits, language, ngettext } from "./text.js";

const PAGE_ROWS = 50;
const STATES = ["model-table", "models-loading", "no-models", "none-found", "models-closed", "models-failed"];
const collator = new Intl.Collator(language, { numeric: true });
const ORDERS = {
  name: (one, other) => collator.compare(one.model, other.model),
  size: (one, other) => (other.size ?? 0) - (one.size ?? 0) || ORDERS.name(one, other),
  date: (one, other) => (other.created_at ?? "").localeCompare(one.created_at ?? "") || ORDERS.name(one, other),
};
const isNewList = memory();
let models = null;
let rows = new Map();  // by model, those that are shown
let state = "loading";
let page = 0;

// One word of a shell's line, whatever it holds.
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

async function remove({ model, size }) {
  byId("delete-model").textContent = model;
  byId("delete-said").textContent = _("This frees %(size)s. What was made of it stays on Ollama.", { size: inUnits(size ?? 0) });
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
  const address = addressOf(`${pathOf(model)}/download`);
  if (!hasKey()) return location.assign(address);
  const url = location.origin + address;
  byId("download-line").textContent = `curl -H "X-API-Key: $API_KEY" -o ${quoted(`${model}.zip`)} ${quoted(url)}`;
  byId("download-dialog").showModal();
}

const DETAILS = ["info-circle", _("Details"), showModel];
const TRY = ["chat-dots", _("Try"), ({ last_create: last }) => tryOut(last.model_name_on_ollama)];
const OTHERS = [
  ["plus-lg", _("Create"), facts => create(facts)],
  ["download", _("Download"), download],
  ["trash", _("Delete"), remove],
];

function actionsOf(facts) {
  return isOnOllama(facts) ? [TRY, ...OTHERS] : OTHERS;
}

function showModel(facts) {
  const buttons = actionsOf(facts).map(([image, text, act]) => {
    const button = made("button", { type: "button", className: "btn btn-sm btn-outline-secondary" }, icon(image), " ", text);
    button.addEventListener("click", () => {
      closePanel();
      act(facts);
    });
    return button;
  });
  openPanel(facts, buttons, earlier => {
    closePanel();
    create(facts, earlier);
  });
}

function isOnOllama({ last_create: last }) {
  return Boolean(last) && whereOnOllama(last.model_name_on_ollama).places.length > 0;
}

function menuItem(facts, [image, text, act]) {
  const item = made("button", { type: "button", className: "dropdown-item" }, icon(image, "me-2"), text);
  item.setAttribute("aria-label", `${text} ${facts.model}`);
  item.addEventListener("click", () => act(facts));
  return made("li", {}, item);
}

// A thousand menus would be a thousand too many: one is made when it is opened, before Bootstrap
// looks for what is in it.
function fillMenu(event) {
  const button = event.target.closest?.("#models [data-bs-toggle=dropdown]");
  if (!button) return;
  const facts = models.find(({ model }) => model === button.dataset.model);
  const items = [DETAILS, ...actionsOf(facts)].map(action => menuItem(facts, action));
  button.nextElementSibling.replaceChildren(...items);
}

function place({ last_create: last }) {
  if (!last) return made("span", { className: "text-body-secondary" }, _("not yet"));
  const name = last.model_name_on_ollama;
  const { places, isUnknown, isSilent, several } = whereOnOllama(name);
  const isThere = places.length > 0;
  const colour = isThere ? "good" : isUnknown ? "unknown" : "dot-empty";
  const hosts = places.map(({ url }) => new URL(url).host).join(", ");
  const unknown = isSilent && _("unknown: Ollama doesn't answer");
  const said = isThere ? several && hosts : isUnknown ? unknown : _("no longer there");
  return made("span", {}, made("span", { className: `dot ${colour}` }), " ", made("bdi", {}, name),
    said && made("span", { className: "small text-body-secondary d-block" }, said));
}

function nextStep(facts) {
  const { last_create: last } = facts;
  if (last && (isOnOllama(facts) || whereOnOllama(last.model_name_on_ollama).isUnknown)) return null;
  const button = made("button", { type: "button", className: "btn btn-sm btn-soft me-1" }, _("Create"));
  button.setAttribute("aria-label", _("Create %(model)s on Ollama", { model: facts.model }));
  button.addEventListener("click", () => create(facts));
  return button;
}

function row(facts) {
  const { model, size, created_at: date } = facts;
  const name = made("button", { type: "button", className: "btn btn-link model-name" }, made("bdi", {}, model));
  name.addEventListener("click", () => showModel(facts));
  const more = made("button", {
    type: "button", className: "btn btn-sm btn-outline-secondary", dataset: { bsToggle: "dropdown", model },
  }, icon("three-dots"));
  more.setAttribute("aria-label", _("Actions for %(model)s", { model }));
  more.setAttribute("aria-expanded", "false");
  const when = date && made("time", { dateTime: date, title: inFull(date) }, inDays(date));
  return made("tr", {},
    made("td", {}, name),
    made("td", {}, place(facts)),
    made("td", {}, ...tags(facts)),
    made("td", { className: "text-end num" }, inUnits(size ?? 0)),
    made("td", { className: "num" }, when),
    made("td", { className: "text-end" }, nextStep(facts),
      made("span", { className: "dropdown" }, more, made("ul", { className: "dropdown-menu dropdown-menu-end" }))));
}

function wordsOf(facts) {
  return [facts.model, facts.architecture, facts.kind, facts.quantization, facts.last_create?.model_name_on_ollama]
    .filter(Boolean).join(" ").toLowerCase();
}

function found() {
  const wanted = byId("model-search").value.toLowerCase().split(/\s+/).filter(Boolean);
  return models
    .filter(facts => wanted.every(word => facts.words.includes(word)))
    .sort(ORDERS[byId("model-order").value]);
}

function showOnly(id) {
  for (const each of STATES) byId(each).hidden = each !== id;
}

// A row that says the same is the same, and so is one whose menu is open: nobody loses what they are
// about to press.
function rowOf(facts) {
  const known = rows.get(facts.model);
  const says = JSON.stringify([facts, facts.last_create && whereOnOllama(facts.last_create.model_name_on_ollama)]);
  if (known && (known.says === says || known.element.querySelector(".dropdown-menu.show"))) return known;
  return { says, element: row(facts), isHeld: known?.element.contains(document.activeElement) };
}

function showRows(shown) {
  const now = shown.map(rowOf), list = byId("models");
  const elements = new Set(now.map(({ element }) => element));
  [...list.children].filter(element => !elements.has(element)).forEach(element => element.remove());
  now.forEach(({ element }, at) => list.children[at] === element || list.insertBefore(element, list.children[at] ?? null));
  now.find(({ isHeld }) => isHeld)?.element.querySelector("[data-bs-toggle]").focus({ preventScroll: true });
  rows = new Map(shown.map(({ model }, at) => [model, { ...now[at], isHeld: false }]));
}

function showPages(count) {
  const first = page * PAGE_ROWS;
  const count_ = new Intl.NumberFormat(language);
  byId("model-pages").hidden = count <= PAGE_ROWS;
  byId("model-range").textContent = _("%(first)s–%(last)s of %(count)s", {
    first: count_.format(first + 1), last: count_.format(Math.min(count, first + PAGE_ROWS)), count: count_.format(count),
  });
  byId("model-before").disabled = page === 0;
  byId("model-after").disabled = first + PAGE_ROWS >= count;
}

function show() {
  byId("models-stale").hidden = state !== "no" || !models;
  byId("model-tools").hidden = byId("model-count").hidden = !models?.length;
  if (state === "key") return showOnly("models-closed");
  if (!models) return showOnly(state === "no" ? "models-failed" : "models-loading");
  const all = found();
  page = Math.max(0, Math.min(page, Math.ceil(all.length / PAGE_ROWS) - 1));
  byId("model-count").textContent = new Intl.NumberFormat(language).format(models.length);
  byId("model-search").placeholder = ngettext("Search %(num)d model", "Search %(num)d models", models.length);
  showOnly(!models.length ? "no-models" : all.length ? "model-table" : "none-found");
  showPages(all.length);
  const shown = all.slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS);
  showRows(shown);
}

function turn(pages) {
  page += pages;
  show();
  byId("models-place").scrollIntoView({ block: "start" });
}

function searchAgain() {
  page = 0;
  show();
}

addEventListener("click", fillMenu, true);
addEventListener("keydown", fillMenu, true);
byId("models").addEventListener("hidden.bs.dropdown", () => show());
byId("model-search").addEventListener("input", searchAgain);
byId("model-order").addEventListener("change", searchAgain);
byId("search-all").addEventListener("click", () => {
  byId("model-search").value = "";
  searchAgain();
  byId("model-search").focus();
});
byId("model-before").addEventListener("click", () => turn(-1));
byId("model-after").addEventListener("click", () => turn(1));
byId("typed-name").addEventListener("input", checkTyped);
document.addEventListener("edit-modelfile", event => {
  const facts = models?.find(({ model }) => model === event.detail);
  if (facts) create(facts);
});
on("open", found => {
  state = found;
  show();
});
on("servers", show);
on("models", list => {
  if (!isNewList(list)) return;
  models = list.map(facts => ({ ...facts, words: wordsOf(facts) }));
  show();
});
