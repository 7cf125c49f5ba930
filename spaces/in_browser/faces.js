// From photographs to embeddings, as hf_face computes them in Python. An image is `{data, width, height}` with RGBA
// bytes, as a canvas gives them. A face is `{box: [left, top, right, bottom], landmarks: [[x, y], ...], score}`.

const STRIDES = [8, 16, 32];
const MIN_SCORE = 0.6;
const MAX_OVERLAP = 0.3;
// YuNet finds faces of about 10 to 450 pixels: those of large photographs in a copy of this size, and larger ones in a
// small copy.
const MAX_SIZE = 1280;
const FULL_SIZE_UP_TO = 640;
const SMALL_COPY = 320;
// Eyes, nose and corners of the mouth in an aligned crop of 112 pixels, from the left of the image.
const REFERENCE = [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]];
const REFERENCE_SIZE = 112;

/** Finds faces with YuNet (Wu et al. 2023), as `hf_face.pipelines.YuNetDetector` does. */
export class FaceDetector {
  /** @param ort onnxruntime-web  @param session of the network */
  constructor(ort, session) {
    this.ort = ort;
    this.session = session;
  }

  /** The faces of an image, in its pixels, the highest score first. */
  async detect(image) {
    const longer = Math.max(image.width, image.height);
    const largest = Math.min(longer, MAX_SIZE);
    const sizes = largest > FULL_SIZE_UP_TO ? [largest, SMALL_COPY] : [largest];
    const faces = [];
    for (const size of sizes) faces.push(...await this.detectAt(image, size / longer));
    return nonMaximumSuppression(faces, MAX_OVERLAP);
  }

  /** The faces of a copy that is `scale` times as large. */
  async detectAt(image, scale) {
    const width = Math.max(1, Math.round(image.width * scale));
    const height = Math.max(1, Math.round(image.height * scale));
    const [columns, rows] = [width, height].map((side) => Math.ceil(side / 32) * 32);
    const pixels = scale < 1 ? shrink(image, width, height) : image;
    const input = new this.ort.Tensor("float32", bgrPlanes(pixels, columns, rows), [1, 3, rows, columns]);
    const outputs = await this.session.run({ input });
    const faces = decode(outputs, columns, rows);
    return faces.map((face) => enlarge(face, image.width / width, image.height / height));
  }
}

/** What the network answers for an image of `width` x `height` pixels: faces that may overlap. */
export function decode(outputs, width, height) {
  const faces = [];
  for (const stride of STRIDES) {
    const [cls, obj, bbox, kps] = ["cls", "obj", "bbox", "kps"].map((name) => outputs[`${name}_${stride}`].data);
    const columns = width / stride;
    for (let cell = 0; cell < columns * (height / stride); cell++) {
      const score = Math.sqrt(clamp(cls[cell], 0, 1) * clamp(obj[cell], 0, 1));
      if (score < MIN_SCORE) continue;
      const [column, row] = [cell % columns, Math.floor(cell / columns)];
      const place = (x, y) => [(column + x) * stride, (row + y) * stride];
      const [x, y] = place(bbox[4 * cell], bbox[4 * cell + 1]);
      const [w, h] = [2, 3].map((side) => Math.exp(bbox[4 * cell + side]) * stride);
      const landmarks = [0, 1, 2, 3, 4].map((point) => place(kps[10 * cell + 2 * point], kps[10 * cell + 2 * point + 1]));
      faces.push({ box: [x - w / 2, y - h / 2, x + w / 2, y + h / 2], landmarks, score });
    }
  }
  return nonMaximumSuppression(faces, MAX_OVERLAP);
}

/** The faces without those that overlap one with a higher score. */
export function nonMaximumSuppression(faces, maxOverlap) {
  const kept = [];
  for (const face of [...faces].sort((a, b) => b.score - a.score)) {
    if (kept.every((other) => intersectionOverUnion(face.box, other.box) <= maxOverlap)) kept.push(face);
  }
  return kept;
}

function intersectionOverUnion(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  const both = Math.max(0, width) * Math.max(0, height);
  return both / (area(a) + area(b) - both);
}

export function area([left, top, right, bottom]) {
  return (right - left) * (bottom - top);
}

