// A photo's pixels as the network takes them: resized as PIL's antialiased bicubic filter does it,
// in the same integers, and cropped in the middle. A canvas' own resizing gives other pixels.

// coefficients are integers of so many bits behind the point
const BITS = 22;
const HALF = 1 << (BITS - 1);

function bicubic(x) {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return ((-0.5 * x + 2.5) * x - 4) * x + 2;
  return 0;
}

function roundHalfToEven(x) {
  const below = Math.floor(x);
  return x - below === 0.5 ? below + (below % 2) : Math.round(x);
}

// The size that a photo is resized to, just covering `cover`, and where the crop begins.
export function geometry(width, height, cover, size) {
  const isWide = cover[0] * width >= cover[1] * height;
  const resized = isWide
    ? [cover[0], Math.trunc((cover[0] * width) / height)]
    : [Math.trunc((cover[1] * height) / width), cover[1]];
  return {
    height: resized[0],
    width: resized[1],
    top: roundHalfToEven((resized[0] - size[0]) / 2),
    left: roundHalfToEven((resized[1] - size[1]) / 2),
  };
}

// For `count` pixels of one axis, from `first` on: where the pixels that each is made of begin, how
// many they are, and the coefficients.
function coefficients(before, after, first, count) {
  const scale = before / after;
  const stretch = Math.max(scale, 1);
  const support = 2 * stretch;
  const most = Math.ceil(support) * 2 + 1;
  const begin = new Int32Array(count);
  const length = new Int32Array(count);
  const values = new Int32Array(count * most);
  for (let i = 0; i < count; i++) {
    const center = (first + i + 0.5) * scale;
    const low = Math.max(Math.trunc(center - support + 0.5), 0);
    const high = Math.min(Math.trunc(center + support + 0.5), before);
    const exact = [];
    let sum = 0;
    for (let x = low; x < high; x++) {
      exact.push(bicubic((x - center + 0.5) / stretch));
      sum += exact[x - low];
    }
    begin[i] = low;
    length[i] = high - low;
    exact.forEach((value, x) => {
      const scaled = (value / sum) * (1 << BITS);
      values[i * most + x] = Math.trunc(scaled + (scaled < 0 ? -0.5 : 0.5));
    });
  }
  return { begin, length, values, most };
}

// Takes a photo row by row, so that it is never in memory as a whole beside the browser's own copy.
export class Resizer {
  // width, height: of the photo. cover, size: pairs (height, width). channels: 3 for RGB, 1 for gray.
  constructor(width, height, cover, size, channels) {
    const { width: w, height: h, left, top } = geometry(width, height, cover, size);
    this.photoWidth = width;
    this.size = size;
    this.channels = channels;
    this.columns = coefficients(width, w, left, size[1]);
    this.rows = coefficients(height, h, top, size[0]);
    const last = size[0] - 1;
    // the rows of the photo that are needed
    this.firstRow = this.rows.begin[0];
    this.endRow = this.rows.begin[last] + this.rows.length[last];
    this.narrow = new Uint8ClampedArray((this.endRow - this.firstRow) * size[1] * channels);
  }

  // Rows of the photo, RGBA, from `row` on.
  add(rgba, row) {
    const { begin, length, values, most } = this.columns;
    const { narrow, channels, photoWidth } = this;
    const width = this.size[1];
    const count = rgba.length / (4 * photoWidth);
    if (channels === 1) toGray(rgba);
    let to = (row - this.firstRow) * width * channels;
    for (let y = 0; y < count; y++) {
      for (let x = 0; x < width; x++) {
        let from = 4 * (y * photoWidth + begin[x]);
        const end = x * most + length[x];
        let red = HALF;
        let green = HALF;
        let blue = HALF;
        for (let k = x * most; k < end; k++, from += 4) {
          const value = values[k];
          red += rgba[from] * value;
          green += rgba[from + 1] * value;
          blue += rgba[from + 2] * value;
        }
        narrow[to++] = red >> BITS;
        if (channels === 3) {
          narrow[to++] = green >> BITS;
          narrow[to++] = blue >> BITS;
        }
      }
    }
  }

  // The pixels (height, width, channels), integers in [0, 255].
  finish() {
    const { begin, length, values, most } = this.rows;
    const [height, width] = this.size;
    const line = width * this.channels;
    const result = new Uint8ClampedArray(height * line);
    for (let y = 0; y < height; y++) {
      const start = (begin[y] - this.firstRow) * line;
      for (let x = 0; x < line; x++) {
        let sum = HALF;
        let from = start + x;
        for (let k = y * most; k < y * most + length[y]; k++, from += line) {
          sum += this.narrow[from] * values[k];
        }
        result[y * line + x] = sum >> BITS;
      }
    }
    return result;
  }
}

// As PIL makes gray of RGB; the result is where red was.
function toGray(rgba) {
  for (let i = 0; i < rgba.length; i += 4) {
    rgba[i] = (rgba[i] * 19595 + rgba[i + 1] * 38470 + rgba[i + 2] * 7471 + 0x8000) >> 16;
  }
}

// A matrix enlarged bilinearly to (height, width), as PIL does it.
export function enlarged(values, rows, columns, height, width) {
  const result = new Float32Array(height * width);
  for (let y = 0; y < height; y++) {
    const [top, bottom, down] = between(y, rows, height);
    for (let x = 0; x < width; x++) {
      const [left, right, across] = between(x, columns, width);
      const above = values[top * columns + left] * (1 - across) + values[top * columns + right] * across;
      const below =
        values[bottom * columns + left] * (1 - across) + values[bottom * columns + right] * across;
      result[y * width + x] = above * (1 - down) + below * down;
    }
  }
  return result;
}

function between(i, before, after) {
  const at = Math.min(Math.max(((i + 0.5) * before) / after - 0.5, 0), before - 1);
  const low = Math.floor(at);
  return [low, Math.min(low + 1, before - 1), at - low];
}
