/** What waits for a GPU: it ends with the device's first failure, and not later than a watchdog says. */

import { PhiError } from "../errors.ts";

/** How long the event loop sleeps at a time while a software adapter computes: short beside a token's time. */
const restMs = 0.5;

interface WaitingOptions {
  /** A GPU that has not answered for this long is given up. */
  readonly watchdogMs: number;
  /** Whether a CPU stands in for the GPU. */
  readonly isSoftware: boolean;
}

export class Waiting {
  readonly #options: WaitingOptions;
  #failure: PhiError | undefined;
  /** Each is told when the device fails. */
  readonly #waiting = new Set<(error: PhiError) => void>();
  #isResting = false;

  constructor(options: WaitingOptions) {
    this.#options = options;
  }

  /** The device's first failure. */
  get failure(): PhiError | undefined {
    return this.#failure;
  }

  /** The first failure is the device's; everything that waits for the GPU ends with it. */
  fail(error: PhiError): void {
    this.#failure ??= error;
    for (const reject of this.#waiting) reject(this.#failure);
    this.#waiting.clear();
  }

  /**
   * Waits for the GPU, but neither past its failure nor for ever. Not by Promise.race with a promise that lives as long
   * as the device: that would keep something of every wait until the end.
   */
  guard<T>(work: Promise<T>, label: string): Promise<T> {
    const { watchdogMs, isSoftware } = this.#options;
    return new Promise<T>((resolve, reject) => {
      const timer = setTimeout(
        () => end(() => reject(new PhiError("gpu", `${label}: the GPU has not answered for ${watchdogMs / 1000} s`))),
        watchdogMs,
      );
      const failed = (error: PhiError) => end(() => reject(error));
      const end = (settle: () => void) => {
        clearTimeout(timer);
        this.#waiting.delete(failed);
        settle();
      };
      this.#waiting.add(failed);
      if (isSoftware) this.#rest();
      work.then(
        (value) => end(() => resolve(value)),
        (error: unknown) => end(() => reject(error)),
      );
      if (this.#failure !== undefined) failed(this.#failure);
    });
  }

  /**
   * Dawn's Node binding asks for news at every turn of the event loop and lets it turn as fast as it can, which takes from a
   * software adapter the CPU that it computes on. While anything waits, each turn sleeps a little.
   */
  #rest(): void {
    if (this.#isResting || typeof setImmediate === "undefined") return;
    this.#isResting = true;
    const neverChanges = new Int32Array(new SharedArrayBuffer(4));
    const turn = () => {
      this.#isResting = this.#waiting.size > 0;
      if (!this.#isResting) return;
      Atomics.wait(neverChanges, 0, 0, restMs);
      setImmediate(turn);
    };
    setImmediate(turn);
  }
}
