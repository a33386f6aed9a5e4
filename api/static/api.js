// @ts-check
// Calls to the service. Every refusal becomes a Problem with what happened and what to do.
/** @import { ErrorRow, Evaluation, IssuedKey, Job, JobList, KeyList, MediaLinks } from "#types" */
/** @import { Analysis, Batch, BatchList, Offer, OpenApi, ProblemDocument, Source, UsageReport } from "#types" */
/** @import { Keyring } from "./keyring.js" */

export class Problem extends Error {
  /** @param {ProblemDocument} document @param {number} status */
  constructor(document, status) {
    super(document.detail || document.title || `The service answered ${status}.`);
    this.status = status;
    this.title = document.title || "The service refused";
    this.code = document.code || "";
    this.advice = document.advice || "";
    this.requestId = document.request_id || "";
    this.errors = document.errors || [];
  }

  /** @param {Response} response */
  static async of(response) {
    const document = await response.json().catch(() => ({}));
    return new Problem(document, response.status);
  }

  static unreachable() {
    const document = {
      title: "The service does not respond",
      detail: "The connection failed, or the service is not running.",
      advice: "Check that it is running, then try again.",
    };
    return new Problem(document, 0);
  }

  get isAboutKey() {
    return this.status === 401;
  }
}

export class Api {
  /** @param {Keyring} keyring */
  constructor(keyring) {
    this.keyring = keyring;
  }

