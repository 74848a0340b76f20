/**
 * Runs one model, away from the page's thread. esbuild makes ../build/worker.js of this
 * file, a classic worker: LiteRT.js loads its WebAssembly with importScripts, which
 * modules do not have, and workers know no import maps.
 */

import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";

import { checkTakesPhotographs, readModelFile } from "./model_file.js";
import { resizeAndCrop } from "./resize.js";

// Next to the page, which the server serves LiteRT.js' own files under.
const RUNTIME = new URL("../litert/", self.location.href).href;
// iPhones give no larger canvas.
const LARGEST_CANVAS = 16_000_000;

let model;
let description;

const methods = {
  /**
   * @param {string | Blob} source - where the file is, or the file.
   * @param {"wasm" | "webgpu"} accelerator
   */
  async load(source, accelerator) {
    const content = await read(source);
    description = await readModelFile(content);
    checkTakesPhotographs(description);
    if (accelerator === "webgpu") await checkWebGpu();

    const threads = self.crossOriginIsolated;
    // LiteRT.js would look for its files, and its threads' program, beside this one.
    self.Module = {
      locateFile: (name) => RUNTIME + name,
      mainScriptUrlOrBlob: `${RUNTIME}litert_wasm_threaded_internal.js`,
    };
    await loadLiteRt(RUNTIME, { threads });
    model = await loadAndCompile(content, {
      accelerator,
      // In float16 some of the models' activations overflow.
      gpuOptions: { precision: "fp32" },
    });
    if (accelerator === "webgpu" && !model.isFullyAccelerated) {
      throw new Error("WebGPU does not take this model as a whole: use WebAssembly.");
    }
    // The first run compiles shaders and packs weights.
    const [, size] = description.input.shape;
    await run(new Uint8Array(size * size * 3));
    return {
      ...description,
      size: content.length,
      threads: threads ? navigator.hardwareConcurrency : 1,
    };
  },

  /**
   * @param {ImageBitmap} bitmap
   * @returns probabilities, and milliseconds of the model alone.
   */
  async classify(bitmap) {
    const image = pixels(bitmap);
    bitmap.close();
    const [, size] = description.input.shape;
    const input = resizeAndCrop(image, size, description.transform);
    const start = performance.now();
    const scores = await run(input);
    const milliseconds = performance.now() - start;
    return { ...probabilities(scores), milliseconds };
  },
};

async function read(source) {
  if (source instanceof Blob) return new Uint8Array(await source.arrayBuffer());
  const response = await fetch(source);
  if (!response.ok) throw new Error(`The server has no ${source}: ${response.status}.`);
  return new Uint8Array(await response.arrayBuffer());
}

async function checkWebGpu() {
  if (!(await navigator.gpu?.requestAdapter())) {
    throw new Error("This browser has no WebGPU here: use WebAssembly.");
  }
}

/** Width, height and RGBA bytes; what is transparent is laid on white. */
function pixels(bitmap) {
  const scale = Math.min(1, Math.sqrt(LARGEST_CANVAS / (bitmap.width * bitmap.height)));
  const width = Math.max(1, Math.floor(bitmap.width * scale));
  const height = Math.max(1, Math.floor(bitmap.height * scale));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** The model's output for RGB bytes, as numbers. */
async function run(bytes) {
  const { input, output } = description;
  const data = input.type === "float32" ? Float32Array.from(bytes) : bytes;
  const tensor = new Tensor(data, input.shape);
  const results = await model.run(tensor);
  const values = Float32Array.from(await results[0].data());
  // LiteRT.js leaves memory to its users.
  for (const each of [tensor, ...results]) each.delete();
  if (output.type === "float32") return values;
  return values.map((value) => (value - output.zeroPoint) * output.scale);
}

function probabilities(scores) {
  if (!scores.every(Number.isFinite)) {
    throw new Error("The model gave no numbers (NaN or infinity) for this image.");
  }
  let { gives } = description;
  if (gives === null) {
    const sum = scores.reduce((total, score) => total + score, 0);
    const fits = Math.abs(sum - 1) < 0.05 && scores.every((score) => score >= 0);
    gives = fits ? "probabilities" : "logits";
  }
  return { scores: gives === "logits" ? softmax(scores) : scores, gives };
}

function softmax(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const powers = logits.map((logit) => Math.exp(logit - largest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

self.addEventListener("message", async ({ data: { id, method, values } }) => {
  try {
    self.postMessage({ id, result: await methods[method](...values) });
  } catch (error) {
    self.postMessage({ id, error: error?.message ?? String(error) });
  }
});
