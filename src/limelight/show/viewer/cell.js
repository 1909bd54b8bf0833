// One map over its picture: canvas, colour bar, caption, value under the pointer, trust card, downloads.
// `point` tells all maps of the row where the reader looks, `label` is the row's.
import { cardOf } from "./card.js";
import { anchorsOf, colourAt, paint } from "./colours.js";
import { button, element, framed } from "./elements.js";
import { barsOf, layoutOf, whenMoved } from "./layouts.js";
import { download, fileName, percent, safetensors, threeDigits } from "./numbers.js";
import { textOf } from "./text.js";
import { endWords, isOwn, limitOf, sumsOf, viewed, viewOf, wordsOf } from "./view.js";

export function mapCell(map, source, { point, tables, label }) {
  const sums = sumsOf(map);
  const bars = source.layout?.kind === "columns" ? barsOf(source) : null;
  const text = source.layout?.kind === "text" ? textOf(source, map.shape, map.title, point) : null;
  const listed = bars ?? text; // made of elements and not of pixels
  const layout = listed ? { width: 1, height: 1 } : layoutOf(source, map.shape);
  const { width, height } = layout;
  // An application, so that a screen reader hands the arrow keys on.
  const canvas = element("canvas", { width, height, className: source.layout ? "wide" : "", tabIndex: 0, role: "application", "aria-roledescription": "map", "aria-label": `map of ${map.title}; arrow keys read its values` });
  const framedCanvas = listed ? { frame: listed.shown, point() {} } : framed(canvas, width, height);
  const readout = element("output", { className: "readout", "aria-live": "off" });
  const name = fileName(label ? `${label} - ${map.title}` : map.title);
  const bar = element("canvas", { className: "bar", width: 256, height: 1, "aria-hidden": "true" });
  const ticks = element("div", { className: "ticks" });
  const clipped = element("p", { className: "clip" });
  const how = element("p", { className: "how" });
  const otherwise = element("p", { hidden: true }, "figures on two runs and noise are of the method's own view");
  const mark = map.warning ? "⚠ " : "";
  const links = element(
    "p",
    { className: "links" },
    ...(listed ? [] : [button("PNG", () => canvas.toBlob((blob) => download(blob, `${name}.png`))), " "]),
    map.url
      ? element("a", { href: map.url, download: `${name}.safetensors` }, "safetensors")
      : button("safetensors", () => download(safetensors("heatmap", map.shape, sums.signed, { method: map.title }), `${name}.safetensors`)),
  );
  const figure = element(
    "figure",
    { className: map.warning ? "warning" : "", dataset: { method: map.title } },
    framedCanvas.frame,
    layout.sliders?.() ?? null,
    readout,
    bar,
    ticks,
    clipped,
    element("h3", {}, mark, map.title),
    how,
    otherwise,
    ...[...map.remarks, ...map.lines].map((line) => element("p", {}, line)),
    ...(text?.below ?? []),
    cardOf(map.card),
    links,
  );

  let at = null;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const clamp = (value, most) => Math.min(Math.max(Math.floor(value), 0), most - 1);
    return [clamp(((event.clientX - box.left) / box.width) * width, width), clamp(((event.clientY - box.top) / box.height) * height, height)];
  };
  canvas.addEventListener("pointermove", (event) => point(place(event)));
  canvas.addEventListener("pointerdown", (event) => point(place(event)));
  canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && point(null)); // a finger's value stays
  // All maps of the row show their values; only the one with the focus is read out.
  const focusable = text?.focusable ?? canvas;
  focusable.addEventListener("focus", () => readout.setAttribute("aria-live", "polite"));
  focusable.addEventListener("blur", () => readout.setAttribute("aria-live", "off"));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape") point(null);
    if (!step) return;
    event.preventDefault();
    const [x, y] = at ?? [width >> 1, height >> 1];
    const far = event.shiftKey ? 10 : 1;
    point([Math.min(Math.max(x + far * step[0], 0), width - 1), Math.min(Math.max(y + far * step[1], 0), height - 1)]);
  });

  // The map as the reader's view has it: made once for each view.
  let seen = { values: null };
  function read(look) {
    const view = viewOf(map, look);
    if (seen.values && ["reduce", "smooth", "blocks"].every((part) => seen.view[part] === view[part])) return seen;
    const values = viewed(sums, map.space, view);
    const own = isOwn(map, view);
    seen = { view, values, own, diverging: own ? map.signed : Boolean(bars) || values.some((value) => value < 0) };
    return seen;
  }

  const percentileOf = (look) => look.percentile ?? map.percentile;
  const anchorsFor = (look, group) => anchorsOf(tables[group][look[group] ?? map.colours] ?? Object.values(tables[group])[0]);

  function limitAt(look) {
    const { values, own } = read(look);
    const percentile = percentileOf(look);
    const exact = own && map.limits.find(([each]) => each === percentile);
    return exact ? (exact[1] ?? NaN) : limitOf(values, percentile);
  }

  let latest = null;
  async function draw(look, limit) {
    const { values, diverging } = read(look);
    const anchors = anchorsFor(look, diverging ? "diverging" : "magnitude");
    latest = () => draw(look, limit);
    if (bars) {
      bars.draw(values, limit, anchorsFor(look, "diverging"));
    } else if (text) {
      text.draw(values, { limit, diverging, anchors, opacity: look.opacity });
    } else {
      const grey = await layout.grey();
      const context = canvas.getContext("2d");
      const image = context.createImageData(width, height);
      paint(image.data, grey, layout.spread(values), { limit, diverging, anchors, opacity: look.opacity });
      if (layout.beside) for (let i = 0; i < grey.length; i += 1) if (layout.index(i % width, Math.floor(i / width)) < 0) image.data.fill(255, 4 * i, 4 * i + 4);
      context.putImageData(image, 0, 0);
    }
    figure.dataset.drawn = "true";
    figure.dataset.limit = String(limit);
    drawBar(look, limit, anchors);
  }
  whenMoved(source, () => latest?.());

  function drawBar(look, limit, anchors) {
    const { view, values, own, diverging } = read(look);
    const empty = !(limit > 0);
    bar.hidden = ticks.hidden = empty;
    clipped.hidden = empty && own;
    otherwise.hidden = own || !map.sampled;
    how.textContent = map.view ? [wordsOf(map, view), endWords(percentileOf(look)), view.reduce === "signed" && map.total !== null ? `total ${threeDigits(map.total)}` : ""].filter(Boolean).join("; ") : "";
    const part = ["positive", "negative"].includes(view.reduce) ? `${view.reduce} ` : "";
    clipped.textContent = `no ${part}value other than zero`;
    if (empty) return;
    const context = bar.getContext("2d");
    const strip = context.createImageData(256, 1);
    for (let i = 0; i < 256; i += 1) strip.data.set([...colourAt(anchors, i / 255, [0, 0, 0]).map(Math.round), 255], 4 * i);
    context.putImageData(strip, 0, 0);
    const end = threeDigits(limit);
    ticks.replaceChildren(...(diverging ? [`-${end}`, "0", end] : ["0", end]).map((text) => element("span", {}, text)));
    // Python counted exactly where the view and the scale are the map's own; elsewhere it is counted here.
    const exact = own && map.limits.find(([each]) => each === percentileOf(look));
    const finite = values.filter(Number.isFinite);
    const share = exact && exact[1] === limit ? exact[2] : finite.filter((value) => Math.abs(value) > limit).length / finite.length;
    if (finite.some((value) => value !== 0)) clipped.textContent = `${percent(share)} clipped`;
  }

  const valueAt = ([x, y]) => {
    const at = layout.index(x, y, seen.values);
    return at < 0 ? "" : `${layout.where(x, y, seen.values)}: ${threeDigits(seen.values[at])}`;
  };

  return {
    figure,
    canvas: listed ? null : canvas, // for copies of what it shows
    limitAt,
    draw,
    point(place) {
      at = place;
      framedCanvas.point(place);
      if (text) readout.replaceChildren(...element("span", {}, text.point(place)).childNodes);
      else readout.textContent = place && seen.values && !bars ? valueAt(place) : "";
    },
    setCard(card, more) {
      figure.querySelector(".card")?.remove();
      const made = cardOf(card, more);
      if (made) links.before(made);
    },
  };
}
