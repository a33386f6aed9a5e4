// @ts-check
// Server-sent events through fetch, because EventSource cannot send a key.
/** @import { JobEvent, JobStatus } from "#types" */
/** @import { Api } from "./api.js" */

import { Problem } from "./api.js";

const RETRY_MS = 2000;
const RETRY_LONGEST_MS = 15000;

/** @typedef {{ id: string, event: string, data: string }} Message */

// Turns the text of a stream into messages, by the rules of the HTML standard, section 9.2.
export class EventParser {
  #rest = "";
  #fields = { id: "", event: "", data: /** @type {string[]} */ ([]) };

  /** @param {string} text @returns {Message[]} */
  push(text) {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    return lines.map((line) => this.#line(line)).filter((message) => message !== null);
  }

  /** @param {string} line */
  #line(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return null;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#fields.data.push(value);
    else if (name === "id" || name === "event") this.#fields[name] = value;
    return null;
  }

  #dispatch() {
    const { id, event, data } = this.#fields;
    this.#fields = { id, event: "", data: [] };
    return data.length ? { id, event: event || "message", data: data.join("\n") } : null;
  }
}

/**
 * Every event of a job from its beginning until it ends. A broken connection resumes after the last event.
 * onConnection: called with true or false when the connection is established or lost.
 * @param {Api} api
 * @param {string} id
 * @param {{ signal: AbortSignal, onConnection?: (isConnected: boolean) => void }} options
 * @returns {AsyncGenerator<JobEvent>}
 */
export async function* followJob(api, id, { signal, onConnection = () => {} }) {
  let last = null;
  for (let failures = 0; ; ) {
    try {
      const headers = { Accept: "text/event-stream", ...(last && { "Last-Event-ID": last }) };
      const response = await api.call(`v1/jobs/${id}/events`, { headers, signal });
      onConnection(true);
      for await (const message of messages(response)) {
        failures = 0;
        last = message.id;
        const event = JSON.parse(message.data);
        yield event;
        if (isOver(event.status)) return;
      }
    } catch (fault) {
      if (signal.aborted) return;
      if (fault instanceof Problem && fault.status >= 400 && fault.status < 500) throw fault;
    }
    onConnection(false);
    failures += 1;
    await pause(Math.min(RETRY_LONGEST_MS, RETRY_MS * 2 ** (failures - 1)), signal);
    if (signal.aborted) return;
  }
}

/** @param {JobStatus} status */
export const isOver = (status) => ["succeeded", "failed", "canceled"].includes(status);

/** @param {Response} response */
async function* messages(response) {
  if (!response.body) return;
  const parser = new EventParser();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield* parser.push(value);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** @param {number} ms @param {AbortSignal} [signal] @returns {Promise<void>} */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}
