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
  // fetch compares hashes, but of a file from a server it then gives no part before the whole
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

export class Network {
  constructor(runtime, compiled, about, device) {
    Object.assign(this, { runtime, compiled, about, device });
  }

  // On WebAssembly; on WebGPU if that is wanted and all of the network can run there.
  static async open(runtime, model, about, wanted) {
    let device = "WebAssembly";
    if (wanted === "webgpu") {
      const network = await Network.openOnWebGpu(runtime, model, about);
      if (network) return network;
      device += ", for WebGPU is not there or does not run all of this network";
    }
    try {
      const compiled = await runtime.loadAndCompile(model, { accelerator: "wasm" });
      return new Network(runtime, compiled, about, device);
    } catch (error) {
      throw inWords(error, "The network cannot be opened");
    }
  }

  static async openOnWebGpu(runtime, model, about) {
    if (!runtime.getWebGpuDevice()) return null;
    try {
      const options = { accelerator: "webgpu", gpuOptions: { precision: "fp32" } };
      const compiled = await runtime.loadAndCompile(model, options);
      const network = new Network(runtime, compiled, about, "WebGPU");
      if (compiled.isFullyAccelerated) {
        await network.run(new Uint8Array(about.size[0] * about.size[1] * about.channels)); // a trial
        return network;
      }
      compiled.delete();
    } catch (error) {
      console.warn(error);
    }
    return null;
  }

  // From pixels (height, width, channels) to the arrays of the model's outputs, by name.
  async run(pixels) {
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
      return found;
    } catch (error) {
      throw inWords(error, "The network failed");
    } finally {
      images?.delete();
      Object.values(outputs).forEach((tensor) => tensor.delete());
    }
  }
}
