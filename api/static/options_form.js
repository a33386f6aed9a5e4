// @ts-check
// All options of a job as a form, built from what the service says about them.
/** @import { Field, FieldError, GroupShape, ListShape, Offer, OpenApi, Schema, Shape } from "#types" */

import { buildField } from "./fields.js";
import { h } from "./elements.js";
import { describeOption, refusals } from "./option_shapes.js";

// Options that most jobs set are always visible; all others, including ones unknown to this page, are one click away.
const FIRST = ["engine", "length_mode", "expression", "upper_face", "face"];
const DELIVERY = ["webhook_url", "webhook_events", "evaluate_policy", "priority", "expires_in_s", "metadata"];

/** @typedef {ReturnType<typeof pictureField>} Picture */
/** @typedef {{ element: HTMLElement, fields: Record<string, Field>, picture: Picture }} Form */
/** @typedef {Pick<FieldError, "pointer" | "message">} Refusal */

/**
 * @param {Offer} offer
 * @param {OpenApi} document describes the fields that are not options of the render
 */
export function buildOptions(offer, document) {
  const schemas = document.components.schemas;
  /** @type {Record<string, Field>} */
  const fields = {};
  const make = (/** @type {Shape} */ shape) => (fields[shape.name] = buildField(withMetrics(shape, offer)));

  const described = Object.entries(offer.options).map(([name, option]) => withEngines({
    ...describeOption(name, option.values, option.default), help: option.description,
  }, offer));
  const first = FIRST.flatMap((name) => described.filter((shape) => shape.name === name)).map(make);
  const rest = described.filter((shape) => !FIRST.includes(shape.name)).map(make);
  const properties = schemas.JobSpec.properties;
  const delivery = DELIVERY.filter((name) => name in properties).map((name) => make(
    describeOption(name, properties[name], properties[name].default ?? defaultOf(name, schemas))));

  const picture = pictureField(schemas.JobForm.properties.expression, fields.expression);
  const element = h("div", { class: "options" },
    h("div", { class: "option-grid" }, first.map((field) => field.element), picture.element),
    fold("More options", "Quality, size, crop, evaluation", rest),
    fold("Delivery", "Webhook, priority, deadline, your own data", delivery));
  const form = { element, fields, picture };
  markRefusals(form, offer);
  fields.engine.control.addEventListener("change", () => markRefusals(form, offer));
  const show = (/** @type {Refusal[]} */ errors) => showErrors(form, errors);
  return { ...form, read: () => readAll(form), showErrors: show };
}

/** @param {string} heading @param {string} summary @param {Field[]} fields */
function fold(heading, summary, fields) {
  return h("details", { class: "fold" },
    h("summary", {}, h("span", { class: "fold-title" }, heading), h("span", { class: "fine" }, summary)),
    h("div", { class: "option-grid" }, fields.map((field) => field.element)));
}

/**
 * The schema does not list the engines of plug-ins, because they depend on the workers.
 * @param {Shape} shape
 * @param {Offer} offer
 * @returns {Shape}
 */
function withEngines(shape, offer) {
  if (shape.name !== "engine" || shape.kind !== "choice") return shape;
  const added = new Map(offer.engines.map(({ name, description }) => [name, { value: name, meaning: description }]));
  for (const { value } of shape.choices) added.delete(value);
  return { ...shape, choices: [...shape.choices, ...added.values()] };
}

/**
 * The schema does not list the metrics, because they depend on the workers.
 * @param {Shape} shape
 * @param {Offer} offer
 * @returns {Shape}
 */
function withMetrics(shape, offer) {
  if (shape.name !== "evaluate") return shape;
  const choices = offer.metrics.map((name) => ({ value: name, meaning: offer.metric_table[name]?.description ?? "" }));
  const modes = [
    { value: "all", meaning: "Every metric whose checkpoints are available" },
    { value: "none", meaning: "No metrics; the job finishes sooner" },
  ];
  const base = { path: "evaluate", help: "" };
  /** @type {ListShape} */
  const list = { ...base, kind: "list", name: "list", label: "Metrics", default: [], choices };
  /** @type {GroupShape} */
  const chosen = { ...base, kind: "group", name: "chosen", label: "chosen", members: [list] };
  const variants = choices.length ? [chosen] : [];
  return { ...shape, kind: "choice", default: "all", choices: modes, variants, isMetrics: true };
}

