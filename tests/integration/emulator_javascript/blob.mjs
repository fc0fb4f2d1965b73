import assert from "node:assert/strict";
import crypto from "node:crypto";
import { load, ready, refusal, run } from "./support.mjs";

const { BlobServiceClient } = load("@azure/storage-blob");
const service = BlobServiceClient.fromConnectionString(ready.blob_connection_string, { retryOptions: { maxTries: 1 } });
const container = service.getContainerClient("js-box");
const blob = container.getBlockBlobClient("folder/a b ü+#%.bin");

async function names(pages) {
  const found = [];
  for await (const item of pages) found.push(item.name);
  return found;
}

await run({
  async "container is created once"() {
    await container.create({ metadata: { purpose: "js" } });
    assert.equal((await refusal(() => container.create())).code, "ContainerAlreadyExists");
    assert.deepEqual((await container.getProperties()).metadata, { purpose: "js" });
    assert.ok((await names(service.listContainers({ prefix: "js-" }))).includes("js-box"));
  },

  async "content, properties and metadata come back"() {
    const body = Buffer.from("hello");
    await blob.upload(body, body.length, {
      metadata: { a_b: "1", ab: "2" },
      blobHTTPHeaders: { blobContentType: "text/plain", blobCacheControl: "no-store" },
    });
    assert.deepEqual(await blob.downloadToBuffer(), body);
    assert.equal((await blob.downloadToBuffer(1, 3)).toString(), "ell");
    const properties = await blob.getProperties();
    assert.equal(properties.contentLength, 5);
    assert.equal(properties.contentType, "text/plain");
    assert.equal(properties.cacheControl, "no-store");
    assert.deepEqual(properties.metadata, { a_b: "1", ab: "2" });
    assert.deepEqual(Buffer.from(properties.contentMD5), crypto.createHash("md5").update(body).digest());
  },

  async "large content travels in blocks"() {
    const body = crypto.randomBytes(9 * 1024 * 1024 + 3);
    const large = container.getBlockBlobClient("large");
    await large.uploadData(body, { blockSize: 2 * 1024 * 1024, maxSingleShotSize: 1024 * 1024, concurrency: 3 });
    assert.equal((await large.getBlockList("committed")).committedBlocks.length, 5);
    assert.ok(body.equals(await large.downloadToBuffer(0, undefined, { blockSize: 1024 * 1024, concurrency: 4 })));
  },

  async "listing by hierarchy and in pages"() {
    for (const name of ["l/1", "l/2", "l/x/3"]) await container.getBlockBlobClient(name).upload("", 0);
    const found = [];
    for await (const item of container.listBlobsByHierarchy("/", { prefix: "l/" })) found.push(`${item.kind} ${item.name}`);
    assert.deepEqual(found.sort(), ["blob l/1", "blob l/2", "prefix l/x/"]);
    const sizes = [];
    for await (const page of container.listBlobsFlat({ prefix: "l/" }).byPage({ maxPageSize: 2 }))
      sizes.push(page.segment.blobItems.length);
    assert.deepEqual(sizes, [2, 1]);
    assert.ok((await names(container.listBlobsFlat())).includes("folder/a b ü+#%.bin"));
  },

  async "stale ETag is refused"() {
    const { etag } = await blob.getProperties();
    await blob.setMetadata({ moved: "on" });
    const error = await refusal(() => blob.upload("x", 1, { conditions: { ifMatch: etag } }));
    assert.deepEqual([error.statusCode, error.code], [412, "ConditionNotMet"]);
    const exists = await refusal(() => blob.upload("x", 1, { conditions: { ifNoneMatch: "*" } }));
    assert.deepEqual([exists.statusCode, exists.code], [409, "BlobAlreadyExists"]);
  },

  async "leases: acquire, renew, change, break, release"() {
    const first = blob.getBlobLeaseClient(crypto.randomUUID());
    await first.acquireLease(15);
    const other = blob.getBlobLeaseClient();
    assert.equal((await refusal(() => other.acquireLease(15))).code, "LeaseAlreadyPresent");
    assert.equal((await refusal(() => blob.setMetadata({}))).code, "LeaseIdMissing");
    await blob.setMetadata({ by: "holder" }, { conditions: { leaseId: first.leaseId } });
    await first.renewLease();
    await first.changeLease(crypto.randomUUID());
    assert.equal((await blob.getProperties()).leaseState, "leased");
    assert.ok((await first.breakLease(5)).leaseTime <= 5);
    assert.equal((await refusal(() => first.renewLease())).code, "LeaseIsBrokenAndCannotBeRenewed");
    await first.releaseLease();
    assert.equal((await refusal(() => other.acquireLease(5))).statusCode, 400);
    await other.acquireLease(-1);
    assert.equal((await blob.getProperties()).leaseDuration, "infinite");
    await other.releaseLease();
  },

  async "what is gone is 404"() {
    await blob.delete();
    assert.equal(await blob.exists(), false);
    assert.equal((await refusal(() => blob.download())).statusCode, 404);
    await container.delete();
    assert.equal((await refusal(() => blob.upload("", 0))).code, "ContainerNotFound");
  },
});
