// @ts-check
// Builds elements: h("p", { class: "note" }, "text", child). Text is always text, never markup.
/** @import { Child, Properties } from "#types" */

const SVG = "http://www.w3.org/2000/svg";
let uniqueCount = 0;

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Properties} properties
 * @param {Child[]} children
 */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/**
 * @template {keyof SVGElementTagNameMap} K
 * @param {K} tag
 * @param {Properties} properties
 * @param {Child[]} children
 */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

/**
 * @template {Element} E
 * @param {E} element
 * @param {Properties} properties
 * @param {Child[]} children
 */
function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
    else if (name === "value" || name === "checked") Object.assign(element, { [name]: value });
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...nodes(children));
  return element;
}

/** @param {readonly Child[]} children @returns {(Node | string)[]} */
function nodes(children) {
  return children.flatMap((child) => {
    if (child === null || child === undefined || child === false) return [];
    if (Array.isArray(child)) return nodes(child);
    return [child instanceof Node ? child : String(child)];
  });
}

/** Text with `code` in backticks, as in the descriptions of the API. @param {string} text */
export function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? h("code", {}, part) : part));
}

/** @param {string} prefix */
export function unique(prefix) {
  uniqueCount += 1;
  return `${prefix}-${uniqueCount}`;
}

/** An element of index.html. @param {string} id */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`There is no element #${id}.`);
  return element;
}

/** Tells screen readers what changed. @param {string} text */
export function announce(text) {
  const region = byId("announcer");
  if (region.textContent !== text) region.textContent = text;
}
