/**
 * Resizes and cuts images as keras_metaformer_lite/images.py does, to the same bytes.
 *
 * A canvas resizes in its own way in every browser; models are evaluated with Pillow's
 * antialiased filters. Its arithmetic: weights as 22-bit fixed-point numbers, first
 * along the rows, then along the columns, rounded to bytes after each.
 */

const PRECISION = 22;

const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: cubic },
  lanczos: {
    support: 3,
    weight: (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0),
  },
};

/**
 * @param {{width: number, height: number, data: Uint8ClampedArray}} image - RGBA.
 * @param {number} resolution - height and width of the result.
 * @param {{cropFraction: number, interpolation: string, squash: boolean}} transform
 * @returns {Uint8Array} RGB bytes, row by row.
 */
export function resizeAndCrop(image, resolution, transform) {
  const side = Math.floor(resolution / transform.cropFraction);
  const [width, height] = resizedSize(image, side, transform.squash);
  const left = roundToEven((width - resolution) / 2);
  const top = roundToEven((height - resolution) / 2);
  const columns = weights(image.width, width, left, resolution, transform);
  const rows = weights(image.height, height, top, resolution, transform);

  // Only the rows that the second pass looks at.
  const first = Math.min(...rows.map(({ start }) => start));
  const last = Math.max(...rows.map(({ start, values }) => start + values.length));
  const narrow = new Uint8Array((last - first) * resolution * 3);
  let to = 0;
  for (let y = first; y < last; y++) {
    for (const { start, values } of columns) {
      const from = 4 * (y * image.width + start);
      weigh(image.data, from, 4, values, narrow, to);
      to += 3;
    }
  }
  const result = new Uint8Array(resolution * resolution * 3);
  to = 0;
  for (const { start, values } of rows) {
    for (let x = 0; x < resolution; x++) {
      const from = 3 * ((start - first) * resolution + x);
      weigh(narrow, from, 3 * resolution, values, result, to);
      to += 3;
    }
  }
  return result;
}

function resizedSize({ width, height }, side, squash) {
  if (squash) return [side, side];
  if (width <= height) return [side, Math.trunc((side * height) / width)];
  return [Math.trunc((side * width) / height), side];
}

/** For each of `number` places from `offset` on: which pixels, and their weights. */
function weights(size, resized, offset, number, { interpolation }) {
  const scale = size / resized;
  if (interpolation === "nearest") return nearest(scale, offset, number);
  return Array.from({ length: number }, (_, i) => {
    const centre = (offset + i + 0.5) * scale;
    const { support, weight } = FILTERS[interpolation];
    const stretch = Math.max(scale, 1);
    const reach = support * stretch;
    const start = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(size, Math.trunc(centre + reach + 0.5));
    const values = Array.from({ length: end - start }, (_, x) =>
      weight((x + start - centre + 0.5) * (1 / stretch)),
    );
    const sum = values.reduce((total, value) => total + value, 0);
    return { start, values: Int32Array.from(values, (value) => fixed(value / sum)) };
  });
}

function nearest(scale, offset, number) {
  // Added up, not multiplied: the rounding decides where a place is between two pixels.
  const places = [];
  for (let i = 0, at = 0.5 * scale; i < offset + number; i++, at += scale) {
    places.push({ start: Math.floor(at), values: Int32Array.of(1 << PRECISION) });
  }
  return places.slice(offset);
}

function fixed(value) {
  return Math.trunc(value * 2 ** PRECISION + (value < 0 ? -0.5 : 0.5));
}

/** Three channels' weighted sums of pixels that are `step` bytes apart. */
function weigh(source, from, step, values, target, to) {
  let red = 1 << (PRECISION - 1);
  let green = red;
  let blue = red;
  for (let i = 0; i < values.length; i++, from += step) {
    const value = values[i];
    red += value * source[from];
    green += value * source[from + 1];
    blue += value * source[from + 2];
  }
  target[to] = clipped(red >> PRECISION);
  target[to + 1] = clipped(green >> PRECISION);
  target[to + 2] = clipped(blue >> PRECISION);
}

function clipped(value) {
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

function cubic(x) {
  const a = -0.5;
  const d = Math.abs(x);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  if (d < 2) return (((d - 5) * d + 8) * d - 4) * a;
  return 0;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

/** Halves go to the even number, as Python's round() has it. */
function roundToEven(value) {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
