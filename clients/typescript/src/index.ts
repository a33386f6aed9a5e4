// The TypeScript client: a thin layer over the calls and types in ./generated, which `npm run generate` makes from the
// OpenAPI document of a service. It runs in Node.js 20 and in browsers.
import * as calls from "./generated";
import { createClient, createConfig, type Client } from "./generated/client";
import type {
  AnalysisSpec,
  BatchCompletedMessage,
  BatchView,
  JobCanceledMessage,
  JobEvaluatedMessage,
  JobEvent,
  JobExportedMessage,
  JobFailedMessage,
  JobProgressMessage,
  JobSpec,
  JobStartedMessage,
  JobSubmission,
  JobSucceededMessage,
  JobView,
  Problem,
  SegmentSubmission,
  VideoAnalysis,
} from "./generated";

export type * from "./generated";

/** A file, or the http(s) address of one. */
export type Input = Blob | string | URL;
/** One speech of one face; segments may share a file. */
export type Segment = Omit<SegmentSubmission, "audio"> & { audio: Input };
export type Options = Omit<
  JobSpec,
  "video_url" | "video_upload_id" | "audio_url" | "audio_upload_id" | "segments"
>;
export type AnalyzeOptions = Omit<AnalysisSpec, "video_url" | "video_upload_id">;
export type WebhookMessage =
  | JobStartedMessage
  | JobProgressMessage
  | JobSucceededMessage
  | JobFailedMessage
  | JobCanceledMessage
  | JobEvaluatedMessage
  | JobExportedMessage
  | BatchCompletedMessage;
type Reply<T> = { data?: T; error?: unknown; response?: Response };

/** Longest wait of one call, in seconds; `wait` repeats it. */
const LONGEST_WAIT_S = 60;
const RETRIES = 4;
const RETRIED = new Set([408, 429, 502, 503, 504]);
const OVER = new Set(["succeeded", "failed", "canceled"]);

/** A refusal of the service, or the failure of a job. `code` is stable: see `GET /v1/errors`. */
export class RetalkingError extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly advice = "",
    readonly status = 0,
    readonly retryable = false,
    readonly requestId = "",
  ) {
    super(message);
    this.name = "RetalkingError";
  }

  static of(problem: Partial<Problem>, status: number): RetalkingError {
    const { code = "unexpected_answer", detail = `The service answered ${status}.`, advice, retryable } = problem;
    return new RetalkingError(code, detail, advice, status, retryable, problem.request_id);
  }
}

export class Retalking {
  private readonly client: Client;

  /** url: of the service, without `/v1`. apiKey: where the deployment requires keys. */
  constructor({ url, apiKey }: { url: string; apiKey?: string }) {
    this.client = createClient(createConfig({ baseUrl: url.replace(/\/+$/, ""), auth: apiKey }));
  }

