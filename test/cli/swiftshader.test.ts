import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  findBundle,
  hasSwiftShaderEnvironment,
  hasVulkanManifest,
  swiftShaderEnvironment,
  tarFiles,
  unpackSwiftShader,
} from "../../cli/swiftshader.ts";

let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "phi-test-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

test("a tar archive gives its files", () => {
  const header = (name: string, sizeBytes: number) => {
    const block = Buffer.alloc(512);
    block.write(name, 0, "latin1");
    block.write(`${sizeBytes.toString(8).padStart(11, "0")}\0`, 124, "latin1");
    return block;
  };
  const long = Buffer.alloc(600, "x");
  const archive = Buffer.concat([
    header("a.txt", 3),
    Buffer.from("abc"),
    Buffer.alloc(509),
    header("b", 600),
    long,
    Buffer.alloc(424 + 1024),
  ]);
  const files = [...tarFiles(archive)].map(({ name, bytes }) => [name, bytes.toString("latin1")]);
  expect(files).toEqual([
    ["a.txt", "abc"],
    ["b", long.toString("latin1")],
  ]);
});

describe("the Vulkan loader's search", () => {
  const manifest = () => {
    const path = join(folder, "vulkan/icd.d");
    mkdirSync(path, { recursive: true });
    writeFileSync(join(path, "driver.json"), "{}");
    return path;
  };
  test("VK_DRIVER_FILES alone decides, files or folders", () => {
    const path = manifest();
    expect(hasVulkanManifest({ VK_DRIVER_FILES: "/none" })).toBe(false);
    expect(hasVulkanManifest({ VK_DRIVER_FILES: `/none:${join(path, "driver.json")}` })).toBe(true);
    expect(hasVulkanManifest({ VK_DRIVER_FILES: path })).toBe(true);
    expect(hasVulkanManifest({ VK_DRIVER_FILES: "/none", VK_ICD_FILENAMES: path })).toBe(false);
    expect(hasVulkanManifest({ VK_ICD_FILENAMES: join(path, "other.json") })).toBe(false);
  });
  test("a user's own data folder is searched", () => {
    manifest();
    expect(hasVulkanManifest({ XDG_DATA_HOME: folder })).toBe(true);
  });
});

describe.skipIf(findBundle() === undefined)("the bundled driver", () => {
  const unpack = (cache: string) => {
    const bundle = findBundle();
    if (bundle === undefined) throw new Error("no bundle");
    return unpackSwiftShader(bundle, { XDG_CACHE_HOME: cache });
  };
  test("is unpacked once, and again where a file is missing", () => {
    const first = unpack(folder);
    expect(first.temporary).toBe(false);
    expect(readdirSync(first.folder).sort()).toEqual([
      "libvk_swiftshader.so",
      "libvulkan.so.1",
      "vk_swiftshader_icd.json",
    ]);
    const marker = join(first.folder, "marker");
    writeFileSync(marker, "");
    expect(unpack(folder).folder).toBe(first.folder);
    expect(existsSync(marker)).toBe(true);
    rmSync(join(first.folder, "libvulkan.so.1"));
    expect(unpack(folder)).toEqual(first);
    expect(existsSync(marker)).toBe(false);
    expect(readdirSync(join(folder, "phi-webgpu"))).toHaveLength(1);
  });
  test("goes to a fresh temporary folder where the cache is no folder", () => {
    const file = join(folder, "file");
    writeFileSync(file, "");
    const { folder: fresh, temporary } = unpack(file);
    expect(temporary).toBe(true);
    expect(readdirSync(fresh)).toHaveLength(3);
    rmSync(fresh, { recursive: true });
  });
  test("its environment is recognised", () => {
    const environment = swiftShaderEnvironment(folder, { LD_LIBRARY_PATH: "/opt/lib" });
    expect(environment.LD_LIBRARY_PATH).toBe(`${folder}:/opt/lib`);
    expect(hasSwiftShaderEnvironment(environment)).toBe(true);
    expect(hasSwiftShaderEnvironment({ ...environment, LD_LIBRARY_PATH: "/opt/lib" })).toBe(false);
    expect(hasSwiftShaderEnvironment({})).toBe(false);
  });
});
