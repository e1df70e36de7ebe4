// One prompt to a model on Ollama; its answer appears as it comes.

import { byId } from "./dom.js";
import { askJson } from "./service.js";
import { _ } from "./text.js";

let model = "";
let stop = null;

function clear() {
  byId("answer").textContent = byId("thinking").textContent = "";
  byId("answer").classList.remove("text-danger");
}

export function offerTrial(name) {
  stop?.abort();
  model = name;
  byId("trial-model").textContent = name;
  clear();
  byId("trial").hidden = false;
}

function show({ response = "", thinking = "", error = "" }) {
  byId("thinking").textContent += thinking;
  byId("answer").textContent += response + error;
  if (error) byId("answer").classList.add("text-danger");
}

async function read(stream) {
  let rest = "";
  for (const reader = stream.pipeThrough(new TextDecoderStream()).getReader();;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    lines.map(line => show(JSON.parse(line)));
  }
}

async function generate() {
  stop = new AbortController();
  const answer = await askJson(
    "/ollama/generate", { model, prompt: byId("prompt").value }, { signal: stop.signal });
  if (answer.ok) return read(answer.body);
  show({ error: (await answer.json()).message.details.error });
}

byId("question").addEventListener("submit", async event => {
  event.preventDefault();
  stop?.abort();
  clear();
  byId("stop").disabled = false;
  try {
    await generate();
  } catch (error) {
    if (error.name !== "AbortError") show({ error: _("The connection was lost.") });
  } finally {
    byId("stop").disabled = true;
  }
});
byId("stop").addEventListener("click", () => stop.abort());
