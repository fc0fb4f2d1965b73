// A producer: sends append commands and awaits their replies, in a reply session of its own.
import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { sessionIdFor } from "./session-id.mjs";

const REPLY_TIMEOUT_MS = 30_000;
const ATTEMPTS_MAX = 3;
const PAUSE_FIRST_MS = 200;
const PAUSE_MAX_MS = 5_000;
const LOCK_RENEWAL_MS = 24 * 60 * 60 * 1_000; // the library's default stops after five minutes

/** No reply came, however often it was asked for. The command may still take effect. */
export class NoReplyError extends Error {}

export class BrookProducer {
  #client;
  #sender;
  #commandQueue;
  #replyQueue;
  #buckets;
  #replySessionId;
  #waiting = new Map(); // command id -> functions that take the reply
  #closing = new AbortController();
  #reading;

  /**
   * `client` is a ServiceBusClient and stays the caller's to close. A reply session is for one producer at a time; with
   * an id of your own, a producer that was started anew finds the replies that came meanwhile.
   */
  constructor(client, options = {}) {
    const { commandQueue = "brook-commands", replyQueue = "brook-replies", replySessionId, buckets } = options;
    this.#client = client;
    this.#commandQueue = commandQueue;
    this.#replyQueue = replyQueue;
    this.#replySessionId = replySessionId ?? `client-${randomUUID()}`;
    this.#buckets = buckets;
    this.#sender = client.createSender(commandQueue);
    this.#reading = this.#readReplies();
  }

  /**
   * Send a command and await its reply, an object with an `outcome`. No reply in time: the same command is sent again,
   * under the same id, which is safe.
   */
  async append(command, { timeoutMs = REPLY_TIMEOUT_MS, attemptsMax = ATTEMPTS_MAX } = {}) {
    const replied = this.#expect(command.commandId);
    try {
      for (let attempt = 1; attempt <= attemptsMax; attempt += 1) {
        await this.#sender.sendMessages(this.#message(command), { abortSignal: this.#closing.signal });
        const late = new AbortController();
        const signal = AbortSignal.any([late.signal, this.#closing.signal]);
        try {
          const reply = await Promise.race([replied.reply, delay(timeoutMs, undefined, { signal })]);
          if (reply !== undefined) return reply;
        } finally {
          late.abort();
        }
      }
      throw new NoReplyError(
        `no reply to ${command.commandId} after ${attemptsMax} times ${timeoutMs} ms; it may still take effect, and` +
          " sending it again under the same id is safe",
      );
    } finally {
      replied.forget();
    }
  }

  async close() {
    this.#closing.abort();
    await this.#reading;
    await this.#sender.close();
  }

  #message(command) {
    return {
      body: Buffer.from(JSON.stringify(command), "utf8"),
      contentType: "application/json",
      messageId: command.commandId,
      sessionId: sessionIdFor(command.brook, this.#buckets),
      correlationId: command.correlationId,
      replyTo: this.#replyQueue,
      replyToSessionId: this.#replySessionId,
    };
  }

  #expect(commandId) {
    let take;
    const reply = new Promise((resolve) => (take = resolve));
    const waiting = this.#waiting.get(commandId) ?? new Set();
    this.#waiting.set(commandId, waiting.add(take));
    const forget = () => {
      waiting.delete(take);
      if (waiting.size === 0) this.#waiting.delete(commandId);
    };
    return { reply, forget };
  }

  async #readReplies() {
    let pauseMs = PAUSE_FIRST_MS;
    while (!this.#closing.signal.aborted) {
      try {
        await this.#readSession(() => (pauseMs = PAUSE_FIRST_MS));
      } catch (error) {
        if (this.#closing.signal.aborted) return;
        console.error(`replies cannot be read, trying again: ${error.message}`);
        await delay(pauseMs, undefined, { signal: this.#closing.signal }).catch(() => {});
        pauseMs = Math.min(2 * pauseMs, PAUSE_MAX_MS);
      }
    }
  }

  /** Ends in an error with the session: it is accepted anew then, and what was not completed comes again. */
  async #readSession(onAccepted) {
    const receiver = await this.#client.acceptSession(this.#replyQueue, this.#replySessionId, {
      maxAutoLockRenewalDurationInMs: LOCK_RENEWAL_MS,
      abortSignal: this.#closing.signal,
    });
    try {
      onAccepted();
      // Not `receiveMessages`: that would wait for more, for up to a second, before it gives out a reply.
      await new Promise((resolve, reject) => {
        this.#closing.signal.addEventListener("abort", resolve, { once: true });
        receiver.subscribe({
          processMessage: async (message) => this.#dispatch(message), // completed when this returns
          processError: async ({ error }) => {
            if (receiver.isClosed || error.retryable === false) reject(error);
          },
        });
      });
    } finally {
      await receiver.close();
    }
  }

  #dispatch(message) {
    const waiting = this.#waiting.get(message.correlationId);
    if (waiting === undefined) {
      console.error(`a reply to ${message.correlationId}, which nobody waits for`);
      return;
    }
    // The library has read the JSON already where it could; fields that are not known here are to be ignored.
    const reply = Buffer.isBuffer(message.body) ? JSON.parse(message.body.toString("utf8")) : message.body;
    for (const take of waiting) take(reply);
  }
}
