/** A checkpoint from its config.json alone: the tensors are those that the architecture asks for. */

import { PhiError, printable } from "../errors.ts";
import { readConfig } from "../files/config.ts";
import { safetensorsHeader } from "../files/safetensors.ts";
import type { Folder } from "../files/source.ts";
import { declareWeights } from "./architecture.ts";
import { readArchitecture } from "./table.ts";

export interface DeclaredTensor {
  readonly name: string;
  readonly shape: readonly number[];
}

/** config.json, parsed. */
export type Config = Readonly<Record<string, unknown>>;

const encode = (value: unknown) => new TextEncoder().encode(`${JSON.stringify(value, undefined, 2)}\n`);

/** Names and shapes of a model's tensors, in the order of its layers. Throws a PhiError "checkpoint" for the config. */
export function declaredTensors(config: Config): readonly DeclaredTensor[] {
  const declared = declareWeights(readArchitecture(readConfig("config.json", encode(config))));
  const tensors = new Map(
    [...declared.values()].flatMap((ref) => ref.tensors.map((need) => [need.name, need] as const)),
  );
  return [...tensors.values()].map(({ name, shape }) => ({ name, shape }));
}

/**
 * The checkpoint as a folder: config.json (and generation_config.json, if given), and model.safetensors with a header of
 * these tensors and zeros for data, which are made as they are read.
 */
export function declaredFolder(
  name: string,
  files: { readonly config: Config; readonly generationConfig?: Config },
  dtype: "F32" | "F16" | "BF16",
): Folder {
  const tensors = declaredTensors(files.config);
  const elements = tensors.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0);
  const header = safetensorsHeader(
    tensors.map((tensor) => ({ ...tensor, dtype })),
    new Map([["format", "pt"]]),
  );
  const contents = new Map([
    ["config.json", { start: encode(files.config), zeros: 0 }],
    ["model.safetensors", { start: header, zeros: elements * (dtype === "F32" ? 4 : 2) }],
  ]);
  if (files.generationConfig)
    contents.set("generation_config.json", { start: encode(files.generationConfig), zeros: 0 });
  return {
    name,
    list: async () => [...contents.keys()].sort(),
    async open(file) {
      const content = contents.get(file);
      if (content === undefined) return undefined;
      const { start } = content;
      const sizeBytes = start.length + content.zeros;
      return {
        name: file,
        sizeBytes,
        version: "declared",
        async read(offsetBytes, lengthBytes, into) {
          if (offsetBytes + lengthBytes > sizeBytes) {
            const range = `bytes ${offsetBytes} to ${offsetBytes + lengthBytes}`;
            throw new PhiError("io", `${printable(file)}: expected ${range}, got the end at byte ${sizeBytes}`);
          }
          const bytes = into?.subarray(0, lengthBytes).fill(0) ?? new Uint8Array(lengthBytes);
          bytes.set(start.subarray(offsetBytes, offsetBytes + lengthBytes));
          return bytes;
        },
        assertUnchanged: async () => undefined,
        close: async () => undefined,
      };
    },
  };
}
