// @ts-check
// A control for each kind of option.
/** @import { Child, ChoiceShape, Field, GroupShape } from "#types" */
/** @import { ListShape, NumberShape, PlainShape, Shape, Variant } from "#types" */

import { h, prose, unique } from "./elements.js";
import { exactly, title } from "./format.js";

/** @param {Shape} shape @returns {Field} */
export function buildField(shape) {
  switch (shape.kind) {
    case "choice": return buildChoice(shape);
    case "switch": return buildSwitch(shape);
    case "number": return buildNumber(shape);
    case "list": return buildList(shape);
    case "group": return buildGroup(shape);
    case "json": return buildText(shape, h("textarea", { rows: 3, spellcheck: "false" }), JSON.parse);
    default: return buildText(shape, h("input", { type: "text", spellcheck: "false" }), (text) => text);
  }
}

/** @param {unknown} value @param {Shape} shape */
const differs = (value, shape) => JSON.stringify(value) !== JSON.stringify(shape.default);

/**
 * Label, control, help text, and a place for errors.
 * @param {Shape} shape
 * @param {HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement} control
 * @param {Child[]} extra
 */
function frame(shape, control, ...extra) {
  const id = unique("field");
  control.id = id;
  control.name = shape.path;
  const help = shape.help && h("p", { class: "help", id: `${id}-help` }, prose(shape.help));
  const error = h("p", { class: "error", id: `${id}-error`, hidden: true });
  const refusal = h("p", { class: "refusal", id: `${id}-refusal`, hidden: true });
  control.setAttribute("aria-describedby", `${id}-help ${id}-refusal ${id}-error`);
  const element = h("div", { class: `field field-${shape.kind}` },
    h("label", { for: id }, shape.label), control, help, extra, refusal, error);
  const showError = (/** @type {string} */ text) => {
    error.textContent = text;
    error.hidden = !text;
    control.toggleAttribute("aria-invalid", Boolean(text));
    if (text) control.setAttribute("aria-invalid", "true");
  };
  /** @type {Field["refuse"]} */
  const refuse = (values, engine) => {
    const isDefaultOnly = values?.length === 0 && engine !== "";
    control.disabled = isDefaultOnly;
    refusal.hidden = !isDefaultOnly;
    refusal.textContent = isDefaultOnly ? `The engine ${engine} does not support this; it stays at its default.` : "";
  };
  control.addEventListener("input", () => showError(""));
  return { element, shape, control, showError, refuse };
}

/**
 * A choice of words, each with its meaning, or of objects that may replace them.
 * @param {ChoiceShape} shape
 * @returns {Field}
 */
function buildChoice(shape) {
  /** @type {Variant[]} */
  const variants = shape.variants.map((variant) => ({ ...variant, field: buildGroup(variant) }));
  const options = shape.choices.map(({ value }) => h("option", { value, "data-label": value }, value));
  options.push(...variants.map(({ name, label }) => h("option", { value: name, "data-label": label }, label)));
  const control = h("select", {}, options);
  control.value = shape.default;
  const meaning = h("p", { class: "meaning", "aria-live": "polite" });
  const places = variants.map(({ name, field }) => h("div", { "data-variant": name, hidden: true }, field.element));
  const field = frame(shape, control, meaning, places);

  const show = () => {
    const chosen = shape.choices.find(({ value }) => value === control.value);
    meaning.textContent = chosen?.meaning ?? "";
    for (const place of places) place.hidden = place.dataset.variant !== control.value;
  };
  control.addEventListener("change", show);
  show();

  /** @type {Field["refuse"]} */
  const refuse = (values, engine, reasons = {}) => {
    field.refuse(values, engine);
    for (const option of options) {
      mark(option, values?.includes(option.value) ?? false, reasons[option.value] ?? `not with ${engine}`);
    }
    if (!control.selectedOptions[0]?.disabled) {
      show();
      return;
    }
    control.value = shape.default;
    control.dispatchEvent(new Event("change"));
  };
  const read = () => {
    if (control.disabled) return undefined;
    const variant = variants.find(({ name }) => name === control.value);
    if (!variant) return differs(control.value, shape) ? control.value : undefined;
    return readVariant(variant, field);
  };
  return { ...field, refuse, read, variants };
}