  /**
   * Submit a video and its speech; returns the queued job. speech: one for the whole video, or segments, each for one
   * face at one time. Retries after a lost connection share one idempotency key, so they never make a second job.
   */
  async submit(
    video: Input,
    speech: Input | Segment[],
    options: Options = {},
    idempotencyKey?: string,
  ): Promise<JobView> {
    const headers = { "Idempotency-Key": idempotencyKey ?? `retalking-client-${crypto.randomUUID()}` };
    const files = new Map<Blob, string>();
    const segments = Array.isArray(speech) ? speech.map((each) => referTo(each, files)) : undefined;
    const audio = Array.isArray(speech) ? {} : input("audio", speech);
    const parts = Object.fromEntries([...files].map(([file, name]) => [name, file]));
    const inputs = { ...input("video", video), ...audio, ...parts };
    if (!Object.values(inputs).some((each) => each instanceof Blob)) {
      const body = { ...options, ...inputs, ...(segments ? { segments } : {}) } as calls.JobSubmission;
      return this.send(() => calls.submitJob({ client: this.client, headers, body }));
    }
    const { evaluate, ...rest } = options;
    // A form has no null, and an empty list is the text []
    const fields = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== null));
    const lists = Object.entries({ evaluate, segments }).filter(([, value]) => value);
    const texts = Object.fromEntries(lists.map(([name, value]) => [name, JSON.stringify(value)]));
    const body = { ...fields, ...inputs, ...texts };
    return this.send(() => calls.submitJobFiles({ client: this.client, headers, body: body as calls.JobForm }));
  }

  /** Find out who is in a video and who speaks; returns the queued job. When it succeeded, `analysis` has the answer. */
  async analyze(video: Input, options: AnalyzeOptions = {}, idempotencyKey?: string): Promise<JobView> {
    const headers = { "Idempotency-Key": idempotencyKey ?? `retalking-client-${crypto.randomUUID()}` };
    if (!(video instanceof Blob)) {
      const body = { ...options, video_url: String(video) };
      return this.send(() => calls.analyzeVideo({ client: this.client, headers, body }));
    }
    const body = { ...Object.fromEntries(Object.entries(options).filter(([, value]) => value !== null)), video };
    return this.send(() => calls.analyzeVideoFile({ client: this.client, headers, body: body as calls.AnalysisForm }));
  }

  /** The people of a video that was analyzed; a track is a value of the option `face`: `{ track: "person_2" }`. */
  async analysis(job: JobView | string): Promise<VideoAnalysis> {
    return this.send(() => calls.getAnalysis({ client: this.client, path: { job_id: idOf(job) } }));
  }

  /** The current state of a job. waitS: answer when it is over, or after so many seconds, at most 60. */
  async get(job: JobView | string, waitS?: number): Promise<JobView> {
    const query = waitS === undefined ? undefined : { wait: waitS };
    return this.send(() => calls.getJob({ client: this.client, path: { job_id: idOf(job) }, query }));
  }

  /** The job when it is over, in any status, or as it is after timeoutS. */
  async wait(job: JobView | string, timeoutS = Infinity): Promise<JobView> {
    const endsAt = Date.now() + timeoutS * 1000;
    for (;;) {
      const left = Math.max(0, (endsAt - Date.now()) / 1000);
      const found = await this.get(job, Math.ceil(Math.min(LONGEST_WAIT_S, left)));
      if (OVER.has(found.status) || Date.now() >= endsAt) return found;
    }
  }

  /** Events of a job from its beginning, then live, until it ends. A broken stream resumes after the last event. */
  async *events(job: JobView | string): AsyncGenerator<JobEvent, void, void> {
    const { id } = await this.get(job); // an unknown job is refused here: the stream would try again
    let fault: unknown;
    const { stream } = await calls.streamEvents({
      client: this.client,
      path: { job_id: id },
      sseMaxRetryAttempts: RETRIES,
      onSseError: (error) => (fault = error),
    });
    for await (const data of stream) {
      const event = data as unknown as JobEvent;
      yield event;
      if (OVER.has(event.status)) return;
    }
    throw new RetalkingError("events_lost", `The event stream keeps breaking: ${String(fault ?? "it ended early")}`);
  }

  /** The result. Throws the error of the job if it failed. */
  async download(job: JobView | string): Promise<Blob> {
    const found = raiseForStatus(await this.get(job));
    const path = { job_id: found.id };
    const blob = await this.send(() => calls.getResult({ client: this.client, path, parseAs: "blob" })) as Blob;
    if (found.result && blob.size !== found.result.size_bytes) {
      throw new RetalkingError("download_damaged", `${blob.size} of ${found.result.size_bytes} bytes arrived.`);
    }
    return blob;
  }

  async cancel(job: JobView | string): Promise<JobView> {
    return this.send(() => calls.cancelJob({ client: this.client, path: { job_id: idOf(job) } }));
  }

  /** Submit a failed or canceled job again; returns the new job. */
  async retry(job: JobView | string): Promise<JobView> {
    const headers = { "Idempotency-Key": `retalking-client-${crypto.randomUUID()}` };
    return this.send(() => calls.retryJob({ client: this.client, path: { job_id: idOf(job) }, headers }));
  }

  /**
   * Submit up to 500 jobs by reference. All are accepted or none; the message of the error names the item to correct.
   * webhookUrl: receives `batch.completed`.
   */
  async submitBatch(
    jobs: JobSubmission[],
    { webhookUrl, metadata }: { webhookUrl?: string; metadata?: Record<string, unknown> } = {},
    idempotencyKey?: string,
  ): Promise<BatchView> {
    const headers = { "Idempotency-Key": idempotencyKey ?? `retalking-client-${crypto.randomUUID()}` };
    const body = { jobs, ...(webhookUrl ? { webhook_url: webhookUrl } : {}), ...(metadata ? { metadata } : {}) };
    return this.send(() => calls.submitBatch({ client: this.client, headers, body }));
  }

  /** The current state of a batch. */
  async getBatch(batch: BatchView | string): Promise<BatchView> {
    return this.send(() => calls.getBatch({ client: this.client, path: { batch_id: idOf(batch) } }));
  }

  /** The batch when it is over, or as it is after timeoutS. */
  async waitBatch(batch: BatchView | string, timeoutS = Infinity): Promise<BatchView> {
    const endsAt = Date.now() + timeoutS * 1000;
    for (;;) {
      const found = await this.getBatch(batch);
      if (found.status !== "running" || Date.now() >= endsAt) return found;
      await sleep(1000);
    }
  }

  async cancelBatch(batch: BatchView | string): Promise<BatchView> {
    return this.send(() => calls.cancelBatch({ client: this.client, path: { batch_id: idOf(batch) } }));
  }

  /** Every call is safe to repeat. */
  private async send<T>(call: () => Promise<Reply<T>>): Promise<T> {
    for (let attempt = 0; ; attempt += 1) {
      const { data, error, response } = await call();
      if (response?.ok) return data as T;
      if (attempt === RETRIES || (response && !RETRIED.has(response.status))) {
        if (!response) throw error;
        throw RetalkingError.of((error ?? {}) as Partial<Problem>, response.status);
      }
      const afterS = Number(response?.headers.get("Retry-After") ?? 0);
      await sleep(Math.max(afterS * 1000, 2 ** attempt * 200));
    }
  }
}

