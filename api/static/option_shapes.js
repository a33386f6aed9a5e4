// @ts-check
// From the JSON Schema of an option to a Shape, which says what a form needs to know about it.
/** @import { GroupShape, Offer, Schema, Shape } from "#types" */

import { title } from "./format.js";

/**
 * @param {string} name
 * @param {Schema} schema
 * @param {any} fallback the default
 * @returns {Shape}
 */
export function describeOption(name, schema, fallback, path = name) {
  const variants = (schema.anyOf ?? [schema]).filter((variant) => variant.type !== "null");
  const base = {
    name,
    path,
    label: title(name),
    help: schema.description ?? "",
    default: fallback,
    nullable: variants.length < (schema.anyOf?.length ?? 1),
  };
  const words = variants.find((variant) => variant.enum);
  if (!words) return { ...base, ...describeType(variants[0], fallback, path) };
  const meanings = schema["x-enumDescriptions"] ?? words["x-enumDescriptions"] ?? {};
  const objects = variants.filter(({ type }) => type === "object").map((variant) => describeObject(variant, path));
  return { ...base, kind: "choice", choices: describeChoices(words.enum ?? [], meanings), variants: objects };
}

/** @param {Schema} schema @param {any} fallback @param {string} path */
function describeType(schema, fallback, path) {
  const { type } = schema;
  if (type === "boolean") return { kind: /** @type {const} */ ("switch") };
  if (type === "integer" || type === "number") {
    const min = schema.minimum ?? schema.exclusiveMinimum;
    const max = schema.maximum ?? schema.exclusiveMaximum;
    return { kind: /** @type {const} */ ("number"), min, max, integer: type === "integer" };
  }
  if (type === "array") {
    return { kind: /** @type {const} */ ("list"), choices: describeChoices(schema.items?.enum ?? [], {}) };
  }
  if (schema.properties) {
    return { kind: /** @type {const} */ ("group"), members: describeMembers(schema, fallback, path) };
  }
  return { kind: type === "object" ? /** @type {const} */ ("json") : /** @type {const} */ ("text") };
}

/**
 * An object that may replace a word, such as a face by its place. Named after its schema: FacePoint -> Point.
 * @param {Schema} schema
 * @param {string} path
 * @returns {GroupShape}
 */
function describeObject(schema, path) {
  const name = schema.title ?? "";
  const label = name.replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase();
  const members = describeMembers(schema, {}, path);
  return { kind: "group", name, path, label, help: schema.description ?? "", members };
}

/** @param {Schema} object @param {any} fallback @param {string} path @returns {Shape[]} */
function describeMembers(object, fallback, path) {
  return Object.entries(object.properties ?? {}).map(([name, schema]) => {
    const given = fallback?.[name] ?? schema.default ?? null;
    const required = object.required?.includes(name) ?? false;
    return { ...describeOption(name, schema, given, `${path}.${name}`), required };
  });
}

/** @param {string[]} values @param {Record<string, string>} meanings */
const describeChoices = (values, meanings) => values.map((value) => ({ value, meaning: meanings[value] ?? "" }));

/**
 * The values that the engine which would run does not support: path -> refused values, [] for all but the default.
 * Workers may differ: a value that one of them supports is not refused.
 * @param {Offer} offer
 * @param {string} engine
 */
export function refusals(offer, engine) {
  const name = engine === "auto" ? offer.auto_engine : engine;
  const [first, ...others] = offer.engines.filter((each) => each.name === name).map((each) => each.unsupported_options);
  const common = Object.entries(first ?? {}).filter(([path]) => others.every((other) => path in other));
  return { engine: name, options: Object.fromEntries(common) };
}
