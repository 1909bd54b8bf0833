// One map at the size of the window, with its card and settings beside it, and another map to compare it with by a
// swipe. The map's own cell moves in and back, so that all it can do it can do there.
import { button, choice, element, slider } from "./elements.js";

export function openLarge(root, cell, map, row) {
  const { figure } = cell;
  const place = element("div", { className: "away" });
  const settings = map.settings.length ? element("dl", { className: "settings" }, ...map.settings.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])) : null;
  const closing = new AbortController();
  const swipe = swipeOver(cell, row, closing.signal);
  const close = button("Close", () => dialog.close());
  const extras = element("div", { className: "beside" }, swipe, settings ? element("h4", {}, "settings") : null, settings);
  const dialog = element("dialog", { className: "large", "aria-label": `map of ${map.title}` }, close);
  const card = figure.querySelector(".card");
  const wasOpen = card?.open;
  const opener = document.activeElement;
  figure.replaceWith(place);
  figure.append(extras);
  dialog.append(figure);
  dialog.addEventListener("close", () => {
    closing.abort();
    extras.remove();
    figure.querySelector(".over")?.remove();
    if (figure.querySelector(".card")) figure.querySelector(".card").open = wasOpen ?? false;
    place.replaceWith(figure);
    dialog.remove();
    opener?.focus();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  if (card) card.open = true;
  root.append(dialog);
  dialog.showModal();
}

// A choice of the row's other maps; the chosen one covers the map up to a slider's place.
function swipeOver(cell, row, signal) {
  const others = cell.canvas ? row.maps.filter((each) => each !== cell && each.canvas) : [];
  if (!others.length) return null;
  const { figure } = cell;
  const frame = figure.querySelector(".frame");
  const said = element("output", { className: "readout" });
  let over = null;
  let other = null;
  let share = 50;
  const cut = () => over && (over.style.clipPath = `inset(0 0 0 ${share}%)`);
  const copy = () => over?.getContext("2d").drawImage(other.canvas, 0, 0);
  const tell = () => (said.textContent = other ? `${other.figure.dataset.method}, ${other.figure.querySelector(".readout").textContent}` : "");
  const choose = (value) => {
    over?.remove();
    over = null;
    other = value ? others[Number(value)] : null;
    range.hidden = !other;
    said.textContent = "";
    if (!other) return;
    const { width, height } = other.canvas;
    over = element("canvas", { className: "over", width, height, "aria-hidden": "true" });
    frame.append(over);
    copy();
    cut();
  };
  const range = slider("swipe", "swipe", { min: 0, max: 100, step: 1, value: share, say: (v) => `${v}% to the left` }, (value) => {
    share = value;
    cut();
  });
  range.hidden = true;
  figure.addEventListener("drawn", copy, { signal });
  figure.addEventListener("pointed", tell, { signal });
  const options = [["", "no other map"], ...others.map((each, at) => [String(at), each.figure.dataset.method])];
  return element("div", { className: "swipe" }, choice("compare with", "compare", options, "", choose), range, said);
}
