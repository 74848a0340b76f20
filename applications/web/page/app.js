/** The page: pictures in, the model's best classes out. */

import { Classifier } from "./classifier.js";

const element = (id) => document.getElementById(id);
const frame = element("frame");
const preview = element("preview");
const video = element("video");
const modelChoice = element("model");
const cameraButton = element("camera");

const percent = new Intl.NumberFormat("en", {
  style: "percent",
  minimumFractionDigits: 1,
  maximumFractionDigits: 1,
});

/** The models that can be chosen: name, and where the file is or the file itself. */
const models = [];
let classifier = null;
/** The file that `classifier` came from, and what it runs on. */
let inUse = null;
/** The picture on show, to be classified again by another model. */
let picture = null;
let cameraStream = null;
// Loading and classifying one after the other, as they were asked for.
let queue = Promise.resolve();

function inTurn(work) {
  const state = document.body.dataset;
  queue = queue.then(async () => {
    state.state = "busy";
    try {
      await work();
    } catch (error) {
      showError(error.message);
    }
    state.state = "ready";
  });
  return queue;
}

// Models ------------------------------------------------------------------------------

function addModel(name, source) {
  models.push({ name, source });
  modelChoice.append(new Option(name, String(models.length - 1)));
  modelChoice.disabled = false;
}

function accelerator() {
  return document.querySelector("input[name=accelerator]:checked").value;
}

/** Load a model; if that fails, all stays as it was. */
function useModel(name, source, kind = accelerator()) {
  return inTurn(async () => {
    element("about").textContent = `Loading ${name} …`;
    try {
      const next = await Classifier.load(source, kind);
      classifier?.close();
      classifier = next;
      inUse = { source, kind };
      if (!models.some((model) => model.source === source)) addModel(name, source);
      hideError();
      keepChoice(kind);
    } catch (error) {
      throw new Error(`${name} cannot be used. ${error.message}`);
    } finally {
      showModel();
    }
    if (picture && !cameraStream) await classifyPicture();
  });
}

// Browsers that are told to keep nothing throw at the mere look at localStorage.
function keepChoice(kind) {
  try {
    localStorage.setItem("accelerator", kind);
  } catch {}
}

function keptChoice() {
  try {
    return localStorage.getItem("accelerator");
  } catch {
    return null;
  }
}

function useChosenModel() {
  const { name, source } = models[Number(modelChoice.value)];
  return useModel(name, source);
}

function showModel() {
  if (!classifier) {
    element("about").textContent = "No model is loaded.";
    return;
  }
  const { source, kind } = inUse;
  const { input, output, labels, size, threads } = classifier.model;
  modelChoice.value = String(models.findIndex((model) => model.source === source));
  for (const radio of document.querySelectorAll("input[name=accelerator]")) {
    radio.checked = radio.value === kind;
  }
  const facts = [
    `${output.shape.at(-1)} classes${labels ? "" : " without names"}`,
    `${input.shape[2]}×${input.shape[1]} pixels`,
    `${(size / 1e6).toFixed(1)} MB`,
  ];
  if (kind === "wasm") facts.push(`${threads} thread${threads > 1 ? "s" : ""}`);
  element("about").textContent = facts.join(" · ");
}

// Pictures ----------------------------------------------------------------------------

/** @param {Blob} blob - a picture, or what claims to be one. */
function usePicture(blob, name) {
  stopCamera();
  return inTurn(async () => {
    let bitmap;
    try {
      bitmap = await decode(blob);
    } catch {
      throw new Error(`${name} cannot be read as a picture.`);
    }
    bitmap.close();
    if (preview.src) URL.revokeObjectURL(preview.src);
    preview.src = URL.createObjectURL(blob);
    preview.alt = name;
    picture = { blob, name };
    showInFrame(preview);
    hideError();
    await classifyPicture();
  });
}

function decode(blob) {
  // As Pillow reads it: turned as the camera says, colours as they are.
  return createImageBitmap(blob, {
    imageOrientation: "from-image",
    colorSpaceConversion: "none",
  });
}

async function classifyPicture() {
  if (!classifier) return;
  const result = await classifier.classify(await decode(picture.blob));
  showResult(result);
  const [best] = result.classes;
  announce(`${best.label}, ${percent.format(best.probability)}`);
}

async function useSample(url) {
  const response = await fetch(url).catch(() => null);
  if (response?.ok) usePicture(await response.blob(), url.split("/").at(-1));
  else showError(`The sample ${url} could not be fetched.`);
}

// Camera ------------------------------------------------------------------------------

async function startCamera() {
  if (!navigator.mediaDevices) {
    showError("Browsers give the camera to pages of this device or with https only.");
    return;
  }
  try {
    cameraStream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment" },
    });
  } catch (error) {
    const reason =
      error.name === "NotAllowedError"
        ? "It was not allowed."
        : error.name === "NotFoundError"
          ? "There is none."
          : `${error.name}: ${error.message}`;
    showError(`The camera cannot be used. ${reason}`);
    return;
  }
  hideError();
  // Unplugged, or taken back by the user.
  cameraStream.getVideoTracks()[0].addEventListener("ended", stopCamera);
  video.srcObject = cameraStream;
  await video.play();
  showInFrame(video);
  cameraButton.textContent = "Stop the camera";
  watch(cameraStream);
}

