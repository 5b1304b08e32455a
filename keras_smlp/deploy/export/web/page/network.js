// The network: its files, the runtime (LiteRT.js) and how a photo goes through it.

import { Failure, inWords } from "./failure.js";

// The browser asks whether its copy is still the server's: names and model belong together.
const ASK = { cache: "no-cache" };

// What about.json says of the site; beside it are the model and, perhaps, the runtime.
export async function readAbout() {
  const response = await answer("about.json", ASK, "The description of the network");
  return response.json();
}

async function answer(address, options, what) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (cause) {
    const words = `${what} cannot be loaded: no connection, or not the file that belongs here.`;
    throw new Failure(`${words} (${address})`, { cause });
  }
  if (!response.ok) {
    throw new Failure(`${what} cannot be loaded. (${address}: status ${response.status})`);
  }
  return response;
}

// The bytes of the model; `progress` is called with how many have come.
export async function readModel({ file, bytes, integrity }, progress) {
  const response = await answer(file, ASK, "The network");
  const parts = [];
  let count = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    progress((count += value.length));
  }
  if (count !== bytes) {
    throw new Failure(`The network is not whole. (${file}: ${count} of ${bytes} bytes)`);
  }
  // With `integrity` fetch gives a download only once it is complete, too late for a progress bar.
  // So the hash is compared afterwards, of the copy in this page's memory.
  const address = URL.createObjectURL(new Blob(parts));
  let whole;
  try {
    whole = await fetch(address, { integrity });
  } catch (cause) {
    throw new Failure(`The network is not the file that belongs here. (${file})`, { cause });
  } finally {
    URL.revokeObjectURL(address);
  }
  return new Uint8Array(await whole.arrayBuffer());
}

// LiteRT.js. Its files are beside the page, or on another server: then each is loaded with the hash
// that it must have, and runs from this page's memory.
export async function loadRuntime({ files, isHere, import: imported }) {
  const what = "The runtime of the network";
  const load = (name) => answer(files[name].address, { integrity: files[name].integrity }, what);
  const addressOf = async (name, change = (code) => code) => {
    if (isHere) return new URL(files[name].address, document.baseURI).href;
    const code = change(await (await load(name)).text());
    return URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  };
  try {
    const utilities = isHere || (await addressOf("utilities"));
    const core = await addressOf("core", (code) => {
      if (!code.includes(imported)) throw new Failure(`${what} does not import ${imported}.`);
      return code.replace(imported, JSON.stringify(utilities));
    });
    const runtime = await import(core);
    // older browsers need another build
    const kind = (await runtime.supportsFeature("relaxedSimd")) ? "simd" : "compatible";
    const [script, wasm] = await Promise.all([addressOf(`${kind}Script`), load(`${kind}Wasm`)]);
    // what it reports of itself is no error of the page
    self.Module = { wasmBinary: await wasm.arrayBuffer(), printErr: console.debug };
    await runtime.loadLiteRt(`${script}#.js`); // it asks for this ending
    return runtime;
  } catch (error) {
    throw inWords(error, `${what} cannot be started`);
  }
}

// What the address may ask for. WebGPU is the graphics processor, WebAssembly the ordinary one.
const DEVICES = ["webgpu", "wasm"];
// A graphics processor may differ from Keras by so much, as a part of the norm of the probabilities;
// rounding to 8 bits makes the most of it.
const TOLERANCE = 0.05;

export class Network {
  constructor(runtime, model, about) {
    Object.assign(this, { runtime, model, about });
  }

  // On WebGPU where there is a graphics processor that runs all of the network and answers
  // rightly, else on WebAssembly. `wanted` is what `wantedDevice` returned.
  static async open(runtime, model, about, wanted) {
    const network = new Network(runtime, model, about);
    const isTried = wanted === "webgpu" || (wanted === null && (await hasGraphicsProcessor()));
    const fault = isTried && (await network.openOnWebGpu());
    if (!isTried || fault) await network.openOnWebAssembly(fault);
    return network;
  }

