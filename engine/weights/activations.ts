/** Whether linears may take their input in integers: of the model it needs integer weights, of the device a WGSL feature. */

import type { ActivationFormat } from "../../kernels/linear/linear.ts";
import { PhiError } from "../errors.ts";
import type { Device } from "../gpu/device.ts";
import type { CheckedWeights } from "./check.ts";

export const activationFormats = ["f32", "int8"] as const satisfies readonly ActivationFormat[];

/** With which int8 activations are multiplied (kernels/linear/activations/int8.wgsl). */
const integerDot = "packed_4x8_integer_dot_product";

/** The format that was asked for, default f32. Throws a PhiError "usage" for one that there is not, or that serves no weight. */
export function checkActivations(
  asked: ActivationFormat | undefined,
  { declared, packing }: Pick<CheckedWeights, "declared" | "packing">,
): ActivationFormat {
  const format = asked ?? "f32";
  if (!activationFormats.includes(format)) {
    throw new PhiError(
      "usage",
      `--activations: expected one of ${activationFormats.join(", ")}, got ${JSON.stringify(format)}`,
    );
  }
  const isInteger = [...declared.values()].some((ref) => ref.kind === "matrix" && "group" in packing(ref));
  if (format === "f32" || isInteger) return format;
  throw new PhiError("usage", "--activations: expected f32, got int8: this model's weights are floats", [
    "Integers are multiplied with integers: give --quantize int4 or int8 as well, or take a GPTQ or AWQ checkpoint.",
  ]);
}

/** Refuses int8 where WGSL has no dot product for it. Throws a PhiError "machine". */
export async function checkIntegerDot(device: Device, format: ActivationFormat): Promise<void> {
  if (format === "f32" || (await device.hasLanguageFeature(integerDot))) return;
  throw new PhiError(
    "machine",
    `--activations: expected f32, got int8: no WGSL feature ${integerDot} on ${device.adapterName}`,
    ["Leave --activations out. --no-features and PHI_FEATURES=none keep this feature out of use, too."],
  );
}
