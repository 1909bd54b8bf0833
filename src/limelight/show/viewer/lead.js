// What stands above the maps of a row: what the model said, what the maps agree on, which of them held up.
import { element, framed } from "./elements.js";
import { pictureShown } from "./layouts.js";
import { plainText } from "./text.js";

const VECTOR = "http://www.w3.org/2000/svg";

// The picture the model saw, with the outline of the region that most maps point at.
export function pictureCell(source, region) {
  const isText = source.layout?.kind === "text";
  const { frame, point } = framed(isText ? plainText(source.layout) : pictureShown(source), source.width, source.height);
  const size = element("p", {}, source.size);
  const outline = (found) => {
    frame.querySelector("svg")?.remove();
    if (found) frame.append(outlineOf(found));
    size.textContent = found ? `${source.size}; outlined: where the maps agree` : source.size;
  };
  outline(region);
  return { figure: element("figure", { className: "picture" }, frame, element("h3", {}, isText ? "text" : "picture"), size), point: isText ? () => {} : point, outline };
}

// The edges between a region and the rest of its picture as one drawing, dark below and white above.
function outlineOf({ shape: [height, width], bits }) {
  const bytes = atob(bits);
  const inside = (x, y) => {
    const at = y * width + x;
    return x >= 0 && y >= 0 && x < width && y < height && Boolean((bytes.charCodeAt(at >> 3) >> (7 - (at & 7))) & 1);
  };
  let path = "";
  for (let y = 0; y <= height; y += 1) {
    for (let x = 0; x <= width; x += 1) {
      if (inside(x, y) !== inside(x - 1, y)) path += `M${x} ${y}v1`;
      if (inside(x, y) !== inside(x, y - 1)) path += `M${x} ${y}h1`;
    }
  }
  const drawing = document.createElementNS(VECTOR, "svg");
  for (const [name, value] of Object.entries({ viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true", class: "outline" })) drawing.setAttribute(name, value);
  for (let line = 0; line < 2; line += 1) {
    const edges = document.createElementNS(VECTOR, "path");
    edges.setAttribute("d", path);
    drawing.append(edges);
  }
  return drawing;
}

// The words of a summary, with the model's first classes as bars.
export function saidOf(summary) {
  const count = summary.held.reduce((sum, [, names]) => sum + names.length, 0);
  const most = Math.max(...summary.classes.map(([, share]) => share), 0);
  return element(
    "div",
    { className: "said" },
    element("p", { className: "first" }, summary.said),
    summary.explained ? element("p", {}, summary.explained) : null,
    summary.classes.length
      ? element("ul", { className: "classes" }, ...summary.classes.map(([name, share]) => element("li", {}, element("meter", { min: 0, max: most || 1, value: share, "aria-hidden": "true" }), element("span", {}, name), element("b", {}, `${(100 * share).toFixed(1)}%`))))
      : null,
    summary.agreed ? element("p", {}, summary.agreed) : null,
    ...summary.held.map(([word, names]) => element("p", { className: "held" }, element("b", { className: { "hold up": "good", "do not hold up": "bad" }[word] ?? "plain" }, `${names.length} of ${count} maps ${word}`), `: ${names.join(", ")}`)),
  );
}

// Small copies of the two maps that differ most; `draw` copies what their cells show.
export function twinsOf([first, second, correlation], cells) {
  const pair = [first, second].map((title) => cells.find((cell) => cell.figure.dataset.method === title));
  if (!pair.every((cell) => cell?.canvas)) return null;
  const copies = pair.map((cell) => {
    const { width, height } = cell.canvas;
    return element("canvas", { width, height, role: "img", "aria-label": `map of ${cell.figure.dataset.method}` });
  });
  const shown = element(
    "div",
    { className: "twins" },
    ...copies.map((copy, at) => element("div", {}, copy, element("p", {}, [first, second][at]))),
    element("p", { className: "muted" }, `These two differ most: rank correlation ${correlation.toFixed(2)}.`),
  );
  const draw = () => copies.forEach((copy, at) => copy.getContext("2d").drawImage(pair[at].canvas, 0, 0));
  return { shown, draw };
}
