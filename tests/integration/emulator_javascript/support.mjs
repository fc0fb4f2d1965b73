// What the scripts share: packages from the cache of the tests, and checks that end the process on the first failure.
import { createRequire } from "node:module";
import path from "node:path";

export const load = createRequire(path.join(process.env.NODE_PACKAGES, "index.js"));
export const ready = JSON.parse(process.env.EMULATOR_READY);

/** The refusal that `attempt` ends in; it is an error if it succeeds. */
export async function refusal(attempt) {
  let value;
  try {
    value = await attempt();
  } catch (error) {
    return error;
  }
  throw new Error(`expected a refusal, got ${JSON.stringify(value)}`);
}

/** Run the named checks in order and say which one failed. */
export async function run(checks) {
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
      console.log(`ok ${name}`);
    } catch (error) {
      console.error(`failed ${name}\n${error.stack ?? error}`);
      process.exit(1);
    }
  }
  process.exit(0); // the clients keep sockets alive
}
