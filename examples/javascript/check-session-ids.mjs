// Compares the session ids that this producer makes with known ones: node check-session-ids.mjs FILE
import { readFileSync } from "node:fs";
import { sessionIdFor } from "./session-id.mjs";

if (process.argv.length !== 3) {
  console.error("use: node check-session-ids.mjs ../session-ids.json");
  process.exit(2);
}
const vectors = JSON.parse(readFileSync(process.argv[2], "utf8"));
const wrong = vectors.filter((each) => sessionIdFor(each.brook, each.buckets ?? undefined) !== each.sessionId);
for (const each of wrong) {
  console.error(`${JSON.stringify(each)}: got ${sessionIdFor(each.brook, each.buckets ?? undefined)}`);
}
console.log(`${vectors.length - wrong.length} of ${vectors.length} session ids are right`);
process.exit(wrong.length === 0 && vectors.length > 0 ? 0 : 1);
