/**
 * A model in a worker of its own, from the page's side.
 *
 * A damaged model can end the runtime for good, so each model gets a new worker, and
 * the one in use goes on until the next has loaded.
 */
export class Classifier {
  #worker = new Worker(new URL("build/worker.js", document.baseURI));
  #waiting = new Map();
  #next = 0;

  /**
   * @param {string | Blob} source - where the .tflite file is, or the file.
   * @param {"wasm" | "webgpu"} accelerator
   * @throws {Error} with a message for the user, if the model cannot be run.
   */
  static async load(source, accelerator) {
    const classifier = new Classifier();
    try {
      /** What model_file.js reads, with `size` in bytes and `threads`. */
      classifier.model = await classifier.#call("load", [source, accelerator]);
    } catch (error) {
      classifier.close();
      throw error;
    }
    return classifier;
  }

  /** Use `load`. */
  constructor() {
    this.#worker.addEventListener("message", ({ data: { id, result, error } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) resolve(result);
      else reject(new Error(error));
    });
    this.#worker.addEventListener("error", (event) => {
      event.preventDefault();
      const reason = event.message ?? "its program could not be loaded";
      this.#fail(new Error(`The model's worker stopped: ${reason}`));
    });
  }

  /**
   * @param {ImageBitmap} bitmap - taken over.
   * @param {number} top - how many classes.
   * @returns {Promise<{
   *   classes: {label: string, probability: number}[],
   *   gives: "probabilities" | "logits",
   *   milliseconds: number,
   * }>} the best classes, best first.
   */
  async classify(bitmap, top = 5) {
    const answer = await this.#call("classify", [bitmap], [bitmap]);
    const { scores, gives, milliseconds } = answer;
    const best = Array.from(scores.keys())
      .sort((a, b) => scores[b] - scores[a])
      .slice(0, top);
    const classes = best.map((index) => ({
      label: this.model.labels?.[index].replaceAll("_", " ") ?? `Class ${index}`,
      probability: scores[index],
    }));
    return { classes, gives, milliseconds };
  }

  close() {
    this.#worker.terminate();
    this.#fail(new Error("The model was replaced."));
  }

  #call(method, values, transferred = []) {
    return new Promise((resolve, reject) => {
      const id = this.#next++;
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, method, values }, transferred);
    });
  }

  #fail(error) {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}
