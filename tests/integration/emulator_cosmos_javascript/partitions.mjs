// Several physical partitions, as the JavaScript client sees them: it merges by rules of its own.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

const load = createRequire(path.join(process.env.NODE_PACKAGES, "index.js"));
const { ChangeFeedStartFrom, CosmosClient } = load("@azure/cosmos");
const client = new CosmosClient({ endpoint: process.env.COSMOS_ENDPOINT, key: process.env.COSMOS_KEY });

const { database } = await client.databases.create({ id: "js" });
const schema = { id: "spread", partitionKey: { paths: ["/pk"] }, throughput: 30000 };
const { container } = await database.containers.create(schema);
for (let brook = 0; brook < 10; brook += 1)
  for (let n = 0; n < 3; n += 1) await container.items.create({ id: `${n}`, pk: `b${brook}`, n: brook * 3 + n });

const all = async (query, options) => (await container.items.query(query, options).fetchAll()).resources;
const numbers = [...Array(30).keys()];

assert.equal((await container.readPartitionKeyRanges().fetchAll()).resources.length, 3);
assert.deepEqual(await all("SELECT VALUE c.n FROM c ORDER BY c.n"), numbers);
assert.deepEqual(await all("SELECT VALUE c.n FROM c ORDER BY c.n DESC", { maxItemCount: 4 }), [...numbers].reverse());
assert.deepEqual(await all("SELECT VALUE c.n FROM c ORDER BY c.n OFFSET 5 LIMIT 3"), [5, 6, 7]);
assert.equal((await all("SELECT VALUE c.n FROM c OFFSET 5 LIMIT 4")).length, 4);
assert.equal((await all("SELECT TOP 3 c.id FROM c")).length, 3);
assert.deepEqual(await all("SELECT VALUE COUNT(1) FROM c"), [30]);
assert.deepEqual(await all("SELECT VALUE SUM(c.n) FROM c"), [435]);
assert.deepEqual(await all("SELECT VALUE AVG(c.n) FROM c"), [14.5]);
assert.deepEqual(await all("SELECT VALUE MIN(c.n) FROM c"), [0]);
assert.deepEqual(await all("SELECT VALUE MAX(c.n) FROM c"), [29]);
assert.deepEqual(await all("SELECT VALUE MAX(c.n) FROM c WHERE c.n < 3"), [2]);
assert.equal((await all("SELECT DISTINCT VALUE c.pk FROM c")).length, 10);
assert.deepEqual((await all("SELECT DISTINCT VALUE c.pk FROM c ORDER BY c.pk")).slice(0, 3), ["b0", "b1", "b2"]);
assert.equal((await container.items.readAll().fetchAll()).resources.length, 30);

for (const [start, expected] of [[ChangeFeedStartFrom.Beginning(), 30], [ChangeFeedStartFrom.Beginning("b3"), 3], [ChangeFeedStartFrom.Now(), 0]]) {
  const feed = container.items.getChangeFeedIterator({ changeFeedStartFrom: start, maxItemCount: 5 });
  let count = 0;
  for (let response = await feed.readNext(); response.statusCode !== 304; response = await feed.readNext()) count += response.result.length;
  assert.equal(count, expected);
}

const bulk = await container.items.executeBulkOperations([
  { operationType: "Create", partitionKey: "b1", resourceBody: { id: "k", pk: "b1" } },
  { operationType: "Read", partitionKey: "b2", id: "0" },
  { operationType: "Read", partitionKey: "b2", id: "missing" },
]);
assert.deepEqual(bulk.map((each) => each.response?.statusCode ?? each.error?.code), [201, 200, 404]);

const tree = { id: "tree", partitionKey: { paths: ["/a", "/b"], kind: "MultiHash", version: 2 } };
const { container: nested } = await database.containers.create(tree);
await nested.items.create({ id: "1", a: "x", b: "y" });
assert.equal((await nested.item("1", ["x", "y"]).read()).statusCode, 200);
assert.equal((await nested.items.query("SELECT * FROM c", { partitionKey: ["x"] }).fetchAll()).resources.length, 1);

await container.items.create({ id: "without a key" });
assert.equal((await container.item("without a key", undefined).read()).statusCode, 200);
console.log("all as on Azure");
process.exit(0);
