// One POST /jobs with its files. XMLHttpRequest, because fetch does not tell how much was sent.

import { Api, Problem } from "./api.js";

// Sends a form; resolves to the job. onProgress(sent, total) in bytes. A repetition under the same key of the draft
// never makes a second job. Throws Problem; AbortError when the signal fires.
export async function submitJob(api, form, { draftKey, onProgress, signal }) {
  for (;;) {
    const key = api.keyring.key;
    const answer = await send(form, { "Idempotency-Key": draftKey, ...api.keyring.headers }, onProgress, signal);
    if (answer.status === 202) return answer.document;
    const problem = answer.status ? new Problem(answer.document, answer.status) : Problem.unreachable();
    if (!problem.isAboutKey || !(await api.askForKey(problem, key))) throw problem;
  }
}

function send(form, headers, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", Api.address("jobs"));
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => onProgress(event.loaded, event.total);
    request.onload = () => resolve({ status: request.status, document: parse(request.responseText) });
    request.onerror = () => resolve({ status: 0, document: {} });
    request.onabort = () => reject(new DOMException("The upload was stopped", "AbortError"));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(form);
  });
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}
