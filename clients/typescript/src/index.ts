// The TypeScript client: a thin layer over the calls and types in ./generated, which `npm run generate` makes from the
// OpenAPI document of a service. It runs in Node.js 20 and in browsers.
import * as calls from "./generated";
import { createClient, createConfig, type Client } from "./generated/client";
import type {
  AccountUsage,
  AnalysisSpec,
  BatchCompletedMessage,
  BatchSummary,
  BatchView,
  Evaluation,
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
  ListJobsData,
  MediaLinks,
  Offer,
  Problem,
  SegmentSubmission,
  UndeliveredEvent,
  UploadLink,
  VideoAnalysis,
  WebhookSecret,
} from "./generated";

export type * from "./generated";
/** The generated function of every operation. */
export { calls };

/** A file, the http(s) address of one, or the answer of `upload`. */
export type Input = Blob | string | URL | UploadLink;
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
/** The service did not accept the call. */
const NOT_TAKEN = new Set([429, 503]);
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
  /** For the generated functions of all other operations, in `calls`: each takes `{ client: service.client }`. */
  readonly client: Client;

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
    const headers = keyed(idempotencyKey);
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
    const headers = keyed(idempotencyKey);
    if (!(video instanceof Blob)) {
      const body = { ...options, ...input("video", video) } as calls.AnalysisSubmission;
      return this.send(() => calls.analyzeVideo({ client: this.client, headers, body }));
    }
    const body = { ...Object.fromEntries(Object.entries(options).filter(([, value]) => value !== null)), video };
    return this.send(() => calls.analyzeVideoFile({ client: this.client, headers, body: body as calls.AnalysisForm }));
  }

  /** The people of a video that was analyzed; a track is a value of the option `face`: `{ track: "person_2" }`. */
  async analysis(job: JobView | string): Promise<VideoAnalysis> {
    return this.send(() => calls.getAnalysis({ client: this.client, path: { job_id: idOf(job) } }));
  }

  /** A picture of one person of an analysis, a JPEG. */
  async portrait(job: JobView | string, track: string): Promise<Blob> {
    const path = { job_id: idOf(job), track };
    return this.send(() => calls.getPerson({ client: this.client, path, parseAs: "blob" })) as Promise<Blob>;
  }

  /** Upload a file that several jobs use, or one of a batch. */
  async upload(file: Blob): Promise<UploadLink> {
    const link = await this.send(() => calls.createUpload({ client: this.client }));
    const url = new URL(link.url, this.client.getConfig().baseUrl).href;
    // The link itself is the permission: the key is not sent along, since it may lead to an object store
    await this.send(async (): Promise<Reply<undefined>> => {
      try {
        const response = await fetch(url, { method: "PUT", body: file });
        return { response, error: response.ok ? undefined : await response.json().catch(() => ({})) };
      } catch (error) {
        return { error };
      }
    });
    return link;
  }

  /** All jobs, newest first; pages are fetched as needed. */
  async *jobs(filters: Omit<NonNullable<ListJobsData["query"]>, "cursor"> = {}): AsyncGenerator<JobView, void, void> {
    yield* this.pages(
      (cursor) => calls.listJobs({ client: this.client, query: { ...filters, cursor } }),
      (page) => page.jobs,
    );
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

  /** The metrics of the result. */
  async evaluation(job: JobView | string): Promise<Evaluation> {
    return this.send(() => calls.getEvaluation({ client: this.client, path: { job_id: idOf(job) } }));
  }

  /** Links that play the inputs and the result without a key, until they expire. */
  async media(job: JobView | string): Promise<MediaLinks> {
    return this.send(() => calls.getMedia({ client: this.client, path: { job_id: idOf(job) } }));
  }

  /** One picture of the result, a JPEG. */
  async poster(job: JobView | string): Promise<Blob> {
    const path = { job_id: idOf(job) };
    return this.send(() => calls.getPoster({ client: this.client, path, parseAs: "blob" })) as Promise<Blob>;
  }

  /** The first seconds of the result, a small MP4. */
  async preview(job: JobView | string): Promise<Blob> {
    const path = { job_id: idOf(job) };
    return this.send(() => calls.getPreview({ client: this.client, path, parseAs: "blob" })) as Promise<Blob>;
  }

  /** Cancel a live job; a finished one is unchanged. */
  async cancel(job: JobView | string): Promise<JobView> {
    return this.send(() => calls.cancelJob({ client: this.client, path: { job_id: idOf(job) } }));
  }

  /** Delete a finished job with its files. A live one is refused: cancel it first. */
  async delete(job: JobView | string): Promise<void> {
    const found = await this.get(job);
    if (!OVER.has(found.status)) throw unfinished(found);
    await this.send(() => calls.deleteJob({ client: this.client, path: { job_id: found.id } }));
  }

  /** Submit a failed or canceled job again; returns the new job. */
  async retry(job: JobView | string): Promise<JobView> {
    const headers = keyed();
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
    const headers = keyed(idempotencyKey);
    const body = { jobs, ...(webhookUrl ? { webhook_url: webhookUrl } : {}), ...(metadata ? { metadata } : {}) };
    return this.send(() => calls.submitBatch({ client: this.client, headers, body }));
  }

  /** The current state of a batch. */
  async getBatch(batch: BatchSummary | string): Promise<BatchView> {
    return this.send(() => calls.getBatch({ client: this.client, path: { batch_id: idOf(batch) } }));
  }

  /** The batch when it is over, or as it is after timeoutS. */
  async waitBatch(batch: BatchSummary | string, timeoutS = Infinity): Promise<BatchView> {
    const endsAt = Date.now() + timeoutS * 1000;
    for (;;) {
      const found = await this.getBatch(batch);
      if (found.status !== "running" || Date.now() >= endsAt) return found;
      await sleep(1000);
    }
  }

  /** All batches, newest first; pages are fetched as needed. */
  async *batches(): AsyncGenerator<BatchSummary, void, void> {
    yield* this.pages(
      (cursor) => calls.listBatches({ client: this.client, query: { cursor } }),
      (page) => page.batches,
    );
  }

  /** Cancel its live jobs and drop the items that are not jobs yet. */
  async cancelBatch(batch: BatchSummary | string): Promise<BatchView> {
    return this.send(() => calls.cancelBatch({ client: this.client, path: { batch_id: idOf(batch) } }));
  }

  /** Delete the record of a batch that is over; its jobs stay. */
  async deleteBatch(batch: BatchSummary | string): Promise<void> {
    const found = await this.getBatch(batch);
    if (found.status === "running") throw unfinished(found);
    await this.send(() => calls.deleteBatch({ client: this.client, path: { batch_id: found.id } }));
  }

  /** Engines, options and limits that the service offers now. */
  async offer(): Promise<Offer> {
    return this.send(() => calls.listEngines({ client: this.client }));
  }

  /** What your account used in the last months; with the scope `admin`, every account. */
  async *usage(months = 1): AsyncGenerator<AccountUsage, void, void> {
    yield* this.pages(
      (cursor) => calls.getUsage({ client: this.client, query: { months, cursor } }),
      (page) => page.accounts,
    );
  }

  /** Webhook events that were given up, or that are still tried (`pending`), oldest first. */
  async *undelivered(state: "given_up" | "pending" = "given_up"): AsyncGenerator<UndeliveredEvent, void, void> {
    yield* this.pages(
      (cursor) => calls.listUndelivered({ client: this.client, query: { state, cursor } }),
      (page) => page.deliveries,
    );
  }

  /** Redeliver the last event of a job, and all events that were given up. */
  async redeliver(job: JobView | string): Promise<JobView> {
    return this.send(() => calls.redeliverWebhook({ client: this.client, path: { job_id: idOf(job) } }), false);
  }

  async redeliverEvent(event: UndeliveredEvent | string): Promise<UndeliveredEvent> {
    const path = { delivery_id: idOf(event) };
    return this.send(() => calls.redeliverEvent({ client: this.client, path }), false);
  }

  /** The secret that signs the webhooks of your account, for `verifyWebhook`. */
  async webhookSecret(): Promise<WebhookSecret> {
    return this.send(() => calls.getWebhookSecret({ client: this.client }));
  }

  /** Replace the secret. The previous one keeps signing for overlapS; use 0 for a leaked secret. */
  async rotateWebhookSecret(overlapS = 86400): Promise<WebhookSecret> {
    const query = { overlap_s: overlapS };
    return this.send(() => calls.rotateWebhookSecret({ client: this.client, query }), false);
  }

  private async *pages<P extends { next_cursor: string | null }, T>(
    call: (cursor?: string) => Promise<Reply<P>>,
    itemsOf: (page: P) => T[],
  ): AsyncGenerator<T, void, void> {
    let cursor: string | undefined;
    do {
      const page: P = await this.send(() => call(cursor));
      yield* itemsOf(page);
      cursor = page.next_cursor ?? undefined;
    } while (cursor !== undefined);
  }

  /** isRepeatable: whether a call that may have arrived can be repeated. */
  private async send<T>(call: () => Promise<Reply<T>>, isRepeatable = true): Promise<T> {
    for (let attempt = 0; ; attempt += 1) {
      const { data, error, response } = await call();
      if (response?.ok) return data as T;
      const isRetried = response ? (isRepeatable ? RETRIED : NOT_TAKEN).has(response.status) : isRepeatable;
      if (attempt === RETRIES || !isRetried) {
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
  if (value instanceof Blob) return { [slot]: value };
  return isUpload(value) ? { [`${slot}_upload_id`]: value.id } : { [`${slot}_url`]: String(value) };
}

/** The segment as it is sent: a file becomes a part of the form, once however many segments share it. */
function referTo({ audio, ...rest }: Segment, files: Map<Blob, string>): SegmentSubmission {
  if (!(audio instanceof Blob)) return { ...rest, audio: isUpload(audio) ? `upload:${audio.id}` : String(audio) };
  if (!files.has(audio)) files.set(audio, `speech_${files.size + 1}`);
  return { ...rest, audio: files.get(audio)! };
}

function isUpload(value: Input): value is UploadLink {
  return typeof value === "object" && "expires_at" in value;
}

function idOf(thing: { id: string } | string): string {
  return typeof thing === "string" ? thing : thing.id;
}

/** Retries share a key, so that they never submit twice. */
function keyed(key = `retalking-client-${crypto.randomUUID()}`): { "Idempotency-Key": string } {
  return { "Idempotency-Key": key };
}

function unfinished({ id, status }: { id: string; status: string }): RetalkingError {
  return new RetalkingError("job_not_finished", `${id} is ${status}.`, "Cancel it before you delete it.");
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
