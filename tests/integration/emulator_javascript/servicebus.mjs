import assert from "node:assert/strict";
import crypto from "node:crypto";
import { load, ready, refusal, run } from "./support.mjs";

const { ServiceBusClient } = load("@azure/service-bus");
const client = new ServiceBusClient(ready.servicebus_connection_string, { retryOptions: { maxRetries: 0 } });
const WAIT = { maxWaitTimeInMs: 5000 };

/** This SDK refuses to settle messages that have no id, so each gets one. */
async function send(queue, ...messages) {
  const sender = client.createSender(queue);
  await sender.sendMessages(messages.map((message) => ({ messageId: crypto.randomUUID(), ...message })));
  await sender.close();
}

async function take(receiver, count = 1) {
  const messages = await receiver.receiveMessages(count, WAIT);
  assert.equal(messages.length, count);
  return messages;
}

await run({
  async "messages travel with their properties and are completed"() {
    await send("plain", {
      body: { n: 1 },
      messageId: "m1",
      correlationId: "c1",
      subject: "s",
      contentType: "application/json",
      applicationProperties: { text: "t", number: 7, yes: true },
    });
    const receiver = client.createReceiver("plain");
    const [message] = await take(receiver);
    assert.deepEqual(message.body, { n: 1 });
    assert.deepEqual([message.messageId, message.correlationId, message.subject], ["m1", "c1", "s"]);
    assert.deepEqual(message.applicationProperties, { text: "t", number: 7, yes: true });
    await receiver.completeMessage(message);
    assert.deepEqual(await receiver.receiveMessages(1, { maxWaitTimeInMs: 200 }), []);
    await receiver.close();
  },

  async "abandoned messages come again and end as dead letters"() {
    await send("plain", { body: "poison", messageId: "p" });
    const receiver = client.createReceiver("plain");
    for (let delivery = 0; delivery < 2; delivery += 1) {
      const [message] = await take(receiver);
      assert.equal(message.deliveryCount, delivery);
      await receiver.abandonMessage(message);
    }
    const dead = client.createReceiver("plain", { subQueueType: "deadLetter" });
    const [letter] = await take(dead);
    assert.equal(letter.deadLetterReason, "MaxDeliveryCountExceeded");
    await dead.completeMessage(letter);
    await send("plain", { body: "bad" });
    const [bad] = await take(receiver);
    await receiver.deadLetterMessage(bad, { deadLetterReason: "why", deadLetterErrorDescription: "because" });
    const [named] = await take(dead);
    assert.deepEqual([named.deadLetterReason, named.deadLetterErrorDescription], ["why", "because"]);
    await dead.completeMessage(named);
    await receiver.close();
    await dead.close();
  },

  async "sessions are taken in turn, with state and renewal"() {
    await send("sessions", { body: "1", sessionId: "s1" }, { body: "2", sessionId: "s1" }, { body: "3", sessionId: "s2" });
    const first = await client.acceptNextSession("sessions", WAIT);
    const second = await client.acceptNextSession("sessions", WAIT);
    assert.deepEqual([first.sessionId, second.sessionId].sort(), ["s1", "s2"]);
    const one = first.sessionId === "s1" ? first : second;
    const locked = await refusal(() => client.acceptSession("sessions", "s1"));
    assert.equal(locked.code, "SessionCannotBeLocked");
    const messages = [...(await take(one)), ...(await take(one))];
    assert.deepEqual(messages.map((each) => each.body), ["1", "2"]);
    await one.setSessionState(Buffer.from("state"));
    assert.equal(Buffer.from(await one.getSessionState()).toString(), "state");
    assert.ok((await one.renewSessionLock()) > new Date());
    for (const message of messages) await one.completeMessage(message);
    await first.close();
    await second.close();
    const none = await refusal(() => client.acceptSession("sessions", undefined, WAIT));
    assert.ok(none);
  },

  async "messages are scheduled, cancelled, peeked and deferred"() {
    const sender = client.createSender("plain");
    const later = new Date(Date.now() + 3600_000);
    const [kept, cancelled] = await sender.scheduleMessages([{ body: "kept" }, { body: "cancelled" }], later);
    await sender.cancelScheduledMessages(cancelled);
    const receiver = client.createReceiver("plain");
    assert.deepEqual((await receiver.peekMessages(10)).map((each) => each.body), ["kept"]);
    await sender.cancelScheduledMessages(kept);
    await sender.sendMessages({ body: "deferred", messageId: "d" });
    const [message] = await take(receiver);
    await receiver.deferMessage(message);
    assert.deepEqual(await receiver.receiveMessages(1, { maxWaitTimeInMs: 200 }), []);
    const [again] = await receiver.receiveDeferredMessages(message.sequenceNumber);
    assert.equal(again.body, "deferred");
    await receiver.completeMessage(again);
    await receiver.close();
    await sender.close();
  },

  async "every subscription of a topic gets its own copy"() {
    await send("topic", { body: "news" });
    for (const name of ["one", "two"]) {
      const receiver = client.createReceiver("topic", name);
      const [message] = await take(receiver);
      assert.equal(message.body, "news");
      await receiver.completeMessage(message);
      await receiver.close();
    }
  },

  async "message without a session is refused by a session queue"() {
    const error = await refusal(() => send("sessions", { body: "none" }));
    assert.ok(/session/i.test(error.message), error.message);
  },
});
