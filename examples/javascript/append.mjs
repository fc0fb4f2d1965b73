// Append a few events to a brook and print each reply: node append.mjs [ENTITY_ID] [COUNT]
//
// Needs BROOK_WORKER_SERVICEBUS_CONNECTION_STRING, and a worker that runs.
import { randomUUID } from "node:crypto";
import { ServiceBusClient } from "@azure/service-bus";
import { BrookProducer } from "./producer.mjs";

const env = process.env;
const [entityId = randomUUID(), count = "5"] = process.argv.slice(2);
if (!/^\d+$/.test(count)) {
  console.error(`error: ${count} is no number; use: node append.mjs [ENTITY_ID] [COUNT]`);
  process.exit(2);
}
const brook = { name: "basket", entityId };

function command(number) {
  return {
    commandId: `basket-${entityId}-${number}`.slice(0, 128),
    brook,
    expected: number === 0 ? "empty" : "exists",
    events: [
      {
        eventId: randomUUID(),
        eventType: number === 0 ? "BasketOpened" : "ItemAdded",
        dataContentType: "application/json",
        data: Buffer.from(JSON.stringify({ item: `Größe ${number}` }), "utf8").toString("base64"),
      },
    ],
  };
}

if (!env.BROOK_WORKER_SERVICEBUS_CONNECTION_STRING) {
  console.error("error: set BROOK_WORKER_SERVICEBUS_CONNECTION_STRING, as README.md says under 'Programs in other languages'");
  process.exit(1);
}
const client = new ServiceBusClient(env.BROOK_WORKER_SERVICEBUS_CONNECTION_STRING);
const producer = new BrookProducer(client, {
  commandQueue: env.BROOK_WORKER_COMMAND_QUEUE ?? "brook-commands",
  replyQueue: env.BROOK_WORKER_REPLY_QUEUE ?? "brook-replies",
  replySessionId: env.REPLY_SESSION,
  buckets: env.BROOK_WORKER_SESSION_BUCKETS ? Number(env.BROOK_WORKER_SESSION_BUCKETS) : undefined,
});

let failed = false;
try {
  for (let number = 0; number < Number(count); number += 1) {
    const reply = await producer.append(command(number));
    switch (reply.outcome) {
      case "appended": // done: the events are in the brook, from firstPosition to lastPosition
        break;
      case "concurrency-conflict": // the head is not as expected: look at the brook, decide anew, send another command
      case "rejected": // the command is wrong: `message` and `details` say what to change
      default:
        failed = true;
    }
    console.log(JSON.stringify(reply));
  }
} finally {
  await producer.close();
  await client.close();
}
// Not left to the event loop: after a session was lost, the library's timers would keep the program for minutes.
process.exit(failed ? 1 : 0);
