// The page: two photographs in, their similarity and the decision out.

import * as ort from "./onnxruntime/ort.wasm.bundle.min.mjs";
import { FaceDetector, FaceEmbedder, alignFace, area, similarity } from "./faces.js";

const answer = document.getElementById("answer");
const rate = document.getElementById("rate");

ort.env.wasm.wasmPaths = { wasm: new URL("./onnxruntime/ort-wasm-simd-threaded.wasm", import.meta.url).href };
ort.env.wasm.numThreads = 1; // more require headers that static pages do not have

async function readJson(name) {
  return (await fetch(name)).json();
}

async function loadModels() {
  const options = { executionProviders: ["wasm"] };
  const detector = new FaceDetector(ort, await ort.InferenceSession.create("detector/yunet.onnx", options));
  const [config, preprocessing] = [await readJson("model/config.json"), await readJson("model/preprocessor_config.json")];
  const session = await ort.InferenceSession.create("model/onnx/model.onnx", options);
  return { detector, embedder: new FaceEmbedder(ort, session, config, preprocessing) };
}

/** One of the two photographs: its file, its faces, and the one that is compared. */
class Photograph {
  constructor(section, changed) {
    this.canvas = section.querySelector("canvas");
    this.crops = section.querySelector(".crops");
    this.message = section.querySelector(".message");
    this.changed = changed;
    this.faces = [];
    this.chosen = -1;
    const input = section.querySelector("input");
    input.addEventListener("change", () => input.files.length && this.read(input.files[0]));
  }

  async read(file) {
    const turn = (this.turn = (this.turn ?? 0) + 1); // a later photograph replaces one that is still being read
    this.show([], "Looking for faces …");
    const { detector, embedder } = await models;
    let image;
    try {
      image = await this.draw(file);
    } catch {
      return this.show([], `${file.name} cannot be read as an image.`);
    }
    const faces = await detector.detect(image);
    for (const face of faces) {
      face.crop = alignFace(image, face.landmarks, embedder.size);
      face.embedding = await embedder.embed(face.crop);
    }
    if (turn !== this.turn) return;
    this.image = image;
    this.show(faces, { 0: "No face found.", 1: "1 face found." }[faces.length] ?? `${faces.length} faces found.`);
  }

  /** Put the photograph on the canvas, upright and with white for transparent, and return its pixels. */
  async draw(file) {
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
    [this.canvas.width, this.canvas.height] = [bitmap.width, bitmap.height];
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, bitmap.width, bitmap.height);
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    return context.getImageData(0, 0, this.canvas.width, this.canvas.height);
  }

  /** Show these faces, the largest one chosen. */
  show(faces, message) {
    this.faces = faces;
    const sizes = faces.map((face) => area(face.box));
    this.message.textContent = message;
    this.choose(sizes.indexOf(Math.max(...sizes)));
  }

  choose(index) {
    this.chosen = index;
    this.canvas.hidden = !this.faces.length;
    this.canvas.setAttribute("aria-label", this.message.textContent);
    if (this.faces.length) this.drawFaces();
    this.crops.replaceChildren(...this.faces.map((face, i) => this.cropButton(face, i)));
    this.changed();
  }

  drawFaces() {
    const context = this.canvas.getContext("2d");
    context.putImageData(this.image, 0, 0);
    const width = Math.max(2, Math.max(this.canvas.width, this.canvas.height) / 250);
    context.lineWidth = width;
    this.faces.forEach(({ box: [left, top, right, bottom], landmarks }, i) => {
      context.strokeStyle = context.fillStyle = i === this.chosen ? "#f59e0b" : "#ffffff";
      context.strokeRect(left, top, right - left, bottom - top);
      for (const [x, y] of landmarks) context.fillRect(x - width, y - width, 2 * width, 2 * width);
    });
  }

  cropButton(face, index) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = face.crop.width;
    canvas.getContext("2d").putImageData(new ImageData(face.crop.data, face.crop.width, face.crop.height), 0, 0);
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", index === this.chosen);
    button.setAttribute("aria-label", `Face ${index + 1}, score ${face.score.toFixed(2)}`);
    button.append(canvas);
    button.addEventListener("click", () => this.choose(index));
    return button;
  }

  get embedding() {
    return this.faces[this.chosen]?.embedding;
  }
}

function offerRates(thresholds) {
  const rates = Object.keys(thresholds).sort((a, b) => a - b);
  const inWords = (text) => `1 in ${Math.round(1 / text).toLocaleString("en")}`;
  rate.replaceChildren(...rates.map((text) => new Option(inWords(text), text)));
  rate.value = rates.includes("1e-3") ? "1e-3" : rates[0];
  document.getElementById("rates").hidden = !rates.length;
  rate.addEventListener("change", compare);
}

async function compare() {
  const { embedder } = await models;
  const [first, second] = photographs.map((photograph) => photograph.embedding);
  delete answer.dataset.similarity;
  delete answer.dataset.same;
  if (!first || !second) {
    answer.textContent = "Choose two photographs with a face each.";
    return;
  }
  const found = similarity(first, second);
  const threshold = embedder.thresholds[rate.value];
  answer.dataset.similarity = found;
  if (threshold === undefined) {
    answer.textContent = `Similarity ${found.toFixed(3)}. The model has no calibrated threshold to decide by.`;
    return;
  }
  answer.dataset.same = found >= threshold;
  const decision = found >= threshold ? "Same person" : "Different people";
  answer.textContent = `${decision}: similarity ${found.toFixed(3)}, threshold ${threshold.toFixed(3)}.`;
}

const models = loadModels();
const photographs = [...document.querySelectorAll(".photograph")].map((section) => new Photograph(section, () => compare()));
models.then(
  ({ embedder }) => {
    offerRates(embedder.thresholds);
    compare();
  },
  (error) => {
    answer.textContent = `The models could not be loaded: ${error.message}`;
  },
);
