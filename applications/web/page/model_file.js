/**
 * Reads what a page needs to know from a .tflite file: input, output, labels.
 *
 * The same rules as in keras_metaformer/export/runner.py: all tables and weights must
 * lie in the file, because a damaged model may crash the runtime instead of raising.
 */

/** A file that is no model which this page can run. */
export class ModelFileError extends Error {}

const TYPES = new Map([
  [0, "float32"],
  [2, "int32"],
  [3, "uint8"],
  [9, "int8"],
]);

// Elements; far beyond any image classifier's. The runtime would try to allocate it.
const LARGEST_TENSOR = 2 ** 28;

/**
 * @param {Uint8Array<ArrayBuffer>} content - the bytes of the file.
 * @returns {Promise<{
 *   input: {shape: number[], type: string},
 *   output: {shape: number[], type: string, scale: number, zeroPoint: number},
 *   labels: string[] | null,
 *   gives: "probabilities" | "logits" | null,
 *   takesPixels: boolean | null,
 *   transform: {cropFraction: number, interpolation: string, squash: boolean},
 * }>} `gives` and `takesPixels` are null where the file does not say.
 * @throws {ModelFileError} if the file is empty, damaged, or no image classifier.
 */
export async function readModelFile(content) {
  if (content.length === 0) {
    throw new ModelFileError("The file is empty.");
  }
  if (String.fromCharCode(...content.subarray(4, 8)) !== "TFL3") {
    throw new ModelFileError(
      "This is no .tflite file: it does not have “TFL3” at byte 4.",
    );
  }
  let tables;
  try {
    tables = readTables(content);
  } catch (error) {
    if (error instanceof ModelFileError) throw error;
    throw new ModelFileError(
      `The .tflite file is damaged or cut off: ${error.message}.`,
    );
  }
  const labels = await readLabels(content);
  const classes = tables.output.shape.at(-1);
  if (labels !== null && labels.length !== classes) {
    throw new ModelFileError(
      `The file has ${labels.length} labels for ${classes} classes.`,
    );
  }
  return { ...tables, labels };
}

function readTables(content) {
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const model = new Table(view, view.getUint32(0, true));
  const graphs = model.tables(2);
  if (graphs.length === 0) throw new RangeError("there is no graph");
  const tensors = graphs[0].tables(0);
  const buffers = model.tables(4).map((buffer) => bufferBytes(buffer, content));
  for (const tensor of tensors) {
    const index = tensor.uint32(2);
    if (index >= buffers.length) throw new RangeError(`there is no buffer ${index}`);
    const shape = tensor.int32s(0);
    if (Math.abs(shape.reduce((a, b) => a * b, 1)) > LARGEST_TENSOR) {
      throw new RangeError(`there is a tensor of shape (${shape.join(", ")})`);
    }
  }
  const operators = model.tables(1).length;
  for (const operator of graphs[0].tables(3)) {
    const kind = operator.uint32(0);
    if (kind >= operators) throw new RangeError(`there is no operator ${kind}`);
    for (const index of [...operator.int32s(1), ...operator.int32s(2)]) {
      if (index < -1 || index >= tensors.length) {
        throw new RangeError(`there is no tensor ${index}`);
      }
    }
  }
  const describe = (field) =>
    graphs[0].int32s(field).map((index) => describeTensor(tensors[index]));
  const inputs = describe(1);
  const outputs = describe(2);
  checkClassifier(inputs, outputs);

  const entry = model.tables(6).find((each) => each.string(0) === "keras_metaformer");
  const about = entry ? JSON.parse(text(buffers[entry.uint32(1)])) : {};
  const transform = about.transform ?? {};
  return {
    input: inputs[0],
    output: outputs[0],
    gives: about.output ?? null,
    takesPixels: inputs[0].type === "uint8" ? true : (about.takes_pixels ?? null),
    transform: {
      cropFraction: transform.crop_fraction ?? 1,
      interpolation: transform.interpolation ?? "bicubic",
      squash: transform.squash ?? false,
    },
  };
}

function checkClassifier(inputs, outputs) {
  const shapes = [...inputs, ...outputs].map(({ shape }) => `(${shape.join(", ")})`);
  const [input, output] = [inputs[0], outputs[0]];
  const fits =
    inputs.length === 1 &&
    outputs.length === 1 &&
    input.shape.length === 4 &&
    input.shape[0] === 1 &&
    output.shape[0] === 1 &&
    Math.min(...input.shape, ...output.shape) > 0 &&
    ["float32", "uint8"].includes(input.type) &&
    ["float32", "uint8"].includes(output.type);
  if (!fits) {
    throw new ModelFileError(
      "A model from one image (1, height, width, channels) to one output " +
        `(1, classes) is needed; this one has tensors of shapes ${shapes.join(", ")}.`,
    );
  }
}

/**
 * Whether photographs can be given to the model.
 * @throws {ModelFileError} if not.
 */
export function checkTakesPhotographs({ input, takesPixels }) {
  const [, height, width, channels] = input.shape;
  if (height !== width || channels !== 3) {
    throw new ModelFileError(
      "A model of square RGB images is needed; this one takes " +
        `${width}×${height} pixels of ${channels} channels.`,
    );
  }
  if (!takesPixels) {
    throw new ModelFileError(
      "The file does not say that it takes pixels 0 to 255, so no photograph can be " +
        "given to it. Export it with the preprocessing: include_preprocessing=True, " +
        "or mean= and std= of to_litert.",
    );
  }
}

