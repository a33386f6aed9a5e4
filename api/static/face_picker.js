// A click on the preview as the place of a face, in pixels of the picture.

import { announce, h } from "./elements.js";

// Adds "Pick on the picture" to the forms of the option `face` that take a place.
export function offerFacePicker(faceField, source) {
  for (const variant of faceField.variants) {
    const fields = Object.fromEntries(variant.field.fields.map((field) => [field.shape.name, field.control]));
    const corners = "x" in fields ? [["x", "y"]] : [["left", "top"], ["right", "bottom"]];
    const note = h("p", { class: "fine" });
    const button = h("button", { type: "button", class: "quiet small" }, "Pick on the picture");
    button.addEventListener("click", () => pick(source, corners, fields, note));
    variant.field.element.append(h("div", { class: "row" }, button, note));
  }
}

async function pick(source, corners, fields, note) {
  const player = source.player;
  const size = player && sizeOf(player);
  if (!size) {
    note.textContent = "Choose the video or picture first.";
    return;
  }
  source.preview.scrollIntoView({ block: "center" });
  for (const [index, [x, y]] of corners.entries()) {
    const wanted = corners.length === 1 ? "the face" : index === 0 ? "the upper left corner" : "the lower right corner";
    note.textContent = `Click ${wanted} in the preview.`;
    announce(note.textContent);
    const point = await nextClick(player, size);
    fields[x].value = Math.round(point.x);
    fields[y].value = Math.round(point.y);
    if (fields.time_s && player.currentTime) fields.time_s.value = player.currentTime.toFixed(2);
  }
  note.textContent = "Picked.";
}

const sizeOf = (player) => {
  const width = player.videoWidth || player.naturalWidth;
  return width ? { width, height: player.videoHeight || player.naturalHeight } : null;
};

// The picture lies in its box as a whole (object-fit: contain), with bars beside it.
function nextClick(player, { width, height }) {
  player.classList.add("picking");
  return new Promise((resolve) => {
    player.addEventListener("click", (event) => {
      event.preventDefault();
      player.classList.remove("picking");
      const box = player.getBoundingClientRect();
      const scale = Math.min(box.width / width, box.height / height);
      const at = (pointer, start, length, size) => (pointer - start - (length - size * scale) / 2) / scale;
      const clamp = (value, size) => Math.min(size, Math.max(0, value));
      resolve({
        x: clamp(at(event.clientX, box.left, box.width, width), width),
        y: clamp(at(event.clientY, box.top, box.height, height), height),
      });
    }, { once: true, capture: true });
  });
}
