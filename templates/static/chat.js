// A chat with a model on Ollama, each word as it comes.

import { byId, made } from "./dom.js";
import { askJson, linesOf } from "./service.js";
import { _, language } from "./text.js";

const FAR_PX = 40;
const talks = new Map();  // by model: what was said, as Ollama takes it
const rate = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });
let model = "";
let stop = null;

const log = byId("chat");

// Follows what is written, unless somebody has scrolled back to read.
function keepingEnd(change) {
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < FAR_PX;
  change();
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

function add(className, text = "") {
  const element = made("div", { className, dir: "auto" }, text);
  keepingEnd(() => log.append(element));
  return element;
}

function setAsking(controller) {
  stop = controller;
  byId("ask").hidden = Boolean(controller);
  byId("stop").hidden = !controller;
  log.setAttribute("aria-busy", Boolean(controller));
}

function options() {
  const temperature = byId("chat-temperature").value;
  const words = byId("chat-stop").value.split(",").map(word => word.trim()).filter(Boolean);
  return { ...temperature && { temperature: Number(temperature) }, ...words.length && { stop: words } };
}

function request(messages) {
  const system = byId("chat-system").value.trim();
  const first = system ? [{ role: "system", content: system }] : [];
  return { model, messages: [...first, ...messages], options: options() };
}

function showSpeed(tokens, seconds) {
  byId("trial-speed").textContent = seconds > 0 ? _("%(rate)s tokens/s", { rate: rate.format(tokens / seconds) }) : "";
}

// Shows an answer's lines as they come; what they say in all is `text`.
function listener() {
  const started = performance.now();
  let thought = null, answer = null, count = 0;
  const heard = { text: "", isEnded: false };
  const put = (element, text) => keepingEnd(() => element.append(text));
  heard.take = line => {
    const { content = "", thinking = "" } = line.message ?? {};
    if (thinking) put(thought ??= add("thought"), thinking);
    if (content) put(answer ??= add("answer"), content);
    heard.text += content;
    if (content || thinking) showSpeed(++count, (performance.now() - started) / 1000);
    if (line.error) add("note error", line.error);
    if (!line.done) return;
    heard.isEnded = true;
    if (line.eval_count && line.eval_duration) showSpeed(line.eval_count, line.eval_duration / 1e9);
    if (line.done_reason === "length") add("note", _("Stopped at its longest length."));
    else if (!heard.text) add("note", _("The model said nothing."));
  };
  return heard;
}

async function answerTo(messages, heard) {
  const answer = await askJson("/ollama/chat", request(messages), { signal: stop.signal });
  if (answer.ok) {
    for await (const line of linesOf(answer)) heard.take(JSON.parse(line));
    return;
  }
  const { error, hint } = (await answer.json()).message.details;
  add("note error", [error, hint].filter(Boolean).join(" "));
}

async function say(text) {
  const talk = talks.get(model);
  const controller = new AbortController();
  const heard = listener();
  const isHere = () => stop === controller;
  setAsking(controller);
  add("asked", text);
  talk.push({ role: "user", content: text });
  try {
    await answerTo(talk, heard);
  } catch (error) {
    if (isHere()) add("note", error.name === "AbortError" ? _("Stopped.") : _("The connection was lost."));
  }
  // Without an answer the question is asked anew with the next one.
  if (heard.text) talk.push({ role: "assistant", content: heard.text });
  else talk.pop();
  if (isHere()) setAsking(null);
}

function leave() {
  stop?.abort();
  setAsking(null);
  log.replaceChildren();
  byId("trial-speed").textContent = "";
}

// Shows the chat with a model, without taking anybody to it.
export function offerTrial(name) {
  if (model !== name) {
    leave();
    model = name;
    talks.set(name, talks.get(name) ?? []);
    for (const { role, content } of talks.get(name)) add(role === "user" ? "asked" : "answer", content);
  }
  byId("trial-model").textContent = name;
  byId("trial").hidden = false;
}

// The same, and goes there.
export function tryOut(name) {
  offerTrial(name);
  byId("trial").scrollIntoView({ block: "center" });
  byId("prompt").focus({ preventScroll: true });
}

byId("question").addEventListener("submit", event => {
  event.preventDefault();
  const text = byId("prompt").value.trim();
  if (!text || stop) return;
  byId("prompt").value = "";
  say(text);
});
byId("prompt").addEventListener("keydown", event => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("question").requestSubmit();
});
byId("stop").addEventListener("click", () => {
  stop.abort();
  byId("prompt").focus();
});
byId("trial-anew").addEventListener("click", () => {
  leave();
  talks.set(model, []);
  byId("prompt").focus();
});
byId("trial-close").addEventListener("click", () => {
  leave();
  model = "";
  byId("trial").hidden = true;
});
