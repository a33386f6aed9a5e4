// A control for every kind of option. A field: { element, shape, read(), refuse(values, engine), showError(text) }.
// read() gives the typed value, or undefined where it is the default and need not be sent.

import { h, prose, unique } from "./elements.js";
import { exactly, title } from "./format.js";
import { buildChoice } from "./choice_field.js";

const BUILDERS = {
  choice: buildChoice,
  switch: buildSwitch,
  number: buildNumber,
  list: buildList,
  group: buildGroup,
  text: (shape) => buildText(shape, h("input", { type: "text", spellcheck: "false" }), (text) => text),
  json: (shape) => buildText(shape, h("textarea", { rows: 3, spellcheck: "false" }), JSON.parse),
};

export function buildField(shape) {
  return BUILDERS[shape.kind](shape, buildField);
}

export const differs = (value, shape) => JSON.stringify(value) !== JSON.stringify(shape.default);

// Label, control, its explanation, and a place for what is wrong with it.
export function frame(shape, control, ...extra) {
  const id = unique("field");
  control.id = id;
  control.name = shape.path;
  const help = shape.help && h("p", { class: "help", id: `${id}-help` }, prose(shape.help));
  const error = h("p", { class: "error", id: `${id}-error`, hidden: true });
  const refusal = h("p", { class: "refusal", id: `${id}-refusal`, hidden: true });
  control.setAttribute("aria-describedby", `${id}-help ${id}-refusal ${id}-error`);
  const element = h("div", { class: `field field-${shape.kind}` },
    h("label", { for: id }, shape.label), control, help, extra, refusal, error);
  const showError = (text) => {
    error.textContent = text;
    error.hidden = !text;
    control.toggleAttribute("aria-invalid", Boolean(text));
    if (text) control.setAttribute("aria-invalid", "true");
  };
  // Only the default is left: the control says so and can not be used.
  const refuseAll = (engine) => {
    control.disabled = Boolean(engine);
    refusal.hidden = !engine;
    refusal.textContent = engine ? `The engine ${engine} can not honour this; it stays at its default.` : "";
  };
  control.addEventListener("input", () => showError(""));
  return { element, shape, control, showError, refuse: (values, engine) => refuseAll(values?.length === 0 && engine) };
}

function buildSwitch(shape) {
  const control = h("input", { type: "checkbox", role: "switch", checked: shape.default });
  const field = frame(shape, control);
  return { ...field, read: () => changed(control.checked, shape, control) };
}

function buildNumber(shape) {
  const step = shape.integer ? 1 : "any";
  const placeholder = shape.nullable ? "as it is" : undefined;
  const control = h("input", { type: "number", step, min: shape.min, max: shape.max, value: shape.default ?? "", placeholder });
  const field = frame(shape, control, limits(shape));
  const read = () => {
    if (control.validity.badInput || !control.checkValidity()) throw new InvalidField(field, control.validationMessage);
    return changed(control.value === "" ? shape.default : Number(control.value), shape, control);
  };
  return { ...field, read };
}

function limits({ min, max }) {
  if (min === undefined || max === undefined) return null;
  return h("p", { class: "fine" }, `${exactly(min)} to ${exactly(max)}`);
}

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

function buildList(shape) {
  const boxes = shape.choices.map(({ value, meaning }) => {
    const box = h("input", { type: "checkbox", value, checked: shape.default?.includes(value) ?? false });
    return { box, label: h("label", { class: "tick" }, box, h("span", {}, value, meaning && h("small", {}, meaning))) };
  });
  const error = h("p", { class: "error", hidden: true });
  const element = h("fieldset", { class: "field field-list" },
    h("legend", {}, shape.label), h("p", { class: "help" }, prose(shape.help)), boxes.map(({ label }) => label), error);
  const showError = (text) => { error.textContent = text; error.hidden = !text; };
  const read = () => changed(boxes.filter(({ box }) => box.checked).map(({ box }) => box.value), shape, element);
  return { element, shape, control: boxes[0]?.box ?? element, showError, refuse: () => {}, read };
}

function buildGroup(shape, build) {
  const fields = shape.members.map(build);
  const element = h("fieldset", { class: "group" },
    h("legend", {}, shape.label), shape.help && h("p", { class: "help" }, shape.help),
    h("div", { class: "group-fields" }, fields.map((field) => field.element)));
  const read = () => {
    const given = fields.map((field) => [field.shape.name, field.read()]).filter(([, value]) => value !== undefined);
    return given.length ? Object.fromEntries(given) : undefined;
  };
  return { element, shape, fields, control: fields[0].control, showError: fields[0].showError, refuse: () => {}, read };
}

const changed = (value, shape, control) => (control.disabled || !differs(value, shape) ? undefined : value);

// A value that can not be sent. field: where it stands.
export class InvalidField extends Error {
  constructor(field, message) {
    super(`${title(field.shape.name)}: ${message}`);
    this.field = field;
    field.showError(message);
  }
}