/** @param {string} name @param {OpenApi["components"]["schemas"]} schemas */
const defaultOf = (name, schemas) => schemas.JobView.properties[name]?.default ?? (name === "webhook_events"
  ? ["job.succeeded", "job.failed", "job.canceled", "job.evaluated", "job.exported"] : null);

/**
 * The picture of `expression: image`, visible while that is selected.
 * @param {Schema | undefined} schema
 * @param {Field} expression
 */
function pictureField(schema, expression) {
  const control = h("input", { type: "file", id: "expression-file", accept: "image/png,image/jpeg,image/webp" });
  const element = h("div", { class: "field", hidden: true },
    h("label", { for: "expression-file" }, "Picture of the expression"), control,
    h("p", { class: "help" }, "PNG, JPEG or WebP with one face"));
  const takesFile = schema?.anyOf?.some((variant) => variant.format === "binary");
  const show = () => { element.hidden = !(takesFile && expression.control.value === "image"); };
  expression.control.addEventListener("change", show);
  return { element, control, get file() { return element.hidden ? null : control.files?.[0] ?? null; } };
}

/**
 * Marks what the engine that would run does not support, and the engines that no worker offers.
 * @param {Form} form
 * @param {Offer} offer
 */
function markRefusals({ fields }, offer) {
  const { shape } = fields.engine;
  const names = shape.kind === "choice" ? shape.choices.map(({ value }) => value) : [];
  const missing = names.filter((name) => name !== "auto" && !offer.engines.some((engine) => engine.name === name));
  const reasons = Object.fromEntries(missing.map((name) => [name, "not offered now"]));
  fields.engine.refuse(offer.workers ? missing : [], "", reasons);
  const { engine, options } = refusals(offer, fields.engine.control.value);
  for (const field of leaves(fields)) {
    if (field.shape.path !== "engine") field.refuse(options[field.shape.path], engine ?? "");
  }
}

/** @param {Record<string, Field>} fields */
function leaves(fields) {
  return Object.values(fields).flatMap((field) => (field.fields ? [field, ...field.fields] : [field]));
}

/** The `spec` of the job, with only what differs from the defaults. Throws InvalidField. @param {Form} form */
function readAll({ fields, picture }) {
  /** @type {Record<string, unknown>} */
  const spec = {};
  for (const [name, field] of Object.entries(fields)) {
    const isMetrics = field.shape.kind === "choice" && field.shape.isMetrics;
    const value = isMetrics ? readMetrics(field) : field.read();
    if (value !== undefined) spec[name] = value;
  }
  if (picture.file) delete spec.expression;
  return { spec, expression: picture.file };
}

/** @param {Field} field @returns {string[] | undefined} */
function readMetrics(field) {
  const chosen = field.read();
  return chosen === "none" ? [] : chosen === undefined ? undefined : chosen.list ?? [];
}

/**
 * Shows each error at its field, and focuses the first. True if any had a field.
 * @param {Form} form
 * @param {Refusal[]} errors
 */
function showErrors({ fields }, errors) {
  const places = errors.flatMap(({ pointer, message }) => {
    const field = findField(fields, pointer);
    return field ? [{ field, message }] : [];
  });
  for (const { field, message } of places) {
    field.showError(message);
    let node = field.control.closest("details");
    while (node) {
      node.open = true;
      node = node.parentElement?.closest("details") ?? null;
    }
  }
  places[0]?.field.control.focus();
  return places.length > 0;
}

/** @param {Record<string, Field>} fields @param {string} pointer */
function findField(fields, pointer) {
  const path = pointer.replace(/^#\//, "").replaceAll("/", ".");
  const all = leaves(fields);
  return all.find((field) => field.shape.path === path) ?? all.find((field) => path.startsWith(`${field.shape.path}.`));
}
