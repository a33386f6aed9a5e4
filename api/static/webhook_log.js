// @ts-check
// The deliveries of a job's webhook with their attempts, and redelivery on request.
/** @import { Delivery, Job } from "#types" */
/** @import { Api } from "./api.js" */

import { announce, h } from "./elements.js";
import { moment, seconds } from "./format.js";
import { problemBox } from "./notices.js";

/** @typedef {{ api: Api, signal: AbortSignal, id: string, job: Job }} JobView */

/**
 * Redraws only what changed, so that an open list of attempts stays open.
 * @param {HTMLElement} place
 * @param {JobView} page
 * @param {() => void} redraw
 */
export function showWebhook(place, page, redraw) {
  const { webhook } = page.job;
  const state = JSON.stringify(webhook);
  if (place.dataset.state === state) return;
  place.dataset.state = state;
  if (!webhook) {
    place.replaceChildren();
    return;
  }
  const onclick = () => redeliver(place, page, redraw);
  const again = h("button", { type: "button", class: "quiet", onclick }, "Deliver again");
  const list = webhook.deliveries.length
    ? h("ul", { class: "deliveries" }, webhook.deliveries.map(delivery))
    : h("p", { class: "fine" }, "Nothing was sent yet.");
  place.replaceChildren(h("section", { class: "card", "aria-labelledby": "webhook-title" },
    h("div", { class: "row spread" }, h("h2", { id: "webhook-title" }, "Webhook"), again),
    h("p", { class: "fine" }, h("code", {}, webhook.url), ` receives ${webhook.events.join(", ")}.`), list));
}

/** @param {Delivery} each */
function delivery(each) {
  const next = each.state === "pending" && each.next_attempt_at && ` Next attempt: ${moment(each.next_attempt_at)}.`;
  return h("li", {},
    h("p", {},
      h("span", { class: `badge ${each.state}` }, each.state.replace("_", " ")), " ",
      h("strong", {}, each.event), next),
    h("p", { class: "fine" }, h("code", {}, each.id)),
    each.attempts.length > 0 && h("table", { class: "attempts" },
      h("caption", { class: "unseen" }, `Attempts at ${each.event}`),
      h("thead", {}, h("tr", {}, ["When", "Answer", "Took"].map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, each.attempts.map((attempt) => h("tr", {},
        h("td", {}, moment(attempt.at)),
        h("td", {}, [attempt.status_code, attempt.error].filter(Boolean).join(": ") || "none"),
        h("td", {}, seconds(attempt.duration_ms / 1000)))))));
}

/** @param {HTMLElement} place @param {JobView} page @param {() => void} redraw */
async function redeliver(place, page, redraw) {
  try {
    page.job = await page.api.redeliver(page.id);
    announce("The webhook is being delivered again.");
    redraw();
    for (const wait of [500, 1500, 3000]) setTimeout(() => refresh(page, redraw), wait);
  } catch (fault) {
    place.append(problemBox(fault));
  }
}

/** @param {JobView} page @param {() => void} redraw */
async function refresh(page, redraw) {
  if (page.signal.aborted) return;
  page.job = await page.api.job(page.id);
  redraw();
}
