// What went wrong, in words for the person before the screen.

export class Failure extends Error {}

const MEMORY = /memory|allocat|\bOOM\b/i;

// Any error as a failure: its own words, that memory is short, or `what` with the error's words.
export function inWords(error, what) {
  if (error instanceof Failure) return error;
  // a script that does not come is an event
  const words = error?.message ?? `${error?.target?.src ?? error} cannot be loaded`;
  if (error instanceof RangeError || MEMORY.test(words)) {
    const advice = "Close other pages, or open this one on a larger device.";
    return new Failure(`There is not enough memory for this network. ${advice}`, { cause: error });
  }
  return new Failure(`${what}: ${words}`, { cause: error });
}
