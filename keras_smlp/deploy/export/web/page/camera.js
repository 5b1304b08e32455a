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
  try {
    if (!navigator.mediaDevices) throw new Failure("A camera needs an address with https.");
    // the one on the back, of a phone
    const wanted = { facingMode: "environment", width: { ideal: 1920 } };
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: wanted });
  } catch (error) {
    return fail(error instanceof Failure ? error : inWords(error));
  }
  dialog.onclose = () => {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
  };
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
  await video.play();
  $("shoot").disabled = false;
}

function inWords(cause) {
  return new Failure(WHY[cause.name] ?? `The camera cannot be used: ${cause.message}`, { cause });
}
