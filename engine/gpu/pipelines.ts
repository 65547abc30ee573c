/** From kernels to pipelines: joins the WGSL files, reads their bindings and compiles each specialisation once. */

import type { Kernel } from "../../kernels/kernel.ts";
import { readText } from "../files/open.ts";
import type { Device } from "./device.ts";

/** A variable of a WGSL module that needs a resource. */
export interface Binding {
  readonly name: string;
  readonly group: number;
  readonly binding: number;
  readonly type: GPUBufferBindingType;
}

export interface Pipeline {
  readonly gpu: GPUComputePipeline;
  readonly bindings: readonly Binding[];
  /** By group number. */
  readonly layouts: readonly GPUBindGroupLayout[];
}

export interface Pipelines {
  /** The pipeline of a kernel; equal specialisations share one. */
  get(kernel: Kernel): Promise<Pipeline>;
  /** Pipelines compiled so far. */
  readonly compiled: number;
  /** Milliseconds in which one was being compiled, at least. */
  readonly compileMs: number;
}

/** A bind group for each group number; `resourceOf` gives what is bound to a variable. Throws an Error where it has nothing. */
export function bindGroups(
  device: Device,
  label: string,
  { layouts, bindings }: Pipeline,
  resourceOf: (name: string) => GPUBindingResource | undefined,
): readonly GPUBindGroup[] {
  return layouts.map((layout, group) => {
    const entries = bindings
      .filter((binding) => binding.group === group)
      .map(({ name, binding }) => {
        const resource = resourceOf(name);
        if (resource === undefined) throw new Error(`${label}: nothing is bound to "${name}"`);
        return { binding, resource };
      });
    return device.createBindGroup(label, layout, entries);
  });
}

/** The module's text: the kernel's file first, so that a compiler's line numbers are those of the file. */
async function moduleText(kernel: Kernel, texts: Map<string, Promise<string>>): Promise<string> {
  const parts = await Promise.all(
    kernel.files.map((url) => {
      const text = texts.get(url.href) ?? readText(url);
      texts.set(url.href, text);
      return text;
    }),
  );
  const tile = Object.entries(kernel.tile).map(([name, value]) => `const ${name} = ${value}u;\n`);
  return directives(kernel) + inOneGroup([...parts, ...tile].join("\n"));
}

/**
 * In the files a group says what kind of resource it holds. A pipeline takes them all in one, for each group that is set
 * costs the host about as much as the dispatch itself.
 */
function inOneGroup(code: string): string {
  return code.replace(
    /@group\((\d+)\)\s*@binding\((\d+)\)/g,
    (_, group, binding) => `@group(0) @binding(${Number(group) * 16 + Number(binding)})`,
  );
}

/**
 * Directives, joined to the first line. That subgroups run together is the kernels' own care: they use them where a loop
 * takes the same course in all threads, which WGSL's analysis cannot always see.
 */
function directives({ features = [] }: Kernel): string {
  return features.map((name) => `enable ${name}; diagnostic(off, subgroup_uniformity); `).join("");
}

const bindingPattern =
  /@group\((\d+)\)\s*@binding\((\d+)\)\s*var<\s*(uniform|storage)\s*(?:,\s*(read|read_write)\s*)?>\s*(\w+)/g;

/** The resource variables that a module declares. */
export function readBindings(code: string): readonly Binding[] {
  return [...code.matchAll(bindingPattern)].map(([, group, binding, space, access, name]) => ({
    name: name ?? "",
    group: Number(group),
    binding: Number(binding),
    type: space === "uniform" ? "uniform" : access === "read_write" ? "storage" : "read-only-storage",
  }));
}

/** A cache of pipelines on one device. */
export function createPipelines(device: Device): Pipelines {
  const texts = new Map<string, Promise<string>>();
  const modules = new Map<string, GPUShaderModule>();
  const layouts = new Map<string, GPUBindGroupLayout>();
  const pipelines = new Map<string, Promise<Pipeline>>();

  function groupLayout(bindings: readonly Binding[]): GPUBindGroupLayout {
    const key = bindings.map(({ binding, type }) => `${binding} ${type}`).join();
    const known = layouts.get(key);
    if (known !== undefined) return known;
    const entries = bindings.map(({ binding, type }) => ({
      binding,
      visibility: GPUShaderStage.COMPUTE,
      buffer: { type },
    }));
    const layout = device.gpu.createBindGroupLayout({ label: key, entries });
    layouts.set(key, layout);
    return layout;
  }

  async function compile(kernel: Kernel, code: string): Promise<Pipeline> {
    for (const [name, value] of Object.entries(kernel.constants)) {
      // An integer override given a fraction is accepted silently.
      if (!new RegExp(`override\\s+${name}\\s*:\\s*f32`).test(code) && !Number.isInteger(value)) {
        throw new Error(`${kernel.name}: constant ${name} is ${value}, not an integer`);
      }
    }
    const module = modules.get(code) ?? device.createShaderModule(kernel.name, code);
    modules.set(code, module);
    const bindings = readBindings(code);
    const groups = Math.max(...bindings.map(({ group }) => group)) + 1;
    const groupLayouts = Array.from({ length: groups }, (_, group) =>
      groupLayout(bindings.filter((b) => b.group === group)),
    );
    const label = `${kernel.name} ${JSON.stringify({ ...kernel.constants, ...kernel.tile })}`;
    const gpu = await device.createComputePipeline({
      label,
      layout: device.gpu.createPipelineLayout({ label, bindGroupLayouts: groupLayouts }),
      compute: { module, entryPoint: "main", constants: { ...kernel.constants } },
    });
    return { gpu, bindings, layouts: groupLayouts };
  }

  let compiling = 0;
  let compileMs = 0;
  let beganMs = 0;
  async function timed(kernel: Kernel, code: string): Promise<Pipeline> {
    if (compiling++ === 0) beganMs = performance.now();
    try {
      return await compile(kernel, code);
    } finally {
      if (--compiling === 0) compileMs += performance.now() - beganMs;
    }
  }

  return {
    async get(kernel) {
      const code = await moduleText(kernel, texts);
      const key = `${JSON.stringify(kernel.constants)}\n${code}`;
      const known = pipelines.get(key) ?? timed(kernel, code);
      pipelines.set(key, known);
      return known;
    },
    get compileMs() {
      return compileMs;
    },
    get compiled() {
      return pipelines.size;
    },
  };
}