  // `fault`: why not on WebGPU, in words, if that was tried.
  async openOnWebAssembly(fault) {
    try {
      this.compiled = await this.runtime.loadAndCompile(this.model, { accelerator: "wasm" });
    } catch (error) {
      throw inWords(error, "The network cannot be opened");
    }
    this.device = fault ? `WebAssembly, because WebGPU ${fault}` : "WebAssembly";
    this.model = null; // the runtime has a copy
  }

  // Returns what is wrong with WebGPU, in words, or null if the network is open there.
  async openOnWebGpu() {
    if (!this.runtime.getWebGpuDevice()) return "is not there";
    let fault = "failed";
    try {
      const options = { accelerator: "webgpu", gpuOptions: { precision: "fp32" } };
      this.compiled = await this.runtime.loadAndCompile(this.model, options);
      // for what WebGPU does not run, the runtime takes WebAssembly
      const { isFullyAccelerated, options: taken } = this.compiled;
      if (!isFullyAccelerated || taken.accelerator !== "webgpu") {
        fault = "does not run all of this network";
      } else if (distance(await this.answerOf(sample(this.about)), this.about.sample) <= TOLERANCE) {
        this.device = "WebGPU";
        return null;
      } else {
        fault = "answers wrongly";
      }
    } catch (error) {
      console.warn(error);
    }
    this.close();
    return fault;
  }

  leaveWebGpu() {
    this.close();
    return this.openOnWebAssembly("failed");
  }

  close() {
    const { compiled } = this;
    this.compiled = null;
    try {
      compiled?.delete();
    } catch (error) {
      console.warn(error);
    }
  }

  // From pixels (height, width, channels) to the arrays of the model's outputs, by name.
  async run(pixels) {
    const { device } = this;
    try {
      return await this.answerOf(pixels);
    } catch (error) {
      if (device !== "WebGPU") throw inWords(error, "The network failed");
      console.warn(error); // the browser took the graphics processor away, for example
    }
    this.reopened ??= this.leaveWebGpu(); // once, whatever number of photos waits
    await this.reopened;
    return this.run(pixels);
  }

  async answerOf(pixels) {
    const { size, channels, scale, offset } = this.about;
    const values = Float32Array.from(pixels);
    if (scale) values.forEach((x, i) => (values[i] = x * scale[i % channels] + offset[i % channels]));
    let images;
    let outputs = {};
    try {
      images = new this.runtime.Tensor(values, [1, ...size, channels]);
      outputs = await this.compiled.run({ images });
      const found = {};
      for (const [name, tensor] of Object.entries(outputs)) found[name] = await tensor.data();
      // not all errors of a graphics processor are thrown: some leave zeros
      if (!found.probabilities.some((x) => x > 0)) throw new Error("no probability is above zero");
      return found;
    } finally {
      images?.delete();
      Object.values(outputs).forEach((tensor) => tensor.delete());
    }
  }
}

// What the address asks for by `?device=`: "webgpu", which takes a simulated graphics processor, too,
// "wasm", or null.
export function wantedDevice() {
  const wanted = new URLSearchParams(location.search).get("device");
  if (wanted !== null && !DEVICES.includes(wanted)) {
    throw new Failure(`The address may ask for device=${DEVICES.join(" or device=")} alone.`);
  }
  return wanted;
}

async function hasGraphicsProcessor() {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    // older browsers have it on the adapter itself
    return Boolean(adapter) && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
  } catch (error) {
    console.warn(error);
    return false;
  }
}

// The image whose answer is in about.json: integers in [0, 255], as site.py: sample makes them.
function sample({ size, channels }) {
  const count = size[0] * size[1] * channels;
  return Uint8Array.from({ length: count }, (_, i) => Math.imul(i + 1, 2654435761) >>> 24);
}

// From the probabilities that are expected to those found, as a part of the norm of the former.
function distance({ probabilities }, expected) {
  let [difference, norm] = [0, 0];
  expected.forEach((x, i) => {
    difference += (probabilities[i] - x) ** 2;
    norm += x ** 2;
  });
  return Math.sqrt(difference / norm);
}
