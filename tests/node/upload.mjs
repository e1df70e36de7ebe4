// Upload a file by tus-js-client, and write the upload's address.
// node upload.mjs ENDPOINT FILE NAME CHUNK_BYTES

import { createReadStream } from "node:fs";
import { Upload } from "tus-js-client";

const [endpoint, file, filename, chunk] = process.argv.slice(2);
const upload = new Upload(createReadStream(file), {
  endpoint,
  chunkSize: Number(chunk),
  metadata: { filename },
  retryDelays: [0, 100, 200, 400],
  onError(error) {
    console.error(String(error));
    process.exit(1);
  },
  onSuccess() {
    console.log(upload.url);
  },
});
upload.start();