function stopCamera() {
  if (!cameraStream) return;
  for (const track of cameraStream.getTracks()) track.stop();
  cameraStream = null;
  video.srcObject = null;
  showInFrame(picture ? preview : null);
  cameraButton.textContent = "Use the camera";
}

/** Classify what the camera sees, again and again, as fast as the model goes. */
async function watch(stream) {
  let announced = "";
  while (cameraStream === stream) {
    // Waits while the page is hidden.
    await new Promise(requestAnimationFrame);
    await inTurn(async () => {
      if (cameraStream !== stream || !classifier) return;
      const result = await classifier.classify(await createImageBitmap(video));
      if (cameraStream !== stream) return;
      showResult(result);
      const { label } = result.classes[0];
      // Not every frame's number: only another answer.
      if (label !== announced) announce((announced = label));
    });
  }
}

// What is shown -----------------------------------------------------------------------

function showInFrame(what) {
  preview.hidden = what !== preview;
  video.hidden = what !== video;
  element("invitation").hidden = what !== null;
}

function showResult({ classes, gives, milliseconds }) {
  const list = element("classes");
  while (list.children.length < classes.length) list.append(newRow());
  while (list.children.length > classes.length) list.lastChild.remove();
  classes.forEach(({ label, probability }, i) => {
    const [name, number, bar] = list.children[i].children;
    name.textContent = label;
    number.textContent = percent.format(probability);
    number.value = String(probability);
    bar.firstChild.style.inlineSize = `${100 * probability}%`;
  });
  list.hidden = false;
  element("empty").hidden = true;
  const latency = element("latency");
  latency.hidden = false;
  latency.textContent =
    `The model took ${milliseconds.toFixed(1)} ms` +
    (gives === "logits" ? "; it gives logits, shown after softmax." : ".");
}

function newRow() {
  const row = document.createElement("li");
  const bar = document.createElement("div");
  bar.className = "bar";
  bar.append(document.createElement("div"));
  row.append(document.createElement("span"), document.createElement("data"), bar);
  return row;
}

function announce(message) {
  element("status").textContent = message;
}

function showError(message) {
  element("error").textContent = message;
  element("error").hidden = false;
}

function hideError() {
  element("error").hidden = true;
}

// Events ------------------------------------------------------------------------------

function takeFile(file) {
  if (!file) return;
  if (file.name.endsWith(".tflite")) useModel(file.name, file);
  else usePicture(file, file.name);
}

for (const id of ["photograph", "model-file"]) {
  element(id).addEventListener("change", ({ target }) => {
    takeFile(target.files[0]);
    target.value = ""; // The same file can be chosen again.
  });
}

for (const button of document.querySelectorAll("[data-sample]")) {
  button.addEventListener("click", () => useSample(button.dataset.sample));
}

cameraButton.addEventListener("click", () => {
  if (cameraStream) stopCamera();
  else startCamera();
});

modelChoice.addEventListener("change", useChosenModel);
element("accelerator").addEventListener("change", () => {
  if (models.length) useChosenModel();
});

addEventListener("dragover", (event) => {
  event.preventDefault();
  frame.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) frame.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  frame.classList.remove("over");
  takeFile(event.dataTransfer.files[0]);
});

// Start -------------------------------------------------------------------------------

async function start() {
  const gpu = await navigator.gpu?.requestAdapter();
  const [cpuRadio, gpuRadio] = document.querySelectorAll("input[name=accelerator]");
  gpuRadio.disabled = !gpu;
  element("no-gpu").hidden = Boolean(gpu);
  const kept = keptChoice();
  // A fallback adapter computes on the CPU, slower than WebAssembly.
  const useGpu = gpu && (kept ? kept === "webgpu" : !gpu.info?.isFallbackAdapter);
  (useGpu ? gpuRadio : cpuRadio).checked = true;

  await underServiceWorker();
  let listed = [];
  try {
    listed = await (await fetch("models.json")).json();
  } catch {
    showError("The server’s list of models could not be fetched.");
  }
  for (const { name, url } of listed) addModel(name, new URL(url, document.baseURI).href);
  if (listed.length) await useChosenModel();
  else inTurn(showModel);
  if (listed.length) element("offline").hidden = !(await isKept(models[0].source));
}

/** Whether the service worker has the file; it stores it while the page goes on. */
async function isKept(url) {
  for (let tries = 0; tries < 50 && navigator.serviceWorker?.controller; tries++) {
    if (await caches.match(url)) return true;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  return false;
}

/** Everything from here on passes through the service worker, which keeps it. */
async function underServiceWorker() {
  const workers = navigator.serviceWorker;
  if (!workers) return; // Neither https nor this device.
  try {
    await workers.register("service_worker.js");
    if (workers.controller) return;
    await new Promise((resolve) => {
      workers.addEventListener("controllerchange", resolve, { once: true });
      setTimeout(resolve, 10_000); // Works without it, only not offline.
    });
  } catch (error) {
    console.warn("The page will not work offline:", error);
  }
}

start();
