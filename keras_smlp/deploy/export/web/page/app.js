// The page: a photo comes in, its likeliest classes go out. Nothing leaves the browser.

import { openCamera } from "./camera.js";
import { Failure, inWords } from "./failure.js";
import { drawMap, drawScale } from "./heat.js";
import { Network, loadRuntime, readAbout, readModel, wantedDevice } from "./network.js";
import { decoded, draw, pixels } from "./photo.js";

const NAMES = 5;
// milliseconds; a shorter wait for the network is not worth a word
const WAIT = 100;
const $ = (id) => document.getElementById(id);

let latest = 0; // counts photos: an answer to an older one is dropped
let answer = null; // {maps, rows, columns} of the answer on the page, if the model has maps

// ---- the network --------------------------------------------------------------------------------
const described = readAbout();
const network = load();
network.catch(fail);

async function load() {
  const device = wantedDevice();
  const about = await described;
  describe(about);
  say(`Loading the network, ${megabytes(about.model.bytes)} …`);
  $("loading").hidden = false;
  try {
    const progress = (bytes) => ($("loading").value = bytes / about.model.bytes);
    const files = [loadRuntime(about.runtime), readModel(about.model, progress)];
    const [runtime, model] = await Promise.all(files);
    const opened = await Network.open(runtime, model, about, device);
    if (!latest) say("The network is ready.");
    return opened;
  } finally {
    $("loading").hidden = true;
  }
}

function describe({ metadata, model, size }) {
  const entries = {
    Classes: metadata.class_names?.length,
    Sees: `${size[1]} × ${size[0]} pixels`,
    File: megabytes(model.bytes),
    Weights: metadata.origin,
    License: metadata.license,
    "Made by": metadata.made_by,
  };
  for (const [term, value] of Object.entries(entries)) {
    if (value) $("about").append(element("dt", term), element("dd", value));
  }
}

// ---- a photo ------------------------------------------------------------------------------------
async function classify(file) {
  const turn = ++latest;
  const begin = performance.now();
  clear();
  say("Looking at the photo …");
  try {
    if (!file) throw new Failure("That was no image file.");
    const about = await described;
    const bitmap = await decoded(file);
    if (turn !== latest) return bitmap.close();
    draw(bitmap, about, $("photo"));
    $("stage").hidden = false;
    const input = pixels(bitmap, about);
    bitmap.close();
    const read = performance.now();
    const opened = await network;
    await painted(); // the network then keeps the page busy
    if (turn !== latest) return;
    const start = performance.now();
    const found = await opened.run(input);
    if (turn !== latest) return;
    show(found, about);
    // for scripts of your own: the arrays by name, of all classes
    document.dispatchEvent(new CustomEvent("answer", { detail: found }));
    const end = performance.now();
    const waited = start - read > WAIT ? `${seconds(start - read)} to load the network, ` : "";
    $("time").textContent =
      `Answered in ${seconds(end - begin)}: ${seconds(read - begin)} for the photo, ${waited}` +
      `${seconds(end - start)} in the network, on ${opened.device}.`;
    $("names").scrollIntoView({ block: "nearest" }); // it is below the photo on a phone
  } catch (error) {
    if (turn === latest) fail(error);
  }
}

function painted() {
  const frame = new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  // in a page that is not seen there are no frames
  return Promise.race([frame, new Promise((resolve) => setTimeout(resolve, 100))]);
}

function show({ probabilities, maps }, { metadata, map, size }) {
  const names = metadata.class_names;
  const nameOf = (index) => names?.[index] ?? `class ${index}`;
  const best = [...probabilities.keys()]
    .sort((a, b) => probabilities[b] - probabilities[a])
    .slice(0, NAMES);
  answer = maps && { maps, rows: map[0], columns: map[1], size };
  $("names").replaceChildren(
    ...best.map((index) => line(index, nameOf(index), probabilities[index])),
  );
  $("map-controls").hidden = !answer;
  if (answer) choose(best[0]);
  const said = best.slice(0, 3).map((i) => `${nameOf(i)}, ${percent(probabilities[i])}`);
  say(`${said.join("; ")}.`, true);
}

// One name with its bar: a button, if there is a map of it to show.
function line(index, name, probability) {
  const inside = element(answer ? "button" : "div");
  const bar = element("progress");
  bar.value = probability;
  bar.setAttribute("aria-hidden", "true");
  inside.append(element("span", name, "name"), element("span", percent(probability), "part"), bar);
  if (answer) {
    inside.type = "button";
    inside.dataset.index = index;
    inside.addEventListener("click", () => choose(index));
  }
  const item = element("li");
  item.append(inside);
  return item;
}

function choose(index) {
  for (const button of $("names").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", button.dataset.index === String(index));
  }
  drawMap($("heat"), answer, index);
}

// ---- what is said -------------------------------------------------------------------------------
// In words, for screen readers alone if it is also seen elsewhere.
function say(words, isHeardOnly = false) {
  $("status").textContent = words;
  $("status").classList.toggle("only-heard", isHeardOnly);
}

function fail(error) {
  console.error(error);
  say("");
  $("error").textContent = inWords(error, "Something failed").message;
  $("error").hidden = false;
}

function clear() {
  $("error").hidden = true;
  $("error").textContent = "";
  $("time").textContent = "";
  $("names").replaceChildren();
  $("map-controls").hidden = $("stage").hidden = true;
  $("heat").width = 0;
}

// Names from files become text, never HTML.
function element(kind, text = "", name = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  made.className = name;
  return made;
}

const percent = (part) => `${(100 * part).toFixed(part < 0.1 ? 1 : 0)}%`;
const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(2)} s`;
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

// ---- ways in ------------------------------------------------------------------------------------
$("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = ""; // the same file can be chosen again
  if (file) classify(file);
});
$("take").addEventListener("click", () => openCamera(classify, fail));
$("show-map").addEventListener("change", (event) => ($("heat").hidden = !event.target.checked));
addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  classify(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) classify(file);
});
drawScale($("scale"));
