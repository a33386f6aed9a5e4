// @ts-check
// What accounts used; for admins also their keys: create, rotate, revoke.
/** @import { AccountUsage, ApiKey, IssuedKey, PageContext } from "#types" */
/** @import { Api } from "./api.js" */

import { Problem } from "./api.js";
import { announce, h, unique } from "./elements.js";
import { bytes, moment, seconds } from "./format.js";
import { confirmLoss, problemBox } from "./notices.js";

const MONTHS = 3;
const SCOPES = ["submit", "read", "admin"];

/** @typedef {{ api: Api, issued: HTMLElement, keys: HTMLElement, accounts: AccountUsage[] }} View */

/** @param {HTMLElement} root @param {PageContext} context */
export async function showAccounts(root, { api, signal }) {
  const { accounts, next_cursor: more } = await api.usage(MONTHS);
  if (signal.aborted) return;
  const view = { api, accounts, issued: h("div", { "aria-live": "polite" }), keys: h("div", { class: "job-list" }) };
  root.replaceChildren(h("h1", {}, "Usage and keys"), usageTable(accounts),
    more ? h("p", { class: "note" }, "More accounts: GET /v1/usage.") : "", view.issued, view.keys);
  if (accounts.length === 1 && accounts[0].account === null) {
    view.keys.replaceChildren(h("p", { class: "note" }, "This service requires no API keys, so all callers are one."));
    return;
  }
  await refreshKeys(view);
}

/** @param {AccountUsage[]} accounts */
function usageTable(accounts) {
  const heads = ["Account", "Month (UTC)", "Succeeded", "Failed", "Canceled", "Video", "Workers", "GPU", "Stored now"];
  const rows = accounts.flatMap((account) => account.months.map((month, index) => cells("tr", {}, heads, [
    index ? "" : account.name ?? "Everyone", month.month, month.jobs.succeeded, month.jobs.failed, month.jobs.canceled,
    seconds(month.video_s), seconds(month.worker_s), seconds(month.gpu_s), index ? "" : bytes(account.stored_bytes),
  ])));
  return table("Usage by account and month", heads, rows);
}

/** @param {string} caption @param {string[]} heads @param {HTMLElement[]} rows */
function table(caption, heads, rows) {
  return h("table", { class: "jobs" },
    h("caption", { class: "unseen" }, caption),
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, rows));
}

/**
 * @param {"tr"} tag
 * @param {import("#types").Properties} attributes
 * @param {string[]} heads
 * @param {import("#types").Child[]} contents
 */
function cells(tag, attributes, heads, contents) {
  return h(tag, attributes, contents.map((content, index) => h("td", { "data-head": heads[index] }, content)));
}

/** Shows nothing to callers who are no admins. @param {View} view */
async function refreshKeys(view) {
  try {
    const keys = [];
    for (let cursor = null; ;) {
      const page = await view.api.keys(cursor);
      keys.push(...page.keys);
      cursor = page.next_cursor;
      if (!cursor) break;
    }
    view.keys.replaceChildren(h("h2", {}, "Keys"), keysTable(view, keys), newKeyForm(view));
  } catch (fault) {
    if (!(fault instanceof Problem && fault.code === "forbidden")) view.keys.replaceChildren(problemBox(fault));
  }
}

/** @param {View} view @param {ApiKey[]} keys */
function keysTable(view, keys) {
  const heads = ["Name", "Account", "Id", "Scopes", "Created", "Ends", "Actions"];
  return table("Keys, oldest first", heads, keys.map((key) => cells("tr", { "data-key": key.id }, heads, [
    key.name,
    accountName(view, key.account),
    h("code", {}, key.id),
    key.scopes.join(", "),
    moment(key.created_at),
    moment(key.revoked_at),
    isValid(key) && [
      h("button", {
        type: "button", class: "quiet small", "aria-label": `Rotate key ${key.name}`, onclick: () => rotate(view, key),
      }, "Rotate"),
      h("button", {
        type: "button", class: "quiet small", "aria-label": `Revoke key ${key.name}`, onclick: () => revoke(view, key),
      }, "Revoke"),
    ],
  ])));
}

/** @param {View} view @param {string} id */
const accountName = (view, id) => view.accounts.find(({ account }) => account === id)?.name ?? id;

/** @param {ApiKey} key */
const isValid = (key) => key.revoked_at === null || new Date(key.revoked_at) > new Date();

/** @param {View} view */
function newKeyForm(view) {
  const [nameId, accountId] = [unique("name"), unique("account")];
  const name = h("input", { id: nameId, required: true, maxlength: 100, autocomplete: "off" });
  const account = h("select", { id: accountId }, h("option", { value: "" }, "A new account of the same name"),
    view.accounts.map((each) => h("option", { value: each.account }, each.name)));
  const scopes = SCOPES.map((scope) => h("input", { type: "checkbox", value: scope, checked: scope !== "admin" }));
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const chosen = scopes.filter((box) => box.checked).map((box) => box.value);
    await issue(view, view.api.createKey({ name: name.value, account: account.value || null, scopes: chosen }));
  };
  return h("form", { class: "card", onsubmit: submit },
    h("h2", {}, "New key"),
    h("label", { for: nameId }, "Whose key it is"), name,
    h("label", { for: accountId }, "Account"), account,
    h("fieldset", {}, h("legend", {}, "Scopes"),
      scopes.map((box) => h("label", { class: "check" }, box, ` ${box.value}`))),
    h("div", { class: "row end" }, h("button", { class: "primary" }, "Create the key")));
}

/** @param {View} view @param {ApiKey} key */
async function rotate(view, key) {
  const text = "A new key takes its place, with the same account and scopes. The old key is valid for one more day.";
  if (await confirmLoss(`Rotate ${key.name}?`, text, "Rotate")) await issue(view, view.api.rotateKey(key.id));
}

/** @param {View} view @param {ApiKey} key */
async function revoke(view, key) {
  const text = "Its next call is refused, and its links end. The jobs stay with the account.";
  if (!(await confirmLoss(`Revoke ${key.name}?`, text, "Revoke"))) return;
  try {
    await view.api.revokeKey(key.id);
    announce("The key is revoked.");
    await refreshKeys(view);
  } catch (fault) {
    view.issued.replaceChildren(problemBox(fault));
  }
}

/** Shows a new key, this once. @param {View} view @param {Promise<IssuedKey>} coming */
async function issue(view, coming) {
  try {
    const { key, account, name } = await coming;
    if (!view.accounts.some((each) => each.account === account)) {
      view.accounts = [...view.accounts, { account, name, live_jobs: 0, stored_bytes: 0, months: [] }];
    }
    view.issued.replaceChildren(h("div", { class: "notice" },
      h("h2", {}, `The key of ${name}`),
      h("p", {}, "Copy it now. It cannot be shown again."),
      h("p", {}, h("code", { class: "new-key" }, key))));
    view.issued.scrollIntoView({ block: "center" });
    await refreshKeys(view);
  } catch (fault) {
    view.issued.replaceChildren(problemBox(fault));
  }
}
