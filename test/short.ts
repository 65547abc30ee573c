/**
 * Whether this is a short run (`npm test`), which leaves out what takes long and says the same once more: further cases of a
 * test, not the only one of a kernel, an architecture, a format or a command. `npm run test:all` runs everything.
 */
export const isShort = process.env.PHI_TEST_SHORT === "1";