function enlarge({ box, landmarks, score }, byX, byY) {
  const [left, top, right, bottom] = box;
  return {
    box: [left * byX, top * byY, right * byX, bottom * byY],
    landmarks: landmarks.map(([x, y]) => [x * byX, y * byY]),
    score,
  };
}

/** A smaller copy whose pixels are the means of the areas that they cover. */
export function shrink(image, width, height) {
  const across = coverage(image.width, width);
  const down = coverage(image.height, height);
  const rows = new Float32Array(image.height * width * 4);
  for (let y = 0; y < image.height; y++) {
    for (let x = 0; x < width; x++) {
      for (const [from, weight] of across[x]) {
        for (let c = 0; c < 4; c++) rows[(y * width + x) * 4 + c] += weight * image.data[(y * image.width + from) * 4 + c];
      }
    }
  }
  const data = new Uint8ClampedArray(width * height * 4); // which rounds
  for (let y = 0; y < height; y++) {
    for (let i = 0; i < width * 4; i++) {
      let sum = 0;
      for (const [from, weight] of down[y]) sum += weight * rows[from * width * 4 + i];
      data[y * width * 4 + i] = sum;
    }
  }
  return { data, width, height };
}

/** Of each of `count` equal parts of a side, the pixels it covers and their shares. */
function coverage(side, count) {
  const length = side / count;
  return Array.from({ length: count }, (_, part) => {
    const [start, end] = [part * length, Math.min(side, (part + 1) * length)];
    const shares = [];
    for (let pixel = Math.floor(start); pixel < end; pixel++) {
      const share = (Math.min(end, pixel + 1) - Math.max(start, pixel)) / (end - start);
      if (share > 1e-6) shares.push([pixel, share]);
    }
    return shares;
  });
}

/** Blue, green and red planes in turn, filled up with black to `width` x `height`. */
function bgrPlanes(image, width, height) {
  const planes = new Float32Array(3 * width * height);
  for (let y = 0; y < image.height; y++) {
    for (let x = 0; x < image.width; x++) {
      const from = (y * image.width + x) * 4;
      for (let c = 0; c < 3; c++) planes[(c * height + y) * width + x] = image.data[from + 2 - c];
    }
  }
  return planes;
}

/**
 * The least-squares similarity transform (Umeyama 1991) from a crop of `size` pixels to the image: with points as
 * complex numbers, image = slope * crop + shift.
 */
export function cropToImage(landmarks, size) {
  const crop = REFERENCE.map(([x, y]) => [x * size / REFERENCE_SIZE, y * size / REFERENCE_SIZE]);
  const [fromMean, toMean] = [mean(landmarks), mean(crop)];
  let [real, imaginary, spread] = [0, 0, 0]; // of the transform from image to crop
  landmarks.forEach(([x, y], i) => {
    const [u, v] = [x - fromMean[0], y - fromMean[1]];
    const [p, q] = [crop[i][0] - toMean[0], crop[i][1] - toMean[1]];
    real += u * p + v * q;
    imaginary += u * q - v * p;
    spread += u * u + v * v;
  });
  const scale = spread / (real * real + imaginary * imaginary);
  const slope = [real * scale, -imaginary * scale]; // its inverse
  return {
    slope,
    shift: [
      fromMean[0] - slope[0] * toMean[0] + slope[1] * toMean[1],
      fromMean[1] - slope[1] * toMean[0] - slope[0] * toMean[1],
    ],
  };
}

function mean(points) {
  return [0, 1].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
}

/**
 * Cut out and align a face. One that is larger than the crop is shrunk first, and sampled more densely, so that it is
 * not noisier than a small one: as `hf_face.pipelines.align_faces` does with `antialias=True`.
 */
export function alignFace(image, landmarks, size) {
  const toImage = cropToImage(landmarks, size);
  const pixels = Math.hypot(...toImage.slope) - 1e-6; // of the image, in a pixel of the crop
  const factor = Math.max(1, Math.floor(pixels));
  const samples = pixels > 1 ? 2 : 1;
  const { patch, slope, shift } = factor > 1 ? shrinkFace(image, toImage, size, factor) : { patch: image, ...toImage };
  const data = new Uint8ClampedArray(size * size * 4).fill(255);
  const sum = [0, 0, 0];
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      sum.fill(0);
      for (let i = 0; i < samples * samples; i++) {
        const u = x - 0.5 + (i % samples + 0.5) / samples;
        const v = y - 0.5 + (Math.floor(i / samples) + 0.5) / samples;
        addSample(patch, slope[0] * u - slope[1] * v + shift[0], slope[1] * u + slope[0] * v + shift[1], sum);
      }
      for (let c = 0; c < 3; c++) data[(y * size + x) * 4 + c] = sum[c] / (samples * samples);
    }
  }
  return { data, width: size, height: size };
}