/** @param {HTMLOptionElement} option @param {boolean} isRefused @param {string} reason */
function mark(option, isRefused, reason) {
  option.disabled = isRefused;
  option.textContent = isRefused ? `${option.value} (${reason})` : option.dataset.label ?? option.value;
}

/**
 * All required members of an object, even those left at their defaults.
 * @param {Variant} variant
 * @param {Pick<Field, "showError">} field
 */
function readVariant(variant, field) {
  /** @type {Record<string, unknown>} */
  const value = {};
  for (const member of variant.field.fields ?? []) {
    const given = member.read();
    if (given !== undefined) value[member.shape.name] = given;
    else if (member.shape.required) throw new InvalidField(member, "Enter a number, or pick the place on the picture.");
  }
  field.showError("");
  return value;
}

/** @param {PlainShape} shape @returns {Field} */
function buildSwitch(shape) {
  const control = h("input", { type: "checkbox", role: "switch", checked: shape.default });
  return { ...frame(shape, control), read: () => changed(control.checked, shape, control) };
}

/** @param {NumberShape} shape @returns {Field} */
function buildNumber(shape) {
  const step = shape.integer ? 1 : "any";
  const placeholder = shape.nullable ? "unchanged" : undefined;
  const { min, max } = shape;
  const control = h("input", { type: "number", step, min, max, value: shape.default ?? "", placeholder });
  const field = frame(shape, control, limits(shape));
  const read = () => {
    if (control.validity.badInput || !control.checkValidity()) throw new InvalidField(field, control.validationMessage);
    return changed(control.value === "" ? shape.default : Number(control.value), shape, control);
  };
  return { ...field, read };
}

/** @param {NumberShape} shape */
function limits({ min, max }) {
  if (min === undefined || max === undefined) return null;
  return h("p", { class: "fine" }, `${exactly(min)} to ${exactly(max)}`);
}

/**
 * @param {PlainShape} shape
 * @param {HTMLInputElement | HTMLTextAreaElement} control
 * @param {(text: string) => unknown} parse
 * @returns {Field}
 */
function buildText(shape, control, parse) {
  const field = frame(shape, control);
  const read = () => {
    const text = control.value.trim();
    if (!text) return undefined;
    try {
      return parse(text);
    } catch {
      throw new InvalidField(field, 'This is not JSON. Write it as {"order": 7}.');
    }
  };
  return { ...field, read };
}

/** @param {ListShape} shape @returns {Field} */
function buildList(shape) {
  const boxes = shape.choices.map(({ value, meaning }) => {
    const box = h("input", { type: "checkbox", value, checked: shape.default?.includes(value) ?? false });
    return { box, label: h("label", { class: "tick" }, box, h("span", {}, value, meaning && h("small", {}, meaning))) };
  });
  const error = h("p", { class: "error", hidden: true });
  const element = h("fieldset", { class: "field field-list" },
    h("legend", {}, shape.label), h("p", { class: "help" }, prose(shape.help)), boxes.map(({ label }) => label), error);
  const showError = (/** @type {string} */ text) => { error.textContent = text; error.hidden = !text; };
  const read = () => changed(boxes.filter(({ box }) => box.checked).map(({ box }) => box.value), shape, element);
  return { element, shape, control: boxes[0]?.box ?? element, showError, refuse: () => {}, read };
}

/** @param {GroupShape} shape @returns {Field} */
function buildGroup(shape) {
  const fields = shape.members.map(buildField);
  const element = h("fieldset", { class: "group" },
    h("legend", {}, shape.label), shape.help && h("p", { class: "help" }, shape.help),
    h("div", { class: "group-fields" }, fields.map((field) => field.element)));
  const read = () => {
    const given = fields.map((field) => [field.shape.name, field.read()]).filter(([, value]) => value !== undefined);
    return given.length ? Object.fromEntries(given) : undefined;
  };
  const [first] = fields;
  return { element, shape, fields, control: first.control, showError: first.showError, refuse: () => {}, read };
}

/** @param {unknown} value @param {Shape} shape @param {{ disabled: boolean }} control */
const changed = (value, shape, control) => (control.disabled || !differs(value, shape) ? undefined : value);

// A value that cannot be sent, shown at its field.
export class InvalidField extends Error {
  /** @param {Pick<Field, "shape" | "showError">} field @param {string} message */
  constructor(field, message) {
    super(`${title(field.shape.name)}: ${message}`);
    this.field = field;
    field.showError(message);
  }
}
