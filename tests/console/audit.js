// Returns the accessibility faults of the current page, one sentence each.
// WCAG 2.2: 1.1.1, 1.3.1, 1.4.3, 1.4.11, 2.4.6, 4.1.2.
() => {
  const faults = [];
  const isShown = (element) => element.checkVisibility({ visibilityProperty: true })
    && element.getClientRects().length > 0;
  const tell = (element, what) => faults.push(`${what}: ${element.outerHTML.slice(0, 120)}`);

  // Colors as Chromium computes them, painted on one pixel: the result is sRGB in any notation.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  canvas.canvas.width = canvas.canvas.height = 1;
  const paint = (...colors) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => rgb.map((level) => level / 255)
    .map((level) => (level <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4))
    .reduce((sum, level, index) => sum + level * [0.2126, 0.7152, 0.0722][index], 0);
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const backgrounds = (element) => {
    const found = [];
    for (let node = element; node; node = node.parentElement) found.unshift(getComputedStyle(node).backgroundColor);
    return ["white", ...found];
  };

  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = texts.nextNode(); node; node = texts.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !isShown(element) || element.closest(".unseen, noscript, :disabled")) continue;
    const style = getComputedStyle(element);
    const sizePx = parseFloat(style.fontSize);
    const isLarge = sizePx >= 24 || (sizePx >= 18.66 && style.fontWeight >= 700);
    const ink = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
    const behind = backgrounds(element);
    const ratio = contrast(paint(...behind, ink), paint(...behind));
    if (ratio < (isLarge ? 3 : 4.5)) tell(element, `contrast ${ratio.toFixed(2)}`);
  }

  const nameOf = (element) => {
    const ids = (element.getAttribute("aria-labelledby") ?? "").split(/\s+/);
    const named = ids.map((id) => document.getElementById(id)?.textContent ?? "").join(" ");
    const label = [...(element.labels ?? [])].map((each) => each.textContent).join(" ");
    const own = element.matches("button, a, summary") ? element.textContent : "";
    return [element.getAttribute("aria-label"), named, label, own, element.getAttribute("alt")]
      .find((text) => text?.trim())?.trim();
  };
  const controls = "a[href], button, input, select, textarea, summary, progress, meter";
  for (const element of document.querySelectorAll(`${controls}, img, video, audio, [role=img], dialog[open]`)) {
    if (isShown(element) && !nameOf(element)) tell(element, "no name");
  }
  const fields = "input:not([type=checkbox], [type=range], [type=file]), select, textarea";
  for (const element of document.querySelectorAll(fields)) {
    if (!isShown(element) || element.disabled) continue;
    const behind = backgrounds(element.parentElement);
    const ratio = contrast(paint(...behind, getComputedStyle(element).borderTopColor), paint(...behind));
    if (ratio < 3) tell(element, `edge contrast ${ratio.toFixed(2)}`);
  }
  for (const attribute of ["aria-describedby", "aria-labelledby", "for"]) {
    for (const element of document.querySelectorAll(`[${attribute}]`)) {
      const ids = element.getAttribute(attribute).split(/\s+/).filter(Boolean);
      if (!ids.some((id) => document.getElementById(id))) tell(element, `${attribute} names nothing`);
    }
  }
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  const twice = ids.filter((each, index) => ids.indexOf(each) !== index);
  for (const id of new Set(twice)) faults.push(`id used twice: ${id}`);
  if (document.querySelectorAll("h1").length !== 1) faults.push("there is not one h1");
  const headings = [...document.querySelectorAll("main :is(h1, h2, h3, h4)")].filter(isShown);
  const levels = headings.map((each) => Number(each.tagName[1]));
  levels.forEach((level, index) => {
    if (level > (levels[index - 1] ?? 0) + 1) faults.push(`h${level} after h${levels[index - 1]}`);
  });
  for (const element of document.querySelectorAll("[tabindex]")) {
    if (element.tabIndex > 0) tell(element, "forced focus order");
  }
  if (!document.documentElement.lang) faults.push("no language");
  return faults;
}
