// The beginnings of files, which say what they are: all that the service needs in order to tell what
// it would make of them. A file is {name, size, start(count)}.

const MOST_BYTES = 15 * 2 ** 20, SMALL_BYTES = 2 ** 20, FIRST_BYTES = 2 ** 16;
const SMALL = new RegExp(
  "(^|/)((adapter_|generation_|tokenizer_)?config|special_tokens_map|added_tokens)\\.json$" +
  "|\\.index\\.json$|\\.jinja$|(^|/)modelfile(\\.txt)?$", "i");
const HIDDEN = /(^|\/)(\.|__MACOSX\/)/;

// Bytes of a GGUF's value types; 8 is a string and 9 an array. Source: the GGUF specification.
const VALUE_BYTES = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];

// Walks a GGUF's header; throws RangeError where it goes on behind the bytes that are there.
class Walk {
  constructor(bytes) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = 8;
  }

  count() {
    this.at += 8;
    return Number(this.view.getBigUint64(this.at - 8, true));
  }

  kind() {
    this.at += 4;
    return this.view.getUint32(this.at - 4, true);
  }

  string() {
    this.at += this.count();
  }

  value(kind) {
    if (kind > 12) throw new RangeError();
    if (kind === 8) return this.string();
    if (kind !== 9) return void (this.at += VALUE_BYTES[kind]);
    const inner = this.kind(), count = this.count();
    if (inner > 12) throw new RangeError();
    if (inner !== 8 && inner !== 9) return void (this.at += VALUE_BYTES[inner] * count);
    for (let number = 0; number < count; number++) this.value(inner);
  }

  end() {
    const tensors = this.count(), keys = this.count();
    for (let number = 0; number < keys; number++) {
      this.string();
      this.value(this.kind());
    }
    for (let number = 0; number < tensors; number++) {
      this.string();
      this.at += 8 * this.kind() + 12;
    }
    if (this.at > this.view.byteLength) throw new RangeError();
    return this.at;
  }
}

async function ggufHead({ size, start }, most) {
  for (let count = FIRST_BYTES; ; count *= 4) {
    const bytes = await start(Math.min(count, size, most));
    try {
      return bytes.subarray(0, new Walk(bytes).end());
    } catch (error) {
      if (!(error instanceof RangeError) || count >= Math.min(size, most)) return bytes;
    }
  }
}

async function safetensorsHead({ size, start }, most) {
  const length = await start(8);
  if (length.byteLength < 8) return length;
  const view = new DataView(length.buffer, length.byteOffset, 8);
  return start(Math.min(8 + Number(view.getBigUint64(0, true)), size, most));
}

function headOf(file, most) {
  if (/\.gguf$/i.test(file.name)) return ggufHead(file, most);
  if (/\.safetensors$/i.test(file.name)) return safetensorsHead(file, most);
  return SMALL.test(file.name) && file.size <= SMALL_BYTES ? file.start(file.size) : new Uint8Array();
}

// The body that /models/preview/ takes; null where the beginnings are larger than it takes.
export async function headsOf(files, options) {
  const listed = [], heads = [];
  let left = MOST_BYTES;
  for (const file of files.filter(({ name }) => !HIDDEN.test(name))) {
    const head = await headOf(file, left);
    left -= head.byteLength;
    if (left <= 0) return null;
    listed.push({ name: file.name, size: file.size, head: head.byteLength });
    heads.push(head);
  }
  return new Blob([JSON.stringify({ ...options, files: listed }) + "\n", ...heads]);
}
