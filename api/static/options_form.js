// All options of a job as a form, built from what the service says about them.

import { buildField } from "./fields.js";
import { h } from "./elements.js";
import { describeOption, refusals } from "./option_shapes.js";

// What most jobs choose stands open; the rest, also what this page has never heard of, is one click away.
const FIRST = ["engine", "length_mode", "expression", "upper_face", "face"];
const DELIVERY = ["webhook_url", "webhook_events", "priority", "expires_in_s", "metadata"];

// offer: GET /engines. document: the OpenAPI document, for what is asked around the render.
export function buildOptions(offer, document) {
  const schemas = document.components.schemas;
  const option = (name) => describeOption(name, offer.options[name].values, offer.options[name].default);
  const fields = {};
  const make = (shape) => (fields[shape.name] = buildField(withMetrics(shape, offer)));

  const described = Object.keys(offer.options)
    .map((name) => withEngines({ ...option(name), help: offer.options[name].description }, offer));
  const first = FIRST.map((name) => described.find((shape) => shape.name === name)).filter(Boolean).map(make);
  const rest = described.filter((shape) => !FIRST.includes(shape.name)).map(make);
  const asked = schemas.JobSpec.properties;
  const delivery = DELIVERY.filter((name) => name in asked)
    .map((name) => make({ ...describeOption(name, asked[name], asked[name].default ?? defaultOf(name, schemas)) }));

  const picture = pictureField(schemas.JobForm.properties.expression, fields.expression);
  const element = h("div", { class: "options" },
    h("div", { class: "option-grid" }, first.map((field) => field.element), picture.element),
    fold("More options", "Quality, size, crop, evaluation", rest),
    fold("Delivery", "Webhook, priority, deadline, your own data", delivery));
  const form = { element, fields, picture };
  honour(form, offer);
  fields.engine.control.addEventListener("change", () => honour(form, offer));
  return { ...form, read: () => readAll(form), showErrors: (errors) => showErrors(form, errors) };
}

function fold(heading, summary, fields) {
  return h("details", { class: "fold" },
    h("summary", {}, h("span", { class: "fold-title" }, heading), h("span", { class: "fine" }, summary)),
    h("div", { class: "option-grid" }, fields.map((field) => field.element)));
}

// Engines that plug-ins add are not in the schema: which there are depends on the workers.
function withEngines(shape, offer) {
  if (shape.name !== "engine") return shape;
  const added = new Map(offer.engines.map(({ name, description }) => [name, { value: name, meaning: description }]));
  for (const { value } of shape.choices) added.delete(value);
  return { ...shape, choices: [...shape.choices, ...added.values()] };
}

// The metrics are no list in the schema: which there are depends on the workers.
function withMetrics(shape, offer) {
  if (shape.name !== "evaluate") return shape;
  const choices = offer.metrics.map((name) => ({ value: name, meaning: offer.metric_table[name]?.description ?? "" }));
  const modes = [
    { value: "all", meaning: "Every metric whose checkpoints are there" },
    { value: "none", meaning: "No numbers; the job is done sooner" },
  ];
  const members = [{ ...shape, kind: "list", label: "Metrics", name: "list", path: "evaluate", help: "", default: [], choices }];
  const chosen = { kind: "group", name: "chosen", path: "evaluate", label: "chosen", help: "", members };
  return { ...shape, kind: "choice", default: "all", choices: modes, variants: choices.length ? [chosen] : [], isMetrics: true };
}

const defaultOf = (name, schemas) => schemas.JobView.properties[name]?.default ?? (name === "webhook_events"
  ? ["job.succeeded", "job.failed", "job.canceled"] : null);

// The picture behind `expression: image`, shown while that is chosen.
function pictureField(schema, expression) {
  const control = h("input", { type: "file", id: "expression-file", accept: "image/png,image/jpeg,image/webp" });
  const element = h("div", { class: "field", hidden: true },
    h("label", { for: "expression-file" }, "Picture of the expression"), control,
    h("p", { class: "help" }, "PNG, JPEG or WebP with one face"));
  const takesFile = schema?.anyOf?.some((arm) => arm.format === "binary");
  const show = () => { element.hidden = !(takesFile && expression.control.value === "image"); };
  expression.control.addEventListener("change", show);
  return { element, control, get file() { return element.hidden ? null : control.files[0] ?? null; } };
}

// Show what the engine that would run can not honour, and which engines nobody offers.
function honour({ fields }, offer) {
  const missing = fields.engine.shape.choices.map(({ value }) => value)
    .filter((name) => name !== "auto" && !offer.engines.some((engine) => engine.name === name));
  const reasons = Object.fromEntries(missing.map((name) => [name, "not offered now"]));
  fields.engine.refuse(offer.workers ? missing : [], "", reasons);
  const { engine, options } = refusals(offer, fields.engine.control.value);
  for (const field of leaves(fields)) {
    if (field.shape.path !== "engine") field.refuse(options[field.shape.path], engine ?? "");
  }
}

function leaves(fields) {
  return Object.values(fields).flatMap((field) => (field.fields ? [field, ...field.fields] : [field]));
}

// The `spec` of the job: only what differs from the defaults. Throws InvalidField.
function readAll({ fields, picture }) {
  const spec = {};
  for (const [name, field] of Object.entries(fields)) {
    const value = field.shape.isMetrics ? readMetrics(field) : field.read();
    if (value !== undefined) spec[name] = value;
  }
  if (picture.file) delete spec.expression;
  return { spec, expression: picture.file };
}

function readMetrics(field) {
  const chosen = field.read();
  return chosen === "none" ? [] : chosen === undefined ? undefined : chosen.list ?? [];
}

// Put each refusal where its field is. True when there was a place for one; the first gets the focus.
function showErrors({ fields }, errors) {
  const places = errors.map((error) => [findField(fields, error.pointer), error]).filter(([field]) => field);
  for (const [field, error] of places) {
    field.showError(error.message);
    for (let node = field.control.closest("details"); node; node = node.parentElement.closest("details")) node.open = true;
  }
  places[0]?.[0].control.focus();
  return places.length > 0;
}

function findField(fields, pointer) {
  const path = pointer.replace(/^#\//, "").replaceAll("/", ".");
  const all = leaves(fields);
  return all.find((field) => field.shape.path === path) ?? all.find((field) => path.startsWith(`${field.shape.path}.`));
}
