// From the JSON Schema of an option to what a form needs to know about it.
//
// A shape: { name, path, label, help, default, nullable, kind } and, by kind,
//   choice   choices: [{ value, meaning }], variants: [shape of kind group] for objects that may stand in its place
//   switch
//   number   min, max, integer
//   list     choices
//   group    members: [shape]
//   text, json

import { title } from "./format.js";

export function describeOption(name, schema, fallback, path = name) {
  const arms = (schema.anyOf ?? [schema]).filter((arm) => arm.type !== "null");
  const base = {
    name,
    path,
    label: title(name),
    help: schema.description ?? "",
    default: fallback,
    nullable: arms.length < (schema.anyOf?.length ?? 1),
  };
  const words = arms.find((arm) => arm.enum);
  if (words) {
    const meanings = schema["x-enumDescriptions"] ?? words["x-enumDescriptions"] ?? {};
    const variants = arms.filter((arm) => arm.type === "object").map((arm) => variantOf(arm, path));
    return { ...base, kind: "choice", choices: choicesOf(words.enum, meanings), variants };
  }
  return { ...base, ...describeType(arms[0], fallback, path) };
}

function describeType(arm, fallback, path) {
  if (arm.type === "boolean") return { kind: "switch" };
  if (arm.type === "integer" || arm.type === "number") {
    const max = arm.maximum ?? arm.exclusiveMaximum;
    return { kind: "number", min: arm.minimum ?? arm.exclusiveMinimum, max, integer: arm.type === "integer" };
  }
  if (arm.type === "array") return { kind: "list", choices: choicesOf(arm.items.enum ?? [], {}) };
  if (arm.properties) return { kind: "group", members: membersOf(arm, fallback, path) };
  return { kind: arm.type === "object" ? "json" : "text" };
}

// An object that may be given instead of a word, as a face by its place. Named after its schema: FacePoint -> Point.
function variantOf(arm, path) {
  const label = arm.title.replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase();
  return { kind: "group", name: arm.title, path, label, help: arm.description ?? "", members: membersOf(arm, {}, path) };
}

function membersOf(arm, fallback, path) {
  return Object.entries(arm.properties).map(([name, schema]) => {
    const given = fallback?.[name] ?? schema.default ?? null;
    const required = arm.required?.includes(name) ?? false;
    return { ...describeOption(name, schema, given, `${path}.${name}`), required };
  });
}

const choicesOf = (values, meanings) => values.map((value) => ({ value, meaning: meanings[value] ?? "" }));

// What the engines that would run refuse: path -> refused values, [] for any but the default. Engines of several
// workers may differ: what one of them honours is not refused.
export function refusals(offer, engine) {
  const name = engine === "auto" ? offer.auto_engine : engine;
  const [first, ...others] = offer.engines.filter((each) => each.name === name).map((each) => each.unsupported_options);
  const common = Object.entries(first ?? {}).filter(([path]) => others.every((other) => path in other));
  return { engine: name, options: Object.fromEntries(common) };
}
