// One map over its picture: canvas, colour bar, caption, value under the pointer, trust card, downloads.
// `point` tells all maps of the row where the reader looks, `label` is the row's.
import { anchorsOf, colourAt, greyOf, paint, SIGNS } from "./colours.js";
import { button, element, framed } from "./elements.js";
import { decodeHalf, download, fileName, percent, safetensors, threeDigits } from "./numbers.js";

const MARKS = { pass: "good", above: "good", FAIL: "bad", "NOT ABOVE": "bad" };

// A section of a trust card, a line an entry.
export function cardOf(sections) {
  const lines = sections.flatMap(({ title, entries, pictures }) => [
    element("h4", {}, title),
    ...entries.map(([mark, name, figure, words]) =>
      name
        ? element("p", { className: "entry" }, element("b", { className: MARKS[mark] ?? "plain" }, mark), ` ${name} `, element("span", { className: "figure" }, figure), element("small", {}, words))
        : element("p", { className: "entry" }, words),
    ),
    ...pictures.map(([name, src]) =>
      element("details", { className: "behind" }, element("summary", {}, name), element("img", { src, alt: `the pictures behind ${name}` })),
    ),
  ]);
  const failed = sections.flatMap(({ entries }) => entries).filter(([mark]) => mark === "FAIL").length;
  const title = failed ? `Trust card: ${failed} failed` : "Trust card";
  return element("details", { className: "card", open: true }, element("summary", {}, title), ...lines);
}

export function mapCell(map, source, { point, tables, label }) {
  const [height, width] = map.shape;
  const values = decodeHalf(map.values, map.scale);
  // An application, so that a screen reader hands the arrow keys on.
  const canvas = element("canvas", { width, height, tabIndex: 0, role: "application", "aria-roledescription": "map", "aria-label": `map of ${map.title}; arrow keys read its values` });
  const framedCanvas = framed(canvas, width, height);
  const readout = element("output", { className: "readout", "aria-live": "off" });
  const name = fileName(label ? `${label} - ${map.title}` : map.title);
  const bar = element("canvas", { className: "bar", width: 256, height: 1, "aria-hidden": "true" });
  const ticks = element("div", { className: "ticks" });
  const clipped = element("p", { className: "clip" });
  const mark = map.warning ? "⚠ " : "";
  const links = element(
    "p",
    { className: "links" },
    button("PNG", () => canvas.toBlob((blob) => download(blob, `${name}.png`))),
    " ",
    map.url
      ? element("a", { href: map.url, download: `${name}.safetensors` }, "safetensors")
      : button("safetensors", () => download(safetensors("heatmap", map.shape, values, { method: map.title }), `${name}.safetensors`)),
  );
  const figure = element(
    "figure",
    { className: map.warning ? "warning" : "", dataset: { method: map.title } },
    framedCanvas.frame,
    readout,
    bar,
    ticks,
    clipped,
    element("h3", {}, mark, map.title),
    ...[...map.remarks, ...map.lines].map((line) => element("p", {}, line)),
    map.sections.length ? cardOf(map.sections) : null,
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
  canvas.addEventListener("focus", () => readout.setAttribute("aria-live", "polite"));
  canvas.addEventListener("blur", () => readout.setAttribute("aria-live", "off"));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape") point(null);
    if (!step) return;
    event.preventDefault();
    const [x, y] = at ?? [width >> 1, height >> 1];
    const far = event.shiftKey ? 10 : 1;
    point([Math.min(Math.max(x + far * step[0], 0), width - 1), Math.min(Math.max(y + far * step[1], 0), height - 1)]);
  });

  let grey = null;
  const picture = new Image();
  picture.src = source.src;
  const ready = picture.decode().then(() => {
    const context = element("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0, width, height);
    grey = greyOf(context, width, height);
  });

  const limitAt = (percentile) => map.limits.find(([each]) => each === percentile)?.[1] ?? NaN;

  function render(look, limit) {
    const sign = look.sign === "own" ? (map.signed ? "signed" : "absolute") : look.sign;
    const anchors = anchorsOf(sign === "signed" ? tables.diverging[look.diverging] : tables.magnitude[look.magnitude]);
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    paint(image.data, grey, values, { limit, sign, anchors, opacity: look.opacity });
    context.putImageData(image, 0, 0);
    figure.dataset.drawn = "true";
    figure.dataset.limit = String(limit);
    drawBar(look, limit, sign, anchors);
  }

  function drawBar(look, limit, sign, anchors) {
    const empty = !(limit > 0);
    bar.hidden = ticks.hidden = clipped.hidden = empty;
    if (empty) return;
    const context = bar.getContext("2d");
    const strip = context.createImageData(256, 1);
    for (let i = 0; i < 256; i += 1) strip.data.set([...colourAt(anchors, i / 255, [0, 0, 0]).map(Math.round), 255], 4 * i);
    context.putImageData(strip, 0, 0);
    const end = threeDigits(limit);
    const texts = sign === "signed" ? [`-${end}`, "0", end] : ["0", end];
    ticks.replaceChildren(...texts.map((text) => element("span", {}, text)));
    // Python counted exactly where the scale is the map's own; elsewhere it is counted here.
    const own = map.limits.find(([each]) => each === look.percentile);
    const exact = own && own[1] === limit && (sign === "signed" || sign === "absolute");
    const finite = values.filter(Number.isFinite);
    const shown = finite.map(SIGNS[sign]);
    const share = exact ? own[2] : shown.filter((value) => Math.abs(value) > limit).length / finite.length;
    clipped.textContent = shown.some((value) => value !== 0) ? `${percent(share)} clipped` : `no ${sign === "signed" || sign === "absolute" ? "" : `${sign} `}value other than zero`;
  }

  return {
    figure,
    limitAt,
    draw: (look, limit) => ready.then(() => render(look, limit)),
    point(place) {
      at = place;
      framedCanvas.point(place);
      readout.textContent = place ? `x ${place[0]}, y ${place[1]}: ${threeDigits(values[place[1] * width + place[0]])}` : "";
    },
    setCard(sections) {
      figure.querySelector(".card")?.remove();
      if (sections.length) links.before(cardOf(sections));
    },
  };
}
