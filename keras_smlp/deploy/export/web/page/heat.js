// What of the photo speaks for a class, in colors over it.

import { enlarged } from "./resize.js";

// red, green, blue at equal distances from nothing to most
const COLORS = [
  [59, 15, 112],
  [150, 44, 128],
  [222, 73, 104],
  [254, 159, 109],
  [252, 253, 191],
];
const OPAQUE = 0.75; // of the largest value

function color(value) {
  const at = value * (COLORS.length - 1);
  const low = Math.min(Math.floor(at), COLORS.length - 2);
  return COLORS[low].map((x, i) => x + (COLORS[low + 1][i] - x) * (at - low));
}

function paint(canvas, values, width, height, opaque) {
  const image = new ImageData(width, height);
  values.forEach((value, i) => image.data.set([...color(value), 255 * opaque(value)], 4 * i));
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// The map of one class, (rows, columns), of maps (rows, columns, classes): what is above zero, as a
// part of the largest; all zero where nothing speaks for the class.
export function mapOf(maps, rows, columns, index) {
  const classes = maps.length / (rows * columns);
  const values = Float32Array.from({ length: rows * columns }, (_, i) => maps[i * classes + index]);
  const largest = Math.max(...values);
  return values.map((x) => (largest > 0 ? Math.max(x, 0) / largest : 0));
}

export function drawMap(canvas, { maps, rows, columns, size: [height, width] }, index) {
  const values = mapOf(maps, rows, columns, index);
  const large = enlarged(values, rows, columns, height, width);
  paint(canvas, large, width, height, (value) => OPAQUE * value);
}

export function drawScale(canvas) {
  const width = canvas.width;
  const values = Float32Array.from({ length: width }, (_, i) => i / (width - 1));
  paint(canvas, values, width, 1, (value) => value);
}
