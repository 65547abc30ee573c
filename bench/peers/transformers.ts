/** transformers.js on ONNX Runtime's WebGPU. */
import { join } from "node:path";
import { importFrom, measure } from "./runner.ts";

interface Package {
  readonly env: { allowRemoteModels: boolean; localModelPath: string };
  readonly AutoModelForCausalLM: {
    from_pretrained(name: string, options: object): Promise<{ generate(options: object): Promise<unknown> }>;
  };
  readonly Tensor: new (type: string, data: BigInt64Array, shape: readonly number[]) => object;
}

await measure(async ({ folder }) => {
  const { module, version } = await importFrom<Package>(folder, "@huggingface/transformers");
  const runtime = await importFrom<unknown>(folder, "onnxruntime-node");
  const { env, AutoModelForCausalLM, Tensor } = module;
  env.allowRemoteModels = false;
  env.localModelPath = join(folder, "/");
  const model = await AutoModelForCausalLM.from_pretrained("model", {
    device: "webgpu",
    dtype: "q4",
    use_external_data_format: true,
    local_files_only: true,
  });
  return {
    versions: `${version}, ${runtime.version}`,
    async generate(prompt, tokens, onToken) {
      const row = (values: readonly number[]) =>
        new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
      await model.generate({
        input_ids: row(prompt),
        attention_mask: row(prompt.map(() => 1)),
        min_new_tokens: tokens,
        max_new_tokens: tokens,
        do_sample: false,
        streamer: {
          // It gets the prompt first.
          put([ids = []]: readonly (readonly bigint[])[]) {
            if (ids.length === 1) onToken(Number(ids[0]));
          },
          end() {},
        },
      });
    },
  };
});
