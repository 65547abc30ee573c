/** What an architecture reads from config.json, and what it refuses there. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { readConfig } from "../../../engine/files/config.ts";
import { Graph } from "../../../engine/graph/graph.ts";
import { Weights } from "../../../engine/graph/weights.ts";
import type { Architecture } from "../../../engine/models/architecture.ts";
import { readArchitecture } from "../../../engine/models/table.ts";
import { failure } from "../../tempFolder.ts";

type Fields = Readonly<Record<string, unknown>>;

function configOf(fixture: string): Fields {
  const file = new URL(`../../fixtures/models/${fixture}/config.json`, import.meta.url);
  return JSON.parse(readFileSync(file, "utf8")) as Fields;
}

function read(config: Fields): Architecture {
  return readArchitecture(readConfig("config.json", new TextEncoder().encode(JSON.stringify(config))));
}

/** The nodes of one kind that a model records for one token. */
function nodes<Op extends Graph["nodes"][number]["op"]>(architecture: Architecture, op: Op) {
  const graph = new Graph("decode");
  architecture.forward(graph, new Weights());
  return graph.nodes.filter((node): node is Extract<Graph["nodes"][number], { op: Op }> => node.op === op);
}

describe("parts that a model has not", () => {
  test.each([
    ["phi-2", "sliding_window", 512],
    ["phi-2", "num_local_experts", 8],
    ["phi-3-mini-4k", "num_local_experts", 16],
    ["phi-3-small-128k", "sliding_window", 2048],
    ["phi-3-small-128k", "num_experts", 4],
  ])("%s with %s is refused", async (fixture, key, value) => {
    expect((await failure(() => read({ ...configOf(fixture), [key]: value }))).message).toMatch(
      `config.json: "${key}": expected none, for a "`,
    );
    read({ ...configOf(fixture), [key]: null });
  });
});

describe("phi3small", () => {
  const config: Fields = { ...configOf("phi-3-small-128k"), num_hidden_layers: 4 };

  const refused: readonly (readonly [change: Fields, message: RegExp])[] = [
    [{ ff_intermediate_size: null }, /"ff_intermediate_size": expected an integer from 1/],
    [{ ff_dim_multiplier: 4 }, /"ff_dim_multiplier": expected null/],
    [{ hidden_act: "gelu" }, /"hidden_act": expected "gegelu", got "gelu"/],
    [{ num_key_value_heads: 3 }, /"num_key_value_heads": expected a divisor/],
    [{ layer_norm_epsilon: 0 }, /"layer_norm_epsilon": expected a finite number above 0/],
    [{ gegelu_limit: 0 }, /"gegelu_limit": expected a finite number above 0/],
    [{ mup_width_multiplier: 0 }, /"mup_width_multiplier": expected a finite number above 0/],
    [{ mup_attn_multiplier: "1" }, /"mup_attn_multiplier": expected a finite number/],
    [{ blocksparse_block_size: 0 }, /"blocksparse_block_size": expected an integer from 1/],
    [{ blocksparse_vert_stride: 1e9 }, /"blocksparse_vert_stride": expected an integer from 1/],
    [{ blocksparse_num_local_blocks: 2.5 }, /"blocksparse_num_local_blocks": expected an integer from 1/],
    [{ dense_attention_every_n_layers: -1 }, /"dense_attention_every_n_layers": expected an integer from 1/],
    [{ rope_embedding_base: 0 }, /"rope_embedding_base": expected a finite number above 0/],
    [{ rope_position_scale: -2 }, /"rope_position_scale": expected a finite number above 0/],
    [{ dummy_token_indices: [3, 256] }, /"dummy_token_indices": expected an integer from 0 to 255, got 256 at index 1/],
  ];
  test.each(refused)("%j is refused", async (change, message) => {
    expect((await failure(() => read({ ...config, ...change }))).message).toMatch(message);
  });

  test("dense layers, blocks and the head's own blocks", () => {
    const visible = (change: Fields) => nodes(read({ ...config, ...change }), "attention").map((node) => node.visible);
    const dense = { window: undefined };
    const blocks = (headStep: number, stride = 8) => ({ blocks: { size: 16, local: 2, stride, headStep } });
    expect(visible({})).toEqual([blocks(2), dense, blocks(2), dense]);
    expect(visible({ dense_attention_every_n_layers: 3 })).toEqual([blocks(2), blocks(2), dense, blocks(2)]);
    expect(visible({ dense_attention_every_n_layers: null })).toEqual([blocks(2), blocks(2), blocks(2), blocks(2)]);
    expect(visible({ blocksparse_homo_head_pattern: true })[0]).toEqual(blocks(0));
    expect(visible({ blocksparse_vert_stride: 15 })[0]).toEqual(blocks(3, 15));
    expect(visible({ blocksparse_vert_stride: 3 })[0]).toEqual(blocks(1, 3));
  });

  test("what is not chosen: the list of the config, else that of the published vocabulary", () => {
    const masked = (change: Fields) => {
      const [node] = nodes(read({ ...config, ...change }), "scaleMask");
      return node?.mask.values?.flatMap((value, id) => (value === 0 ? [] : [id])) ?? [];
    };
    expect(masked({})).toEqual(config.dummy_token_indices);
    expect(masked({ dummy_token_indices: undefined })).toEqual([]);
    const published = masked({ vocab_size: 100352, dummy_token_indices: undefined });
    expect(published.slice(0, 8)).toEqual([100256, 100258, 100259, 100260, 100264, 100265, 100267, 100268]);
    expect(published.at(-1)).toBe(100351);
    expect(published).toHaveLength(91);
  });

  test("multipliers: by default the published ones, none where the config says null", () => {
    const of = (value: unknown) => {
      const architecture = read({
        ...config,
        mup_embedding_multiplier: value,
        mup_width_multiplier: value,
        gegelu_limit: value,
      });
      return [
        nodes(architecture, "embed")[0]?.scale,
        nodes(architecture, "scaleMask")[0]?.scale,
        nodes(architecture, "gegelu")[0]?.limit,
      ];
    };
    expect(of(undefined)).toEqual([10, 1 / 8, 20]);
    expect(of(null)).toEqual([1, 1, 3.4028234663852886e38]);
    const scale = (change: Fields) => nodes(read({ ...config, ...change }), "attention")[0]?.scale;
    expect(scale({ mup_attn_multiplier: 2 })).toBe(2 / 32);
    expect(scale({ mup_use_scaling: false })).toBe(32 ** -0.5);
  });
});

