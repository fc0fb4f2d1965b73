import assert from "node:assert/strict";
import { load, ready, refusal, run } from "./support.mjs";

const { CosmosClient } = load("@azure/cosmos");
const client = new CosmosClient({ endpoint: ready.cosmos_endpoint, key: ready.cosmos_key });
const database = client.database("js");
const items = database.container("items");

await run({
  async "database and container are created once"() {
    await client.databases.create({ id: "js" });
    assert.equal((await refusal(() => client.databases.create({ id: "js" }))).code, 409);
    await database.containers.create({ id: "items", partitionKey: { paths: ["/pk"] } });
    const { resource } = await items.read();
    assert.deepEqual(resource.partitionKey.paths, ["/pk"]);
  },

  async "items are created, read, replaced, patched and deleted"() {
    const created = await items.items.create({ id: "1", pk: "a", n: 1 });
    assert.equal(created.statusCode, 201);
    assert.ok(created.requestCharge > 0);
    assert.equal((await refusal(() => items.items.create({ id: "1", pk: "a" }))).code, 409);
    const item = items.item("1", "a");
    const etag = (await item.read()).etag;
    await item.replace({ id: "1", pk: "a", n: 2 }, { accessCondition: { type: "IfMatch", condition: etag } });
    const stale = await refusal(() =>
      item.replace({ id: "1", pk: "a", n: 3 }, { accessCondition: { type: "IfMatch", condition: etag } }),
    );
    assert.equal(stale.code, 412);
    await item.patch([{ op: "incr", path: "/n", value: 2 }]);
    await item.patch({ operations: [{ op: "incr", path: "/n", value: 3 }] });
    assert.equal((await item.read()).resource.n, 7);
    await items.items.upsert({ id: "2", pk: "a", n: 1 });
    await item.delete();
    assert.equal((await item.read()).statusCode, 404);
  },

  async "batch is all or nothing"() {
    const good = await items.items.batch(
      [
        { operationType: "Create", resourceBody: { id: "b1", pk: "batch" } },
        { operationType: "Create", resourceBody: { id: "b2", pk: "batch" } },
      ],
      "batch",
    );
    assert.deepEqual(good.result.map((each) => each.statusCode), [201, 201]);
    const bad = await items.items.batch(
      [
        { operationType: "Create", resourceBody: { id: "b3", pk: "batch" } },
        { operationType: "Replace", id: "b1", resourceBody: { id: "b1", pk: "batch" }, ifMatch: '"stale"' },
      ],
      "batch",
    );
    assert.deepEqual(bad.result.map((each) => each.statusCode), [424, 412]);
    assert.equal((await items.item("b3", "batch").read()).statusCode, 404);
  },

  async "query with parameters, order and pages"() {
    for (let n = 0; n < 7; n += 1) await items.items.create({ id: `q${n}`, pk: "query", n });
    const query = {
      query: "SELECT c.id, c.n FROM c WHERE c.pk = @pk AND c.n >= @low ORDER BY c.n DESC",
      parameters: [
        { name: "@pk", value: "query" },
        { name: "@low", value: 2 },
      ],
    };
    const iterator = items.items.query(query, { partitionKey: "query", maxItemCount: 2 });
    const found = [];
    while (iterator.hasMoreResults()) {
      const { resources } = await iterator.fetchNext();
      if (resources) found.push(...resources.map((each) => each.n));
    }
    assert.deepEqual(found, [6, 5, 4, 3, 2]);
  },
});