function describeTensor(tensor) {
  const shape = tensor.int32s(0);
  const signature = tensor.int32s(7);
  const quantization = tensor.table(4);
  return {
    // -1 in the signature: an axis that is decided at run time.
    shape: signature.length ? signature : shape,
    type: TYPES.get(tensor.uint8(1)) ?? `type ${tensor.uint8(1)}`,
    scale: quantization?.float32s(2)[0] ?? 1,
    zeroPoint: Number(quantization?.int64s(3)[0] ?? 0),
  };
}

function bufferBytes(buffer, content) {
  // Weights may stand behind the tables, found by their place in the file.
  const offset = Number(buffer.uint64(1));
  if (offset <= 1) return buffer.bytes(0);
  const end = offset + Number(buffer.uint64(2));
  if (end > content.length) {
    throw new RangeError(`a weight ends at byte ${end} of ${content.length}`);
  }
  return content.subarray(offset, end);
}

/** A flatbuffer table; fields that are not there read as 0 or empty. */
class Table {
  #view;
  #position;

  constructor(view, position) {
    this.#view = view;
    this.#position = position;
  }

  /** Where the field's value is, or null. */
  #field(index) {
    const fields = this.#position - this.#view.getInt32(this.#position, true);
    const entry = 4 + 2 * index;
    if (entry >= this.#view.getUint16(fields, true)) return null;
    const offset = this.#view.getUint16(fields + entry, true);
    return offset === 0 ? null : this.#position + offset;
  }

  uint8(index) {
    const field = this.#field(index);
    return field === null ? 0 : this.#view.getUint8(field);
  }

  uint32(index) {
    const field = this.#field(index);
    return field === null ? 0 : this.#view.getUint32(field, true);
  }

  uint64(index) {
    const field = this.#field(index);
    return field === null ? 0n : this.#view.getBigUint64(field, true);
  }

  table(index) {
    const field = this.#field(index);
    return field === null ? null : new Table(this.#view, this.#target(field));
  }

  tables(index) {
    return this.#vector(index, 4, (at) => new Table(this.#view, this.#target(at)));
  }

  int32s(index) {
    return this.#vector(index, 4, (at) => this.#view.getInt32(at, true));
  }

  int64s(index) {
    return this.#vector(index, 8, (at) => this.#view.getBigInt64(at, true));
  }

  float32s(index) {
    return this.#vector(index, 4, (at) => this.#view.getFloat32(at, true));
  }

  bytes(index) {
    const field = this.#field(index);
    if (field === null) return new Uint8Array();
    const [start, length] = this.#extent(field, 1);
    return new Uint8Array(this.#view.buffer, this.#view.byteOffset + start, length);
  }

  string(index) {
    return text(this.bytes(index));
  }

  #vector(index, size, read) {
    const field = this.#field(index);
    if (field === null) return [];
    const [start, length] = this.#extent(field, size);
    return Array.from({ length }, (_, i) => read(start + size * i));
  }

  /** Start and length of a vector, which must lie in the file. */
  #extent(field, size) {
    const vector = this.#target(field);
    const length = this.#view.getUint32(vector, true);
    const end = vector + 4 + size * length;
    if (end > this.#view.byteLength) {
      throw new RangeError(
        `a part ends at byte ${end} of ${this.#view.byteLength}`,
      );
    }
    return [vector + 4, length];
  }

  #target(field) {
    return field + this.#view.getUint32(field, true);
  }
}

const END_OF_ARCHIVE = 0x06054b50;
const LONGEST_END = 22 + 0xffff;

/** The labels in the zip archive behind the model, or null. */
async function readLabels(content) {
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  try {
    const files = listArchive(view);
    const file =
      files.find(({ name }) => name === "labels.txt") ??
      files.find(({ name }) => name.endsWith(".txt"));
    if (!file) return null;
    const labels = text(await unpack(view, file)).split(/\r\n|\n|\r/);
    if (labels.at(-1) === "") labels.pop();
    return labels;
  } catch (error) {
    throw new ModelFileError(`The file’s labels cannot be read: ${error.message}.`);
  }
}

function listArchive(view) {
  let end = view.byteLength - 22;
  const first = Math.max(0, view.byteLength - LONGEST_END);
  while (end >= first && view.getUint32(end, true) !== END_OF_ARCHIVE) end--;
  if (end < first) return [];
  const files = [];
  const number = view.getUint16(end + 10, true);
  let entry = view.getUint32(end + 16, true);
  // Where offsets count from the archive's own start and not from the file's.
  const shift = end - view.getUint32(end + 12, true) - entry;
  entry += shift;
  for (let i = 0; i < number; i++) {
    const nameLength = view.getUint16(entry + 28, true);
    files.push({
      name: text(bytesAt(view, entry + 46, nameLength)),
      method: view.getUint16(entry + 10, true),
      size: view.getUint32(entry + 20, true),
      header: view.getUint32(entry + 42, true) + shift,
    });
    entry +=
      46 +
      nameLength +
      view.getUint16(entry + 30, true) +
      view.getUint16(entry + 32, true);
  }
  return files;
}

async function unpack(view, { header, method, size }) {
  const names = view.getUint16(header + 26, true) + view.getUint16(header + 28, true);
  const packed = bytesAt(view, header + 30 + names, size);
  if (method === 0) return packed;
  const stream = new Blob([packed])
    .stream()
    .pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function bytesAt(view, start, length) {
  return new Uint8Array(view.buffer, view.byteOffset + start, length);
}

function text(bytes) {
  return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
}