describe("phimoe", () => {
  const config = configOf("phi-3.5-moe-wide-jitter");

  const refused: readonly (readonly [change: Fields, message: RegExp])[] = [
    [{ num_local_experts: 1 }, /"num_local_experts": expected an integer from 2 to 256, got 1/],
    [{ num_local_experts: 1e9 }, /"num_local_experts": expected an integer from 2 to 256/],
    [{ num_experts_per_tok: 4 }, /"num_experts_per_tok": expected 2, as sparsemixer has, got 4/],
    [{ router_jitter_noise: -0.1 }, /"router_jitter_noise": expected a finite number of at least 0/],
    [{ intermediate_size: 0 }, /"intermediate_size": expected an integer from 1/],
    [{ rms_norm_eps: 1 }, /"rms_norm_eps": expected a finite number above 0 up to 0.1/],
    [{ attention_bias: "yes" }, /"attention_bias": expected true or false/],
    [{ sliding_window: 0 }, /"sliding_window": expected an integer from 1/],
  ];
  test.each(refused)("%j is refused", async (change, message) => {
    expect((await failure(() => read({ ...config, ...change }))).message).toMatch(message);
  });

  test("biases where the config has them; every expert's three matrices", () => {
    const names = (change: Fields) => {
      const weights = new Weights();
      read({ ...config, ...change }).forward(new Graph("decode"), weights);
      return [...weights.declared.values()].flatMap((ref) => ref.tensors.map(({ name }) => name));
    };
    const all = names({});
    expect(all.filter((name) => name.includes(".experts."))).toHaveLength(2 * 4 * 3);
    expect(all.filter((name) => /(proj|lm_head)\.bias$/.test(name))).toHaveLength(2 * 4 + 1);
    const bare = names({ attention_bias: false, lm_head_bias: false });
    expect(bare.filter((name) => /(proj|lm_head)\.bias$/.test(name))).toEqual([]);
  });

  test("mscale stands in for longrope's own factor; a token uses two experts", () => {
    const architecture = read(config);
    const { short, long, originalPositions } = architecture.rope.longrope ?? {};
    expect([short?.magnitude, long?.magnitude, originalPositions]).toEqual([1.1, 1.35, 40]);
    const shares = nodes(architecture, "expertLinear").map(({ weight }) => weight.activeShare);
    expect(shares).toEqual([0.5, 0.5, 0.5, 0.5]);
  });
});