/** The job itself; throws the error of a job that failed or was canceled. */
export function raiseForStatus(job: JobView): JobView {
  if (job.status !== "failed" && job.status !== "canceled") return job;
  const { code = job.status, message = `The job is ${job.status}.`, retryable } = job.error ?? {};
  throw new RetalkingError(code, `${message} (job ${job.id})`, "", 0, retryable);
}

/**
 * The message of a webhook whose signature is right (Standard Webhooks). body: as it arrived, not parsed. secrets: one,
 * or both while a secret is rotated. Throws RetalkingError `webhook_invalid`: answer 401.
 */
export async function verifyWebhook(
  body: string,
  headers: Headers | Record<string, string | undefined>,
  secrets: string | string[],
  toleranceS = 300,
): Promise<WebhookMessage> {
  const read = (name: string) => (headers instanceof Headers ? headers.get(name) : headers[name]) ?? "";
  const [id, timestamp] = [read("webhook-id"), read("webhook-timestamp")];
  if (!/^\d+$/.test(timestamp) || Math.abs(Date.now() / 1000 - Number(timestamp)) > toleranceS) {
    throw new RetalkingError("webhook_invalid", "The timestamp of the webhook is missing or too far from now.");
  }
  const content = new TextEncoder().encode(`${id}.${timestamp}.${body}`);
  const signatures = read("webhook-signature").split(" ").filter((each) => each.startsWith("v1,"));
  for (const secret of [secrets].flat()) {
    const bytes = decode(secret.replace(/^whsec_/, ""));
    const key = await crypto.subtle.importKey("raw", bytes, { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
    for (const signature of signatures) {
      // verify() compares in constant time
      if (await crypto.subtle.verify("HMAC", key, decode(signature.slice(3)), content)) {
        return JSON.parse(body) as WebhookMessage;
      }
    }
  }
  throw new RetalkingError("webhook_invalid", "No signature of the webhook matches the secret.");
}

function input(slot: "video" | "audio", value: Input): Record<string, Blob | string> {
  return value instanceof Blob ? { [slot]: value } : { [`${slot}_url`]: String(value) };
}

/** The segment as it is sent: a file becomes a part of the form, once however many segments share it. */
function referTo({ audio, ...rest }: Segment, files: Map<Blob, string>): SegmentSubmission {
  if (!(audio instanceof Blob)) return { ...rest, audio: String(audio) };
  if (!files.has(audio)) files.set(audio, `speech_${files.size + 1}`);
  return { ...rest, audio: files.get(audio)! };
}

function idOf(job: JobView | BatchView | string): string {
  return typeof job === "string" ? job : job.id;
}

function decode(base64: string): Uint8Array<ArrayBuffer> {
  try {
    return Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
  } catch {
    return new Uint8Array(32); // no signature of it matches
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
