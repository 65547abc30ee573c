/** Names of models on the hub: `organisation/name`, with a branch, tag or commit after an `@`. */
import { PhiError, printable, unsafePath } from "../engine/index.ts";

export interface Repository {
  /** e.g. `microsoft/phi-2` */
  readonly id: string;
  /** A branch, tag, `refs/pr/1` or commit. */
  readonly revision: string;
}

/** A commit, which names a snapshot for ever. */
export const commitPattern = /^[0-9a-f]{40}$/;

/** The name, or undefined where `text` is none. Rules of names: huggingface_hub's `validate_repo_id`. */
export function parseRepository(text: string): Repository | undefined {
  const [, id = "", revision] = /^([^@]*)(?:@(.*))?$/s.exec(text) ?? [];
  const parts = id.split("/");
  const isName = (part: string) => /^\w(?:[\w.-]*\w)?$/.test(part) && !/--|\.\.|\.git$/.test(part);
  if (parts.length !== 2 || id.length > 96 || !parts.every(isName)) return undefined;
  if (revision === undefined) return { id, revision: "main" };
  const isSafe =
    unsafePath(revision) === undefined && !/[\s~^?*[\]]|\.lock$/.test(revision) && !revision.startsWith("-");
  return isSafe ? { id, revision } : undefined;
}

/** The name, or a PhiError "usage". */
export function readRepository(text: string): Repository {
  const repository = parseRepository(text);
  if (repository !== undefined) return repository;
  throw new PhiError(
    "usage",
    `expected a model's name such as microsoft/phi-2 or microsoft/phi-2@main, got "${printable(text)}"`,
  );
}

/** As it is shown: the revision only where it is not the default. */
export function repositoryText({ id, revision }: Repository): string {
  return revision === "main" ? id : `${id}@${revision}`;
}
