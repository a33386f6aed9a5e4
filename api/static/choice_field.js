// One of several words, each with its meaning; or, where the option allows it, an object in its place.

import { h } from "./elements.js";
import { differs, frame, InvalidField } from "./fields.js";

export function buildChoice(shape, build) {
  const variants = shape.variants.map((variant) => ({ ...variant, field: build(variant) }));
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

  const refuse = (values, engine, reasons = {}) => {
    field.refuse(values, engine);
    for (const option of options) mark(option, values?.includes(option.value), reasons[option.value] ?? `not with ${engine}`);
    if (!control.selectedOptions[0]?.disabled) return show();
    control.value = shape.default;
    return control.dispatchEvent(new Event("change"));
  };
  const read = () => {
    if (control.disabled) return undefined;
    const variant = variants.find(({ name }) => name === control.value);
    if (!variant) return differs(control.value, shape) ? control.value : undefined;
    return complete(variant, field);
  };
  return { ...field, refuse, read, variants };
}

function mark(option, isRefused, reason) {
  option.disabled = Boolean(isRefused);
  option.textContent = isRefused ? `${option.value} (${reason})` : option.dataset.label;
}

// An object needs all its required members, also where they are at what the form began with.
function complete(variant, field) {
  const value = {};
  for (const member of variant.field.fields) {
    const given = member.read();
    if (given !== undefined) value[member.shape.name] = given;
    else if (member.shape.required) throw new InvalidField(member, "Enter a number, or pick the place on the picture.");
  }
  field.showError("");
  return value;
}
