// Every delivery of a job's webhook with its attempts, and one more on request.

import { announce, h } from "./elements.js";
import { moment, seconds } from "./format.js";
import { problemBox } from "./notices.js";

// Draws anew only when something changed: an open list of attempts stays open.
export function showWebhook(place, page, redraw) {
  const { webhook } = page.job;
  const state = JSON.stringify(webhook);
  if (place.dataset.state === state) return;
  place.dataset.state = state;
  if (!webhook) return place.replaceChildren();
  const again = h("button", { type: "button", class: "quiet", onclick: () => redeliver(place, page, redraw) }, "Deliver again");
  const list = webhook.deliveries.length
    ? h("ul", { class: "deliveries" }, webhook.deliveries.map(delivery))
    : h("p", { class: "fine" }, "Nothing was sent yet.");
  return place.replaceChildren(h("section", { class: "card", "aria-labelledby": "webhook-title" },
    h("div", { class: "row spread" }, h("h2", { id: "webhook-title" }, "Webhook"), again),
    h("p", { class: "fine" }, h("code", {}, webhook.url), ` is told of ${webhook.events.join(", ")}.`), list));
}

function delivery(each) {
  const next = each.state === "pending" && each.next_attempt_at && ` Next attempt: ${moment(each.next_attempt_at)}.`;
  return h("li", {},
    h("p", {}, h("span", { class: `badge ${each.state}` }, each.state.replace("_", " ")), " ", h("strong", {}, each.event), next),
    h("p", { class: "fine" }, h("code", {}, each.id)),
    each.attempts.length > 0 && h("table", { class: "attempts" },
      h("caption", { class: "unseen" }, `Attempts at ${each.event}`),
      h("thead", {}, h("tr", {}, ["When", "Answer", "Took"].map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, each.attempts.map((attempt) => h("tr", {},
        h("td", {}, moment(attempt.at)),
        h("td", {}, [attempt.status_code, attempt.error].filter(Boolean).join(": ") || "none"),
        h("td", {}, seconds(attempt.duration_ms / 1000)))))));
}

async function redeliver(place, page, redraw) {
  try {
    page.job = await page.api.redeliver(page.id);
    announce("The webhook is being delivered again.");
    redraw(page);
    for (const wait of [500, 1500, 3000]) setTimeout(() => refresh(page, redraw), wait);
  } catch (fault) {
    place.append(problemBox(fault));
  }
}

async function refresh(page, redraw) {
  if (page.signal.aborted) return;
  page.job = await page.api.job(page.id);
  redraw(page);
}
