// The hand-written layer of clients/typescript against a running service: `node layer.js URL KEY`, next to the
// inputs. It prints what it saw as JSON.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { Retalking, RetalkingError, raiseForStatus, verifyWebhook } from "./index";

const [url, key] = process.argv.slice(2);
const service = new Retalking({ url, apiKey: key });
const file = (name: string) => new File([new Uint8Array(readFileSync(name))], name);

async function refusal(call: () => Promise<unknown>): Promise<string> {
  try {
    await call();
  } catch (fault) {
    if (fault instanceof RetalkingError) return fault.code;
    throw fault;
  }
  return "none";
}

async function main() {
  const [face, speech] = [file("face.mp4"), file("speech.wav")];
  const options = { output: { crf: 20 }, metadata: { order: 7 }, evaluate: [] };
  const job = await service.submit(face, speech, options, "ts-layer");
  const again = await service.submit(face, speech, options, "ts-layer");
  const events = [];
  for await (const event of service.events(job)) events.push(event.event);
  const over = raiseForStatus(await service.wait(job));
  const result = new Uint8Array(await (await service.download(job)).arrayBuffer());
  const link = "https://93.184.215.14/face.mp4";
  const items = [1, 2].map((seed) => ({ video_url: link, audio_url: link, seed }));
  const batch = await service.submitBatch(items, { metadata: { order: 7 } }, "ts-batch");
  const sameBatch = await service.submitBatch(items, { metadata: { order: 7 } }, "ts-batch");
  const isKept = await refusal(() => service.deleteBatch(batch));
  await service.cancelBatch(batch);
  const canceled = await service.waitBatch(batch);
  const batches = [];
  for await (const each of service.batches()) batches.push(each.id);
  await service.deleteBatch(batch);
  const upload = await service.upload(face);
  const uploaded = await service.wait(await service.submit(upload, [{ audio: upload, start_s: 0 }]));
  const found: string[] = [];
  for await (const each of service.jobs({ limit: 1, status: ["succeeded"] })) found.push(each.id);
  await service.delete(uploaded);
  const used = [];
  for await (const each of service.usage()) used.push(each.months[0].jobs.succeeded);
  const lost = [];
  for await (const each of service.undelivered()) lost.push(each.id);
  const secret = await service.webhookSecret();
  const rotated = await service.rotateWebhookSecret(0);
  const other = new File([await speech.arrayBuffer(), "more"], "other.wav");
  const dubbed = await service.submit(face, [
    { audio: speech, start_s: 0.5, end_s: 3, face: "left_most" },
    { audio: other, start_s: 2, face: { x: 4, y: 5 } },
    { audio: speech, start_s: 4, audio_offset_s: 1.5 },
  ], { evaluate: ["face_coverage"], sound: { mix: "over" } });
  const spoken = raiseForStatus(await service.wait(dubbed));
  const analyzed = await service.wait(await service.analyze(face, { metadata: { order: 8 }, expires_in_s: null }));
  const { people } = await service.analysis(raiseForStatus(analyzed));
  const signed = JSON.parse(readFileSync("webhook.json", "utf8"));
  const message = await verifyWebhook(signed.body, signed.headers, ["whsec_AAAA", signed.secret]);
  console.log(JSON.stringify({
    status: over.status,
    bytes: result.length,
    sha256: createHash("sha256").update(result).digest("hex"),
    crf: over.options.output.crf,
    metadata: over.metadata,
    evaluate: over.options.evaluate,
    isReplayed: again.id === job.id,
    events,
    lists: {
      batches: batches.filter((id) => id === batch.id).length,
      jobs: [over.id, uploaded.id].every((id) => found.includes(id)),
      used: used.length,
      lost,
    },
    uploaded: [uploaded.status, uploaded.inputs.video?.upload_id === upload.id, isKept],
    metrics: (await service.evaluation(over)).metrics.map(({ name }) => name),
    links: [!!(await service.media(over)).result?.url, (await service.portrait(analyzed, "person_1")).size],
    isRotated: rotated.version - secret.version,
    engines: (await service.offer()).engines.length,
    batch: [batch.total, sameBatch.id === batch.id, canceled.status, canceled.counts.canceled, canceled.metadata],
    dubbed: {
      segments: spoken.segments.map((each) => [each.audio, each.start_s, each.end_s, each.audio_offset_s]),
      files: Object.entries(spoken.inputs).map(([part, { filename }]) => [part, filename]),
      mix: spoken.options.sound.mix,
      values: spoken.evaluation?.flatMap((metric) => metric.segments?.map((each) => each.value) ?? []),
    },
    webhook: [message.type, message.data.id],
    analyzed: [analyzed.kind, analyzed.metadata, ...people.map((person) => person.track)],
    refusals: [
      await refusal(() => service.submit("ftp://a/b", speech)),
      await refusal(() => service.submit(face, [{ audio: speech, start_s: 2, end_s: 1 }])),
      await refusal(() => service.get(`job_${"0".repeat(32)}`)),
      await refusal(() => service.retry(job)),
      await refusal(() => service.submitBatch([{ video_url: link } as (typeof items)[0]])),
      await refusal(() => verifyWebhook(`${signed.body} `, signed.headers, signed.secret)),
      await refusal(() => verifyWebhook(signed.body, { ...signed.headers, "webhook-timestamp": "1" }, signed.secret)),
      await refusal(() => service.events(`job_${"0".repeat(32)}`).next()),
      await refusal(() => service.analysis(job)),
      await refusal(() => service.analyze("ftp://a/b")),
      await refusal(() => service.get(uploaded)),
      await refusal(() => service.getBatch(batch)),
      await refusal(() => service.redeliver(over)),
      await refusal(() => service.redeliverEvent("whd_1")),
      await refusal(() => service.poster(uploaded)),
      await refusal(() => service.preview(uploaded)),
    ],
  }));
}

void main();
