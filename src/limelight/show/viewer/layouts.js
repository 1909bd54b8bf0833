// Where a map's values lie in its drawing: pixels, planes of a volume, lines of a series, bars of columns; texts have a
// module of their own. The same rules as limelight.show.layouts. `source` is a picture as limelight.show.payload makes it.
import { colourAt, greyOf } from "./colours.js";
import { element } from "./elements.js";
import { threeDigits } from "./numbers.js";

const BESIDE = -1;
const GAP = 4; // pixels between planes

// Draws, and calls again, when the planes of a volume move; `state` is shared by all who draw the same picture.
function stateOf(source) {
  source.state ??= { at: source.layout.at, listeners: [], sliders: null };
  return source.state;
}

export function whenMoved(source, redraw) {
  if (source.layout?.kind === "volume") stateOf(source).listeners.push(redraw);
}

async function greyIn(src, width, height) {
  const picture = new Image();
  picture.src = src;
  await picture.decode();
  const context = element("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0, width, height);
  return greyOf(context, width, height);
}

// The layout of a map `[rows, columns]` over its picture: `grey` of the drawing, `spread` of values over it, the index
// of the value under a pixel, and words for that place.
export function layoutOf(source, shape) {
  const { layout, width, height } = source;
  if (layout?.kind === "volume") return volume(source);
  const grey = greyIn(source.src, width, height);
  if (layout?.kind === "series") return series(layout, shape, width, height, grey);
  return { width, height, grey: () => grey, spread: (values) => values, index: (x, y) => y * width + x, where: (x, y) => `x ${x}, y ${y}` };
}

function series({ left, width: wide, height: high, names, channels }, [rows, steps], width, height, grey) {
  const start = (pixel) => Math.floor((pixel * steps) / wide);
  const line = (y) => Math.min(Math.floor(y / high), channels - 1);
  const strongest = (values, row, pixel) => {
    let found = row * steps + start(pixel);
    for (let i = found; i < row * steps + Math.max(start(pixel + 1), start(pixel) + 1); i += 1) {
      if (Number.isNaN(values[i])) return i;
      if (Math.abs(values[i]) > Math.abs(values[found])) found = i;
    }
    return found;
  };
  const spread = (values) => {
    const seen = new Float32Array(width * height);
    for (let row = 0; row < rows; row += 1) {
      for (let pixel = 0; pixel < wide; pixel += 1) {
        const value = values[strongest(values, row, pixel)];
        const [top, end] = rows === 1 ? [0, height] : [row * high, (row + 1) * high];
        for (let y = top; y < end; y += 1) seen[y * width + left + pixel] = value;
      }
    }
    return seen;
  };
  const index = (x, y, values) => (x < left ? BESIDE : strongest(values, rows === 1 ? 0 : line(y), x - left));
  const where = (x, y, values) => `${names[line(y)]}, step ${(index(x, y, values) % steps) + 1}`;
  return { width, height, grey: () => grey, spread, index, where };
}

function volume(source) {
  const [depth, high, wide] = source.layout.size;
  const { zoom } = source.layout;
  const state = stateOf(source);
  // Rows, columns, and the voxel at each, of the planes through `at`.
  const planes = () => {
    const [z, y, x] = state.at;
    return [[high, wide, (r, c) => (z * high + r) * wide + c], [depth, wide, (r, c) => (r * high + y) * wide + c], [depth, high, (r, c) => (r * high + c) * wide + x]];
  };
  const height = zoom * Math.max(depth, high);
  const width = zoom * (2 * wide + high) + 2 * GAP;
  let made = null;
  const voxels = () => {
    if (made?.at === state.at) return made.found;
    const found = new Int32Array(width * height).fill(BESIDE);
    let left = 0;
    for (const [rows, columns, at] of planes()) {
      for (let y = 0; y < rows * zoom; y += 1) {
        for (let x = 0; x < columns * zoom; x += 1) found[y * width + left + x] = at(Math.floor(y / zoom), Math.floor(x / zoom));
      }
      left += columns * zoom + GAP;
    }
    made = { at: state.at, found };
    return found;
  };
  state.grey ??= greyIn(source.slices, wide, depth * high);
  const index = (x, y) => voxels()[y * width + x];
  const where = (x, y) => {
    const found = index(x, y);
    return `voxel (${Math.floor(found / (high * wide))}, ${Math.floor(found / wide) % high}, ${found % wide})`;
  };
  return {
    width,
    height,
    grey: async () => {
      const slices = await state.grey;
      return Float32Array.from(voxels(), (at) => (at < 0 ? 255 : slices[at]));
    },
    spread: (values) => Float32Array.from(voxels(), (at) => (at < 0 ? 0 : values[at])),
    index,
    where,
    beside: (x, y) => index(x, y) < 0,
    sliders: () => slidersOf(source, state),
  };
}

// One slider for each axis, made once for a picture: they move the planes of all its maps.
function slidersOf(source, state) {
  if (state.sliders) return null;
  state.sliders = element(
    "div",
    { className: "planes" },
    ...source.layout.size.map((size, axis) => {
      const said = element("span", {}, String(state.at[axis]));
      const input = element("input", { type: "range", name: `plane ${axis + 1}`, min: 0, max: size - 1, step: 1, value: state.at[axis] });
      input.addEventListener("input", () => {
        state.at = state.at.map((each, k) => (k === axis ? Number(input.value) : each));
        said.textContent = input.value;
        state.listeners.forEach((redraw) => redraw());
      });
      return element("label", {}, element("span", {}, `plane along axis ${axis + 1}: `, said), input);
    }),
  );
  return state.sliders;
}

// The picture of a row; that of a volume follows the sliders.
export function pictureShown(source) {
  const { src, width, height } = source;
  const kind = source.layout?.kind;
  if (kind === "columns") return inputsOf(source.layout);
  if (kind !== "volume") return element("img", { src, alt: "the input of the model", width, height, className: kind === "series" ? "wide" : "" });
  const canvas = element("canvas", { width, height, className: "wide", role: "img", "aria-label": "planes of the volume" });
  const layout = volume(source);
  const draw = async () => {
    const grey = await layout.grey();
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    grey.forEach((value, i) => image.data.set([value, value, value, 255], 4 * i));
    context.putImageData(image, 0, 0);
  };
  draw();
  whenMoved(source, draw);
  return canvas;
}

// The columns' values, as many as bars are drawn.
function inputsOf({ names, inputs, most }) {
  const items = inputs.slice(0, most).map((value, i) => element("li", {}, element("span", { className: "name" }, names[i]), element("span", { className: "value" }, value)));
  const rest = inputs.length - items.length;
  return element("ol", { className: "bars inputs" }, ...items, ...(rest > 0 ? [element("li", { className: "rest" }, `and ${rest} more`)] : []));
}

// Bars of columns, as a list that can be read: name, bar, value; `draw` fills it.
export function barsOf(source) {
  const { names, inputs, most } = source.layout;
  let { sort } = source.layout;
  let again = null;
  const list = element("ol", { className: "bars" });
  const order = element("input", { type: "checkbox", name: "sort", checked: sort });
  order.addEventListener("change", () => {
    sort = order.checked;
    again?.();
  });
  const draw = (values, limit, anchors) => {
    again = () => draw(values, limit, anchors);
    const size = (i) => (Number.isNaN(values[i]) ? -1 : Math.abs(values[i]));
    const strongest = [...values.keys()].sort((a, b) => size(b) - size(a) || a - b).slice(0, most);
    const shown = sort ? strongest : [...strongest].sort((a, b) => a - b);
    const low = shown.some((i) => values[i] < 0);
    const high = shown.some((i) => values[i] > 0);
    const zero = low ? (high ? 0.5 : 1) : 0;
    const room = low && high ? 0.5 : 1;
    const items = shown.map((i) => {
      const length = limit > 0 && values[i] ? room * Math.min(Math.abs(values[i]) / limit, 1) : 0;
      const left = values[i] < 0 ? zero - length : zero;
      const colour = colourAt(anchors, (1 + 0.8 * Math.sign(values[i] || 0)) / 2, [0, 0, 0]).map(Math.round);
      const bar = element("span", { className: "filled" });
      Object.assign(bar.style, { left: `${100 * left}%`, width: `${100 * length}%`, background: `rgb(${colour.join(", ")})` });
      return element("li", {}, element("span", { className: "name", title: inputs[i] ? `${names[i]} = ${inputs[i]}` : names[i] }, names[i]), element("span", { className: "room" }, bar), element("span", { className: "value" }, threeDigits(values[i])));
    });
    const others = [...values.keys()].filter((i) => !shown.includes(i));
    const rest = others.reduce((sum, i) => sum + values[i], 0);
    list.replaceChildren(...items, ...(others.length ? [element("li", { className: "rest" }, `${others.length} other columns, sum ${threeDigits(rest)}`)] : []));
  };
  return { shown: element("div", {}, list, element("label", { className: "tick" }, order, " the largest first")), draw };
}
