// The one rule that every producer has to get right: which session a brook's commands travel in.
import { createHash } from "node:crypto";

/** What Service Bus takes, in UTF-16 units; a string's length is counted in these. */
const SESSION_ID_LENGTH_MAX = 128;

/**
 * The session id of a brook. Without buckets: the brook key, or its hash where it is too long. With buckets: one of so
 * many, by hash; the number must be that of the workers' setting `session_buckets`.
 */
export function sessionIdFor({ name, entityId }, buckets) {
  const key = `${name}|${entityId}`;
  if (buckets !== undefined) {
    // 60 bits of the hash: more than a number holds exactly.
    return `bucket:${BigInt(`0x${sha256(key).slice(0, 15)}`) % BigInt(buckets)}/${buckets}`;
  }
  return key.length <= SESSION_ID_LENGTH_MAX ? key : `sha256:${sha256(key)}`;
}

function sha256(text) {
  return createHash("sha256").update(text, "utf8").digest("hex");
}
