// Runs a job with the client that @hey-api/openapi-ts made: `node caller.js URL KEY`, in a folder with the inputs.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { client } from "./client/client.gen";
import { getJob, getResult, listJobs, submitJob, submitJobFiles } from "./client";
import type { JobSubmission, JobView } from "./client";

const [url, key] = process.argv.slice(2);
client.setConfig({ baseUrl: url.replace(/\/$/, ""), auth: key, throwOnError: false });
const file = (name: string, type: string) => new File([new Uint8Array(readFileSync(name))], name, { type });

async function main() {
  const submitted = await submitJobFiles({
    body: {
      video: file("face.mp4", "video/mp4"),
      audio: file("speech.wav", "audio/wav"),
      output: { crf: 20 },
      metadata: { order: 7 },
    },
  });
  if (!submitted.data) throw new Error(JSON.stringify(submitted.error));
  let job: JobView = submitted.data;
  while (!["succeeded", "failed", "canceled"].includes(job.status)) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    job = (await getJob({ path: { job_id: job.id }, throwOnError: true })).data;
  }
  const { data } = await getResult({ path: { job_id: job.id }, parseAs: "arrayBuffer" });
  const result = new Uint8Array(data as unknown as ArrayBuffer);
  const refused = await submitJob({ body: {} as JobSubmission });
  const page = await listJobs({ query: { limit: 5 }, throwOnError: true });
  console.log(JSON.stringify({
    status: job.status,
    bytes: result.length,
    sha256: createHash("sha256").update(result).digest("hex"),
    crf: job.options.output.crf,
    metadata: job.metadata,
    refusal: refused.error?.code,
    listed: page.data.jobs.length,
  }));
}

void main();
