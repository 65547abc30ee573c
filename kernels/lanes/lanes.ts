/** Whether the threads of a subgroup share what they load (lanes/*.wgsl). */

import type { Kernel } from "../kernel.ts";

const one = new URL("./one.wgsl", import.meta.url);
const subgroup = new URL("./subgroup.wgsl", import.meta.url);

/** What a kernel needs for subgroups of `size` threads, which share their loads; 1: nothing is shared. */
export function lanes(size: number): Required<Pick<Kernel, "files" | "tile" | "features">> {
  if (size === 1) return { files: [one], tile: {}, features: [] };
  return { files: [subgroup], tile: { SUBGROUP: size }, features: ["subgroups"] };
}
