/** A model on the hub as a folder: what is in it, and bytes of its files by range requests. */
import { type Folder, PhiError, printable, unsafePath } from "../engine/index.ts";
import type { HubClient } from "./client.ts";
import { commitPattern, type Repository, repositoryText } from "./repository.ts";

export interface RemoteFile {
  readonly path: string;
  readonly sizeBytes: number;
  /** SHA-256 of a large file, git's SHA-1 (of a blob object) of a small one; the cache calls the file by it. */
  readonly hash: string;
  readonly url: string;
}

export interface RemoteModel {
  readonly repository: Repository;
  readonly commit: string;
  readonly files: ReadonlyMap<string, RemoteFile>;
  /** The same as a folder of the engine: only what is read of a file is fetched. */
  readonly folder: Folder;
}

/** Asks the hub what a revision is and holds. Throws a PhiError "checkpoint" where there is none, "io" otherwise. */
export async function openRemote(client: HubClient, repository: Repository): Promise<RemoteModel> {
  const { listFiles, modelInfo } = await import("@huggingface/hub");
  const { endpoint } = client.settings;
  const { id } = repository;
  // No token is given to the library: the client has it, and takes tokens that do not begin with "hf_".
  const common = { hubUrl: endpoint, fetch: client.fetch };
  const what = repositoryText(repository);
  const { sha: commit } = await readAnswer(what, () =>
    modelInfo({ name: id, revision: repository.revision, additionalFields: ["sha"], ...common }),
  );
  if (typeof commit !== "string" || !commitPattern.test(commit)) {
    throw new PhiError("io", `${what}: expected a commit from ${endpoint}, got "${printable(String(commit))}"`);
  }
  const files = new Map<string, RemoteFile>();
  await readAnswer(what, async () => {
    for await (const entry of listFiles({
      repo: { type: "model", name: id },
      revision: commit,
      recursive: true,
      ...common,
    })) {
      const { type, path, size, oid, lfs } = entry;
      if (type !== "file" || typeof path !== "string" || unsafePath(path) !== undefined) continue;
      const hash = (lfs?.oid ?? oid ?? "").replace(/^sha256:/, "");
      const sizeBytes = lfs?.size ?? size;
      if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0 || !/^(?:[0-9a-f]{40}|[0-9a-f]{64})$/.test(hash)) {
        throw new PhiError(
          "io",
          `${what}: expected size and hash of ${printable(path)} from ${endpoint}, got "${printable(hash)}"`,
        );
      }
      const name = path.split("/").map(encodeURIComponent).join("/");
      files.set(path, { path, sizeBytes, hash, url: `${endpoint}/${id}/resolve/${commit}/${name}` });
    }
  });
  return { repository, commit, files, folder: remoteFolder(client, what, files) };
}

/** The library reads JSON as it comes: what trips it is an answer that is none of the hub's. */
async function readAnswer<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof TypeError || error instanceof SyntaxError)) throw error;
    throw new PhiError(
      "io",
      `${what}: expected an answer of the Hugging Face hub, got one that cannot be read`,
      ["Check HF_ENDPOINT, and whether a proxy or a login page answers in its place."],
      { cause: error },
    );
  }
}

function remoteFolder(client: HubClient, name: string, files: ReadonlyMap<string, RemoteFile>): Folder {
  return {
    name,
    list: async () => [...files.keys()].filter((path) => !path.includes("/")).sort(),
    async open(path) {
      const file = files.get(path);
      if (file === undefined) return undefined;
      const { sizeBytes, hash, url } = file;
      return {
        name: path,
        sizeBytes,
        version: hash,
        async read(offsetBytes, lengthBytes, into) {
          if (offsetBytes + lengthBytes > sizeBytes) {
            const range = `bytes ${offsetBytes} to ${offsetBytes + lengthBytes}`;
            throw new PhiError("io", `${printable(path)}: expected ${range}, got the end at byte ${sizeBytes}`);
          }
          if (lengthBytes === 0) return new Uint8Array();
          const bytes = await client.bytes(url, `${name}: ${printable(path)}`, { offsetBytes, lengthBytes, sizeBytes });
          if (into === undefined) return bytes;
          into.set(bytes);
          return into.subarray(0, lengthBytes);
        },
        assertUnchanged: async () => undefined, // a commit does not change
        close: async () => undefined,
      };
    },
  };
}
