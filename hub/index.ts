/** Models of the Hugging Face hub by their names: download, cache, list, remove. Node only. */

export {
  type CachedModel,
  type CachedRevision,
  cachedSnapshot,
  hasTokenizer,
  isComplete,
  listCached,
  planRemoval,
  type Removal,
} from "./cache.ts";
export {
  type HubOptions,
  type PulledModel,
  type PullOptions,
  type PullPlan,
  type PullProgress,
  pull,
  remoteModelFolder,
} from "./pull.ts";
export { parseRepository, type Repository, readRepository, repositoryText } from "./repository.ts";
export { type HubSettings, hubSettings } from "./settings.ts";
