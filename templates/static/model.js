// One model in full: what it is, its files, its Modelfile, what was made of it.

import { inFull, inSeconds } from "./dates.js";
import { byId, icon, made } from "./dom.js";
import { hasSeveralServers } from "./ollama.js";
import { ask } from "./service.js";
import { _, inShort, inUnits, language } from "./text.js";

const MARKS = {
  succeeded: ["check-circle-fill", "good", _("succeeded")],
  failed: ["x-circle-fill", "text-danger", _("failed")],
  stopped: ["pause-circle-fill", "careful", _("stopped")],
};
let asked = 0;

export const pathOf = model => `/models/${encodeURIComponent(model)}`;

function tag(text, className = "tag") {
  return made("span", { className: `badge ${className} me-1` }, text);
}

// What it is, in a few words.
export function tags({ architecture, kind, quantization, parameter_count: count, last_create: last, problem, problems }) {
  const parts = (kind ?? "").split("+");
  const made_ = last?.converted?.quantize;
  const wrong = problem ? 1 : problems?.length ?? 0;
  return [
    architecture && made("span", { className: "architecture me-2" }, [architecture, count && inShort(count)].filter(Boolean).join(" ")),
    parts.includes("adapter") && tag(last?.adapter === "merged" ? _("LoRA, merged") : "LoRA"),
    parts.includes("projector") && tag(_("Images")),
    parts.includes("base") && quantization && tag(made_ && made_ !== quantization ? `${quantization} → ${made_}` : quantization),
    wrong > 0 && tag(wrong === 1 ? _("1 problem") : _("%(count)s problems", { count: wrong }), "tag-warning"),
  ].filter(Boolean);
}

function part(title, ...content) {
  return [made("h3", {}, title), ...content];
}

function listed(facts) {
  return made("dl", {}, ...facts.flatMap(([title, value]) => value
    ? [made("dt", {}, title), made("dd", { className: "num" }, value)] : []));
}

function fileItem({ name, kind, size, sha256 }) {
  return made("li", {},
    made("span", { className: "name" }, made("bdi", {}, name), " ", kind !== "other" && tag(kind)),
    made("span", { className: "num text-nowrap" }, inUnits(size)),
    made("code", { className: "digest small text-body-secondary" },
      sha256 ? `sha256:${sha256}` : _("digest not known yet")));
}

function problemList(problems) {
  return made("div", { className: "alert alert-warning" }, icon("exclamation-triangle-fill", "me-2"),
    problems.length === 1 ? problems[0] : made("ul", { className: "mb-0" }, ...problems.map(text => made("li", {}, text))));
}

const asText = value => typeof value === "object" ? JSON.stringify(value) : String(value);

function createItem(create, facts, again) {
  const [image, colour, said] = MARKS[create.state] ?? MARKS.stopped;
  const options = Object.entries(create.options ?? {}).filter(([, value]) => value !== null);
  const mark = made("span", { className: colour }, icon(image), made("span", { className: "visually-hidden" }, said));
  const isEarlier = facts.created_at !== create.uploaded_at;
  const button = made("button", { type: "button", className: "btn btn-sm btn-outline-secondary" },
    icon("arrow-repeat"), " ", _("Create again…"));
  button.addEventListener("click", () => again(create));
  return made("li", {}, mark, made("div", {},
    made("div", { className: "name fw-semibold" }, made("bdi", {}, create.model_name_on_ollama)),
    made("div", { className: "small text-body-secondary num" }, [
      inFull(create.at), inSeconds(create.seconds), create.adapter === "merged" && _("adapter merged"),
      create.converted?.quantize, create.edited && _("Modelfile edited"), isEarlier && _("of an earlier upload"),
      hasSeveralServers() && (create.servers ?? []).map(url => new URL(url).host).join(", "),
    ].filter(Boolean).join(" · ")),
    create.error && made("div", { className: "small error name" }, create.error),
    options.length > 0 && made("div", { className: "mt-1" }, ...options.map(([name, value]) =>
      made("span", { className: "badge tag me-1 text-wrap text-break text-start" }, `${name}: ${asText(value)}`))),
    made("details", { className: "small mt-1" }, made("summary", {}, _("Its Modelfile")),
      made("pre", { tabIndex: 0, className: "mt-2" }, create.modelfile ?? _("It was too long to be kept."))),
    made("div", { className: "mt-2" }, button)));
}

