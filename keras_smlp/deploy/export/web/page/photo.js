// From a file to the pixels that the network takes, without the whole photo in this page's memory.

import { Resizer, geometry } from "./resize.js";
import { Failure } from "./failure.js";

const MEGAPIXEL = 1e6;
// larger photos are made smaller by the browser while it decodes them, to so many pixels
const LARGE = 24 * MEGAPIXEL;
// still larger ones are not decoded
const MOST = 200 * MEGAPIXEL;
// pixels that are read at a time
const AT_ONCE = MEGAPIXEL / 2;
// the longer side of the picture that is shown
const SHOWN = 640;

// A file as a bitmap, upright as its EXIF data say: that is what createImageBitmap does by default.
export async function decoded(file) {
  const { width, height } = await sizeOf(file);
  if (width * height > MOST) {
    const many = Math.round((width * height) / MEGAPIXEL);
    throw new Failure(`This photo has ${many} megapixels; at most ${MOST / MEGAPIXEL} can be read.`);
  }
  // the numbers in the file, as in training, whatever its color profile is
  const options = { colorSpaceConversion: "none" };
  if (width * height > LARGE) {
    options.resizeWidth = Math.round(width * Math.sqrt(LARGE / (width * height)));
    options.resizeQuality = "high";
  }
  try {
    return await createImageBitmap(file, options);
  } catch (error) {
    throw unreadable(error);
  }
}

function unreadable(cause) {
  const words = "This is no photo that the browser can read (JPEG, PNG and WebP always are).";
  return new Failure(words, { cause });
}

// An <img> knows its size before its pixels are decoded.
function sizeOf(file) {
  const address = URL.createObjectURL(file);
  const image = new Image();
  return new Promise((resolve, reject) => {
    image.onload = () => resolve({ width: image.naturalWidth, height: image.naturalHeight });
    image.onerror = () => reject(unreadable());
    image.src = address;
  }).finally(() => URL.revokeObjectURL(address));
}

// The pixels (height, width, channels) of a bitmap that the network takes, integers in [0, 255].
export function pixels(bitmap, { cover, size, channels }) {
  const { width } = bitmap;
  const resizer = new Resizer(width, bitmap.height, cover, size, channels);
  const most = Math.max(Math.floor(AT_ONCE / width), 1);
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = most;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.imageSmoothingEnabled = false; // copies pixels as they are
  for (let row = resizer.firstRow; row < resizer.endRow; row += most) {
    const count = Math.min(most, resizer.endRow - row);
    context.fillRect(0, 0, width, most); // behind what is transparent
    context.drawImage(bitmap, 0, row, width, count, 0, 0, width, count);
    resizer.add(context.getImageData(0, 0, width, count).data, row);
  }
  canvas.width = canvas.height = 0; // some browsers keep the memory until then
  return resizer.finish();
}

// Draws the part of a bitmap that the network sees.
export function draw(bitmap, { cover, size }, canvas) {
  const resized = geometry(bitmap.width, bitmap.height, cover, size);
  const [down, across] = [bitmap.height / resized.height, bitmap.width / resized.width];
  const larger = SHOWN / Math.max(...size);
  canvas.height = Math.round(size[0] * larger);
  canvas.width = Math.round(size[1] * larger);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const part = [resized.left * across, resized.top * down, size[1] * across, size[0] * down];
  context.drawImage(bitmap, ...part, 0, 0, canvas.width, canvas.height);
}