  /** Relative to the page, so that the console also works below a path of a proxy. @param {string} path */
  static address(path) {
    return new URL(path.replace(/^\//, ""), document.baseURI).href;
  }

  /**
   * A successful Response. Throws Problem, or AbortError when the signal fires.
   * @param {string} path
   * @param {Omit<RequestInit, "headers"> & { headers?: Record<string, string> }} [request]
   */
  async call(path, { headers = {}, ...options } = {}) {
    for (;;) {
      const key = this.keyring.key;
      const response = await fetch(Api.address(path), { ...options, headers: { ...headers, ...this.keyring.headers } })
        .catch((fault) => {
          throw fault.name === "AbortError" ? fault : Problem.unreachable();
        });
      if (response.ok) return response;
      const problem = await Problem.of(response);
      if (!problem.isAboutKey || !(await this.askForKey(problem, key))) throw problem;
    }
  }

  /**
   * True if there is a key now that the refused call did not have.
   * @param {Problem} problem
   * @param {string | null} refused
   */
  async askForKey(problem, refused) {
    if (this.keyring.key !== refused) return true;
    return Boolean(await this.keyring.ask(`${problem.message} ${problem.advice}`.trim()));
  }

  /** @param {string} path @param {RequestInit & { headers?: Record<string, string> }} [options] */
  async json(path, options) {
    const response = await this.call(path, options);
    return response.status === 204 ? null : response.json();
  }

  offer = () => /** @type {Promise<Offer>} */ (this.json("v1/engines"));
  errorCodes = () => /** @type {Promise<ErrorRow[]>} */ (this.json("v1/errors"));
  document = () => /** @type {Promise<OpenApi>} */ (this.json("openapi.json"));
  /** @param {string} id @param {{ signal?: AbortSignal }} [options] @returns {Promise<Job>} */
  job = (id, options) => this.json(`v1/jobs/${id}`, options);
  /** @param {Record<string, string>} query @param {{ signal: AbortSignal }} options @returns {Promise<JobList>} */
  jobs = (query, options) => this.json(`v1/jobs?${new URLSearchParams(query)}`, options);
  /** @param {string} id */
  remove = (id) => this.json(`v1/jobs/${id}`, { method: "DELETE" });
  /** @param {string} id @returns {Promise<Job>} */
  redeliver = (id) => this.json(`v1/jobs/${id}/webhook/redeliver`, { method: "POST" });
  /** @param {string} id @returns {Promise<Evaluation>} */
  evaluation = (id) => this.json(`v1/jobs/${id}/evaluation`);
  /** @param {string} id @returns {Promise<MediaLinks>} */
  media = (id) => this.json(`v1/jobs/${id}/media`);

  /**
   * Submits an analysis of a video.
   * @param {Source} video
   * @param {AbortSignal} signal
   * @returns {Promise<Job>}
   */
  analyze({ url, file }, signal) {
    if (file) {
      const form = new FormData();
      form.append("video", file);
      return this.json("v1/videos/analyze/upload", { method: "POST", body: form, signal });
    }
    const headers = { "Content-Type": "application/json" };
    const body = JSON.stringify({ video_url: url });
    return this.json("v1/videos/analyze", { method: "POST", headers, body, signal });
  }

  /** @param {string} id @returns {Promise<Analysis>} */
  analysis = (id) => this.json(`v1/jobs/${id}/analysis`);
  /** A picture of a person. @param {string} id @param {string} track */
  portrait = async (id, track) => (await this.call(`v1/jobs/${id}/people/${track}.jpg`)).blob();

  /** @param {Record<string, string>} query @param {{ signal: AbortSignal }} options @returns {Promise<BatchList>} */
  batches = (query, options) => this.json(`v1/batches?${new URLSearchParams(query)}`, options);
  /** @param {string} id @param {{ signal?: AbortSignal }} [options] @returns {Promise<Batch>} */
  batch = (id, options) => this.json(`v1/batches/${id}`, options);
  /** @param {string} id @returns {Promise<Batch>} */
  cancelBatch = (id) => this.json(`v1/batches/${id}/cancel`, { method: "POST" });
  /** @param {string} id */
  deleteBatch = (id) => this.json(`v1/batches/${id}`, { method: "DELETE" });
  /**
   * A retry with the same idempotency key never makes a second batch.
   * @param {object} body
   * @param {string} idempotencyKey
   * @returns {Promise<Batch>}
   */
  submitBatch(body, idempotencyKey) {
    const headers = { "Content-Type": "application/json", "Idempotency-Key": idempotencyKey };
    return this.json("v1/batches", { method: "POST", headers, body: JSON.stringify(body) });
  }

  /** The id of a file that was uploaded. @param {Blob} file @returns {Promise<string>} */
  async upload(file) {
    const { id, url } = await this.json("v1/uploads", { method: "POST" });
    if (new URL(Api.address(url)).origin !== location.origin) {
      throw new Problem({
        title: "Too long for the console",
        detail: "A list of more than 900 kB is uploaded, here to another host, which this page does not contact.",
        advice: "Submit it in parts, or with the command `retalking batch`.",
      }, 0);
    }
    const response = await fetch(Api.address(url), { method: "PUT", body: file }).catch(() => {
      throw Problem.unreachable();
    });
    if (!response.ok) throw await Problem.of(response);
    return id;
  }

  /** @param {number} months @returns {Promise<UsageReport>} */
  usage = (months) => this.json(`v1/usage?months=${months}`);
  /** @param {string | null} cursor @returns {Promise<KeyList>} */
  keys = (cursor) => this.json(`v1/keys?limit=100${cursor ? `&cursor=${cursor}` : ""}`);
  /** @param {{ name: string, account: string | null, scopes: string[] }} key @returns {Promise<IssuedKey>} */
  createKey = (key) => this.json("v1/keys",
    { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(key) });
  /** @param {string} id @returns {Promise<IssuedKey>} */
  rotateKey = (id) => this.json(`v1/keys/${id}/rotate`, { method: "POST" });
  /** @param {string} id */
  revokeKey = (id) => this.json(`v1/keys/${id}/revoke`, { method: "POST" });

  /**
   * Submits a form. A retry with the same idempotency key never makes a second job. Uses XMLHttpRequest, because fetch
   * does not report upload progress. onProgress: called with sent and total bytes. Throws Problem or AbortError.
   * @param {FormData} form
   * @param {{ idempotencyKey: string, onProgress: (sent: number, total: number) => void, signal: AbortSignal }} options
   * @returns {Promise<Job>}
   */
  async submit(form, { idempotencyKey, onProgress, signal }) {
    for (;;) {
      const key = this.keyring.key;
      const headers = { "Idempotency-Key": idempotencyKey, ...this.keyring.headers };
      const { status, document } = await send(form, headers, onProgress, signal);
      if (status === 202) return document;
      const problem = status ? new Problem(document, status) : Problem.unreachable();
      if (!problem.isAboutKey || !(await this.askForKey(problem, key))) throw problem;
    }
  }
}

/**
 * @param {FormData} form
 * @param {Record<string, string>} headers
 * @param {(sent: number, total: number) => void} onProgress
 * @param {AbortSignal} signal
 * @returns {Promise<{ status: number, document: any }>}
 */
function send(form, headers, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", Api.address("v1/jobs/upload"));
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => onProgress(event.loaded, event.total);
    request.onload = () => resolve({ status: request.status, document: parse(request.responseText) });
    request.onerror = () => resolve({ status: 0, document: {} });
    request.onabort = () => reject(new DOMException("The upload was stopped", "AbortError"));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(form);
  });
}

/** @param {string} text */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}