function showReport(report, modelfile, again) {
  const { files, problems, creates = [] } = report;
  const number = new Intl.NumberFormat(language);
  byId("panel-kind").replaceChildren(...tags({ ...report, problems: [] }));
  const copy = made("button", { type: "button", className: "btn btn-sm btn-outline-secondary" }, icon("clipboard"), " ", _("Copy"));
  const text = made("pre", { tabIndex: 0, className: "mb-2", dir: "ltr" }, modelfile);
  copy.addEventListener("click", () => {
    getSelection().selectAllChildren(text);
    document.execCommand("copy");
    copy.lastChild.textContent = _("Copied");
  });
  byId("panel-said").replaceChildren(
    ...problems.length ? [problemList(problems)] : [],
    listed([
      [_("Parameters"), report.parameter_count && number.format(report.parameter_count)],
      [_("Context length"), report.context_length && number.format(report.context_length)],
      [_("Quantisation"), report.quantization],
      [_("Template"), report.template && made("span", {}, report.template,
        made("span", { className: "d-block small text-body-secondary" }, report.template_reason))],
      [_("Uploaded"), report.created_at && inFull(report.created_at)],
      [_("Size"), inUnits(files.reduce((total, file) => total + file.size, 0))],
    ]),
    ...part(_("Made on Ollama"), creates.length
      ? made("ol", { className: "creates" }, ...creates.map(create => createItem(create, report, again)))
      : made("p", { className: "text-body-secondary" }, _("Not yet."))),
    ...modelfile ? part(_("Modelfile"), text, copy) : [],
    ...part(_("Files"), made("ul", { className: "files" }, ...files.map(fileItem))));
}

function fail(said, retry) {
  const button = made("button", { type: "button", className: "btn btn-sm btn-outline-danger ms-2" }, _("Try again"));
  button.addEventListener("click", retry);
  byId("panel-failed").replaceChildren(said, button);
  byId("panel-failed").hidden = false;
}

async function load(model, again) {
  const number = ++asked;
  byId("panel-loading").hidden = false;
  byId("panel-failed").hidden = true;
  byId("panel-said").replaceChildren();
  let failure = "";
  try {
    const answers = await Promise.all([ask(`${pathOf(model)}/?verbose=1`), ask(`${pathOf(model)}/modelfile`)]);
    if (number !== asked) return;
    const [report, modelfile] = await Promise.all([answers[0].json(), answers[1].text()]);
    if (number !== asked) return;
    if (answers[0].ok) showReport(report, answers[1].ok ? modelfile : "", again);
    else failure = [report.message.details.error, report.message.details.hint].filter(Boolean).join(" ");
  } catch {
    failure = _("The connection was lost.");
  }
  if (number !== asked) return;
  byId("panel-loading").hidden = true;
  if (failure) fail(failure, () => load(model, again));
}

// Opens the panel; `actions` are buttons for it, `again` makes a create of the history once more.
export function openPanel(facts, actions, again) {
  byId("panel-title").replaceChildren(made("bdi", {}, facts.model));
  byId("panel-kind").replaceChildren(...tags(facts));
  byId("panel-actions").replaceChildren(...actions);
  bootstrap.Offcanvas.getOrCreateInstance(byId("model-panel")).show();
  load(facts.model, again);
}

byId("model-panel").addEventListener("hidden.bs.offcanvas", () => {
  if (document.activeElement !== document.body) return;
  const names = [...document.querySelectorAll(".model-name")];
  names.find(name => name.textContent === byId("panel-title").textContent)?.focus();
});

export function closePanel() {
  bootstrap.Offcanvas.getInstance(byId("model-panel"))?.hide();
}
