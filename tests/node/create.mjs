// Send files to Ollama's blobs and create a model, by the package ollama; writes each status line.
// node create.mjs HOST REQUEST [NAME=FILE...]: files and adapters in REQUEST give such names.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { Ollama } from "ollama";

const [host, request, ...named] = process.argv.slice(2);
const digests = {};
for (const each of named) {
  const [name, file] = each.split("=");
  const content = readFileSync(file);
  digests[name] = `sha256:${createHash("sha256").update(content).digest("hex")}`;
  const url = `${host}/api/blobs/${digests[name]}`;
  if ((await fetch(url, { method: "HEAD" })).status === 200) continue;
  const sent = await fetch(url, { method: "POST", body: content });
  if (sent.status !== 201) throw new Error(await sent.text());
}
const body = JSON.parse(request);
for (const field of ["files", "adapters"]) {
  for (const name in body[field] ?? {}) body[field][name] = digests[body[field][name]];
}
try {
  const ollama = new Ollama({ host });
  if (body.stream) {
    for await (const line of await ollama.create(body)) console.log(JSON.stringify(line));
  } else {
    console.log(JSON.stringify(await ollama.create(body)));
  }
} catch (error) {
  console.log(JSON.stringify({ error: error.message, status: error.status_code }));
}
