// The entry: builds what all pages share, and shows the page that the address names.

import { Api, Problem } from "./api.js";
import { h } from "./elements.js";
import { pause } from "./events.js";
import { showJobList } from "./job_list.js";
import { showJobPage } from "./job_page.js";
import { Keyring } from "./keyring.js";
import { showNewJob } from "./new_job.js";
import { problemBox } from "./notices.js";
import { startTheme } from "./theme.js";

const SERVICE_REFRESH_MS = 15000;
const main = document.getElementById("main");
const api = new Api(new Keyring());
let leaving = new AbortController();

// #/ new job, #/jobs?status=&cursor= list, #/jobs/<id> one job
function pageOf(hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  const [view, id] = path.split("/");
  if (view === "jobs" && id) return { show: showJobPage, nav: "jobs", name: "Job", id: decodeURIComponent(id) };
  if (view === "jobs") return { show: showJobList, nav: "jobs", name: "Jobs", query: new URLSearchParams(query) };
  return { show: showNewJob, nav: "new", name: "New job" };
}

async function route(moveFocus = true) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const { show, nav, name, ...address } = pageOf(location.hash);
  document.title = `${name} · Retalking`;
  for (const link of document.querySelectorAll("[data-view]")) {
    if (link.dataset.view === nav) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.replaceChildren(h("h1", {}, name), h("p", { class: "loading" }, "Loading …"));
  if (moveFocus) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  try {
    await show(main, { api, signal, go, ...address });
  } catch (fault) {
    if (signal.aborted) return;
    if (!(fault instanceof Problem)) console.error(fault);
    main.replaceChildren(h("h1", {}, name), problemBox(fault),
      h("button", { type: "button", onclick: () => route() }, "Try again"));
  }
}

function go(hash) {
  if (location.hash === hash) route();
  else location.hash = hash;
}

// Who works now. A service that wants a key is asked only after the person was: see Api.call.
async function watchService() {
  const line = document.getElementById("service");
  for (;;) {
    if (!document.hidden) await showService(line);
    await pause(SERVICE_REFRESH_MS);
  }
}

async function showService(line) {
  const response = await fetch(Api.address("readyz")).catch(() => null);
  const missing = response === null || response.ok ? [] : (await Problem.of(response)).errors.map((error) => error.pointer);
  line.dataset.state = response === null ? "away" : response.ok ? "ready" : "unready";
  line.textContent = response === null ? "No connection"
    : response.ok ? "Ready" : missing.includes("workers") ? "No worker" : "Not ready";
}

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => route());
// A file dropped beside its place must not replace the page and all that was entered.
for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
startTheme(document.getElementById("theme"));
watchService();
route(false);