/** The part of an image that a crop shows, `factor` times smaller, and the transform from the crop to it. */
function shrinkFace(image, { slope, shift }, size, factor) {
  const ends = [-0.5, size - 0.5];
  const corners = ends.flatMap((u) => ends.map((v) => [slope[0] * u - slope[1] * v, slope[1] * u + slope[0] * v]));
  const sides = [image.width, image.height];
  const [first, end] = [[], []];
  for (const axis of [0, 1]) {
    const places = corners.map((corner) => Math.floor(corner[axis] + shift[axis]));
    first[axis] = clamp(Math.min(...places), 0, sides[axis] - 1);
    end[axis] = clamp(Math.max(...places) + 1 + factor, first[axis] + 1, sides[axis]);
  }
  return {
    patch: blockMeans(image, first, end, factor),
    slope: slope.map((part) => part / factor),
    shift: shift.map((part, axis) => (part - first[axis] + 0.5) / factor - 0.5), // a pixel's center is at half of it
  };
}

/** The means of blocks of `factor` x `factor` pixels between two corners. */
function blockMeans(image, [left, top], [right, bottom], factor) {
  const [width, height] = [Math.ceil((right - left) / factor), Math.ceil((bottom - top) / factor)];
  const data = new Float32Array(width * height * 4);
  const counts = new Uint32Array(width * height);
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) {
      const block = Math.floor((y - top) / factor) * width + Math.floor((x - left) / factor);
      counts[block]++;
      for (let c = 0; c < 3; c++) data[4 * block + c] += image.data[(y * image.width + x) * 4 + c];
    }
  }
  return { data: data.map((sum, i) => sum / counts[i >> 2]), width, height };
}

/** Add the color at a point between pixels, interpolated bilinearly, to `sum`. Outside the image, all is black. */
function addSample(image, x, y, sum) {
  const [left, top] = [Math.floor(x), Math.floor(y)];
  for (let row = top; row <= top + 1; row++) {
    if (row < 0 || row >= image.height) continue;
    for (let column = left; column <= left + 1; column++) {
      if (column < 0 || column >= image.width) continue;
      const weight = (1 - Math.abs(x - column)) * (1 - Math.abs(y - row));
      const from = (row * image.width + column) * 4;
      for (let c = 0; c < 3; c++) sum[c] += weight * image.data[from + c];
    }
  }
}

/** Embeds aligned crops with an exported model. */
export class FaceEmbedder {
  /** @param config, preprocessing the model's `config.json` and `preprocessor_config.json` */
  constructor(ort, session, config, preprocessing) {
    this.ort = ort;
    this.session = session;
    this.size = preprocessing.size.height;
    this.preprocessing = preprocessing;
    this.thresholds = config.similarity_thresholds ?? {};
  }

  /** The embedding of the face with these landmarks, of unit length. */
  async embed(crop) {
    const values = normalizedPlanes(crop, this.preprocessing);
    const tensor = new this.ort.Tensor("float32", values, [1, 3, this.size, this.size]);
    const { pooler_output } = await this.session.run({ pixel_values: tensor });
    return pooler_output.data;
  }
}

function normalizedPlanes({ data, width, height }, { channel_order, image_mean, image_std, rescale_factor }) {
  const planes = new Float32Array(3 * width * height);
  for (let c = 0; c < 3; c++) {
    const channel = channel_order === "bgr" ? 2 - c : c;
    for (let i = 0; i < width * height; i++) {
      planes[c * width * height + i] = (data[4 * i + channel] * rescale_factor - image_mean[c]) / image_std[c];
    }
  }
  return planes;
}

/** The cosine similarity of two embeddings of unit length. */
export function similarity(first, second) {
  return first.reduce((sum, value, i) => sum + value * second[i], 0);
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}
