// A photo from the camera, in a dialog.

import { Failure } from "./failure.js";

const $ = (id) => document.getElementById(id);

const WHY = {
  NotAllowedError: "The browser was not allowed to use the camera.",
  NotFoundError: "There is no camera.",
  NotReadableError: "The camera is in use elsewhere.",
};

// `use` is called with the photo, `fail` with an error in words.
export async function openCamera(use, fail) {
  const dialog = $("camera");
  const video = $("video");
  let stream;
  try {
    stream = await ask();
  } catch (error) {
    return fail(error instanceof Failure ? error : failure(error));
  }
  stop(video);
  video.srcObject = stream;
  dialog.onclose = () => stop(video);
  $("close").onclick = () => dialog.close();
  $("shoot").disabled = true; // until there is a picture
  $("shoot").onclick = () => {
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    dialog.close();
    canvas.toBlob(use);
  };
  dialog.showModal();
  try {
    await video.play();
    $("shoot").disabled = false;
  } catch (error) {
    if (video.srcObject !== stream) return; // the dialog was closed before there was a picture
    dialog.close();
    fail(failure(error));
  }
}

// The camera's stream. The browser may ask the person first: meanwhile the button does nothing.
async function ask() {
  if (!navigator.mediaDevices) throw new Failure("A camera needs an address with https.");
  const button = $("take");
  button.disabled = true;
  try {
    // the one on the back, of a phone
    const wanted = { facingMode: "environment", width: { ideal: 1920 } };
    return await navigator.mediaDevices.getUserMedia({ video: wanted });
  } finally {
    button.disabled = false;
    button.focus(); // disabled it lost the focus; a dialog that closes gives it to what had it before
  }
}

function stop(video) {
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
}

function failure(cause) {
  return new Failure(WHY[cause.name] ?? `The camera cannot be used: ${cause.message}`, { cause });
}
