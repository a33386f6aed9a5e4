// @ts-check
// Entry point: builds what all pages share, and shows the page of the current address.
/** @import { PageContext } from "#types" */

import { showAccounts } from "./accounts.js";
import { Api, Problem } from "./api.js";
import { showBatch, showBatchList } from "./batches.js";
import { byId, h } from "./elements.js";
import { pause } from "./events.js";
import { showJobList } from "./job_list.js";
import { showJobPage } from "./job_page.js";
import { Keyring } from "./keyring.js";
import { showNewJob } from "./new_job.js";
import { problemBox } from "./notices.js";
import { startTheme } from "./theme.js";

const SERVICE_REFRESH_MS = 15000;
const main = byId("main");
const api = new Api(new Keyring());
let leaving = new AbortController();

/**
 * The page of an address: #/ new job, #/jobs?status=&batch=&cursor= list, #/jobs/<id> one job,
 * #/batches?cursor= list, #/batches/<id> one batch, #/accounts usage and keys.
 * @param {string} hash
 * @returns {{ nav: string, name: string, show: (root: HTMLElement, context: PageContext) => Promise<void> }}
 */
function pageOf(hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  const [view, id] = path.split("/");
  if (view === "jobs" && id) {
    const show = showJobPage.bind(null, decodeURIComponent(id));
    return { show, nav: "jobs", name: "Job" };
  }
  if (view === "jobs") return { show: showJobList.bind(null, new URLSearchParams(query)), nav: "jobs", name: "Jobs" };
  if (view === "batches" && id) {
    const show = showBatch.bind(null, decodeURIComponent(id));
    return { show, nav: "batches", name: "Batch" };
  }
  if (view === "batches") {
    return { show: showBatchList.bind(null, new URLSearchParams(query)), nav: "batches", name: "Batches" };
  }
  if (view === "accounts") return { show: showAccounts, nav: "accounts", name: "Usage and keys" };
  return { show: showNewJob, nav: "new", name: "New job" };
}

async function route(moveFocus = true) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const { show, nav, name } = pageOf(location.hash);
  document.title = `${name} · Retalking`;
  for (const link of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-view]"))) {
    if (link.dataset.view === nav) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.replaceChildren(h("h1", {}, name), h("p", { class: "loading" }, "Loading …"));
  if (moveFocus) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  try {
    await show(main, { api, signal, go });
  } catch (fault) {
    if (signal.aborted) return;
    if (!(fault instanceof Problem)) console.error(fault);
    main.replaceChildren(h("h1", {}, name), problemBox(fault),
      h("button", { type: "button", onclick: () => route() }, "Try again"));
  }
}

/** @param {string} hash */
function go(hash) {
  if (location.hash === hash) route();
  else location.hash = hash;
}

// Shows whether the service is ready. `/readyz` needs no key.
async function watchService() {
  const line = byId("service");
  for (;;) {
    if (!document.hidden) await showService(line);
    await pause(SERVICE_REFRESH_MS);
  }
}

/** @param {HTMLElement} line */
async function showService(line) {
  const response = await fetch(Api.address("readyz")).catch(() => null);
  const problem = response === null || response.ok ? null : await Problem.of(response);
  const missing = problem?.errors.map((error) => error.pointer) ?? [];
  line.dataset.state = response === null ? "away" : response.ok ? "ready" : "unready";
  /** @type {Record<string, string>} */
  const absent = { workers: "No worker", engine: "No engine" };
  line.textContent = response === null ? "No connection"
    : response.ok ? "Ready" : absent[missing.find((part) => part in absent) ?? ""] ?? "Not ready";
}

byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => route());
// A file dropped beside its zone must not replace the page and everything entered.
for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
startTheme(byId("theme"));
watchService();
route(false);
