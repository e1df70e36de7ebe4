// Upload a file by tus-js-client, and write as JSON what became of it.
// node tus.mjs FILE '{"stopAt": bytes, "terminate": true, ...options of tus-js-client}'

import { createReadStream, statSync } from "node:fs";
import { Upload } from "tus-js-client";

const [file, options] = process.argv.slice(2);
const { stopAt = Infinity, terminate = false, ...own } = JSON.parse(options);
const heard = { retries: 0, resumedAt: null, sent: 0 };

function end(result) {
  console.log(JSON.stringify({ ...heard, url: upload.url, ...result }));
  process.exit(0);
}

const upload = new Upload(createReadStream(file), {
  retryDelays: Array(20).fill(20),
  uploadSize: statSync(file).size,
  ...own,
  chunkSize: own.chunkSize ?? Infinity,
  onShouldRetry(error, attempt, options) {
    heard.retries += 1;
    const status = error.originalResponse?.getStatus() ?? 0;
    return status < 400 || status === 409 || status === 423 || status >= 500;
  },
  onAfterResponse(request, response) {
    if (request.getMethod() === "HEAD") heard.resumedAt = Number(response.getHeader("Upload-Offset"));
  },
  onProgress(sent) {
    heard.sent = Math.max(heard.sent, sent);
  },
  async onChunkComplete(size, accepted) {
    if (accepted < stopAt) return;
    await upload.abort(terminate);
    end({ stoppedAt: accepted });
  },
  onError: error => end({ error: String(error), status: error.originalResponse?.getStatus() }),
  onSuccess: () => end({ done: true }),
});
// tus-js-client 4 never hears of an answer that is cut off within its body.
process.on("beforeExit", async () => {
  heard.retries += 1;
  await upload.abort();
  upload.start();
});
upload.start();
