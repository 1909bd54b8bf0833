// A text on the colours of its pieces, with a table of the strongest; of several targets, the predicted token is chosen,
// and a table has them all. The same rules as limelight.show.words.
import { paint } from "./colours.js";
import { element } from "./elements.js";
import { percent, threeDigits } from "./numbers.js";

const MOST_CELLS = 20000; // of the table of all targets

// The text alone.
export function plainText({ segments }) {
  return element("p", { className: "letters plain", dir: "auto" }, ...segments.map(([letters, , small]) => element("span", { className: small ? "small" : "" }, letters)));
}

// Black or white, whichever has the larger contrast with a colour.
function inkOn(colour) {
  const [red, green, blue] = colour.map((part) => (part <= 10.31475 ? part / 3294.6 : ((part / 255 + 0.055) / 1.055) ** 2.4));
  const light = 0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05;
  return light / 0.05 > 1.05 / light ? "rgb(0, 0, 0)" : "rgb(255, 255, 255)";
}

// The colours of values, as of a picture over paper.
function coloursOf(values, { paper }, look) {
  const pixels = new Uint8ClampedArray(4 * values.length);
  paint(pixels, new Float32Array(values.length).fill(look.diverging ? paper.pale : paper.dark), values, look);
  return Array.from(values, (_, i) => [...pixels.slice(4 * i, 4 * i + 3)]);
}

function coloured(part, colour) {
  part.style.background = `rgb(${colour.join(", ")})`;
  part.style.color = inkOn(colour);
}

// What draws a map `[targets, pieces]` of a text. A place is [piece, target].
export function textOf({ layout }, [rows, columns], title, point) {
  const { segments, names, targets, most } = layout;
  const several = rows > 1;
  const parts = segments.map(([letters, piece, small]) => element("span", { className: `${piece < 0 ? "" : "piece"}${small ? " small" : ""}`, dataset: { piece } }, letters));
  const parted = Array.from({ length: columns }, () => []);
  segments.forEach(([, piece], i) => piece >= 0 && parted[piece].push(parts[i]));
  const keys = several ? "arrow keys read its tokens and choose the predicted one" : "arrow keys read its tokens";
  const text = element("div", { className: "letters", dir: "auto", tabIndex: 0, role: "application", "aria-roledescription": "map", "aria-label": `map of ${title} over the text; ${keys}` }, ...parts);
  const strongest = element("tbody");
  const caption = element("caption");
  const heads = ["token", "value", "share of all |A|"].map((name) => element("th", { scope: "col" }, name));
  const table = element("table", { className: "strongest" }, caption, element("thead", {}, element("tr", {}, ...heads)), strongest);
  const choices = several ? choicesOf(targets, (row) => point([at?.[0] ?? -1, row])) : null;
  const all = several ? allOf(layout, rows, columns, point) : null;
  let at = null;
  let row = 0;
  let seen = null;

  const share = (i) => {
    const line = seen.values.subarray(row * columns, (row + 1) * columns);
    const whole = line.reduce((sum, each) => sum + (Number.isFinite(each) ? Math.abs(each) : 0), 0);
    return Number.isFinite(line[i]) && whole > 0 ? Math.abs(line[i]) / whole : NaN;
  };

  function show() {
    const line = seen.values.subarray(row * columns, (row + 1) * columns);
    const colours = coloursOf(line, layout, seen.look);
    text.classList.toggle("pale", seen.look.diverging);
    text.classList.toggle("dark", !seen.look.diverging);
    parted.forEach((each, piece) => each.forEach((part) => coloured(part, colours[piece])));
    const size = (i) => (Number.isNaN(line[i]) ? 0 : Math.abs(line[i]));
    const first = [...line.keys()].filter((i) => size(i) > 0).sort((a, b) => size(b) - size(a) || a - b).slice(0, most);
    table.hidden = !first.length;
    caption.textContent = several ? "" : "Strongest tokens";
    if (several) caption.append(...element("span", {}, `Strongest tokens for “${targets[row][1]}”`).childNodes);
    strongest.replaceChildren(...first.map((i) => element("tr", {}, element("th", { scope: "row" }, names[i]), element("td", {}, threeDigits(line[i])), element("td", {}, Number.isNaN(share(i)) ? "" : percent(share(i))))));
  }

  function mark() {
    parts.forEach((part, i) => {
      part.classList.toggle("pointed", Boolean(at) && segments[i][1] >= 0 && segments[i][1] === at[0]);
      part.classList.toggle("predicted", several && segments[i][1] === targets[row][0]);
    });
    choices?.choose(row);
    all?.choose(row);
  }

  const pieceAt = (event) => Number(event.target.closest?.("[data-piece]")?.dataset.piece ?? -1);
  const look = (event) => {
    const piece = pieceAt(event);
    if (piece < 0) return;
    const target = several ? targets.findIndex(([each]) => each === piece) : -1;
    point([piece, target < 0 || target >= rows ? row : target]);
  };
  text.addEventListener("pointermove", look);
  text.addEventListener("pointerdown", look);
  text.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && point(null));
  text.addEventListener("keydown", (event) => {
    if (event.key === "Escape") point(null);
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const line = several ? { ArrowUp: -1, ArrowDown: 1 }[event.key] : undefined;
    if (!step && !line) return;
    event.preventDefault();
    const far = event.shiftKey ? 10 : 1;
    const within = (value, end) => Math.min(Math.max(value, 0), end - 1);
    const piece = at && at[0] >= 0 ? within(at[0] + far * (step ?? 0), columns) : 0;
    point([piece, within(row + (line ?? 0), rows)]);
  });

  return {
    shown: element("div", { className: "reading" }, choices?.shown ?? null, text),
    below: [table, all?.shown ?? null].filter(Boolean),
    focusable: text,
    draw(values, chosen) {
      seen = { values, look: chosen };
      show();
      all?.draw(values, chosen);
      mark();
    },
    // The words for a place, which is shown; null leaves the chosen target.
    point(place) {
      at = place;
      if (place && several && place[1] !== row) {
        row = Math.min(place[1], rows - 1);
        if (seen) show();
      }
      mark();
      if (!place || !seen || place[0] < 0 || !names.length) return several ? `predicts “${targets[row][1]}”` : "";
      const value = threeDigits(seen.values[row * columns + place[0]]);
      const of = share(place[0]);
      return `${several ? `predicts “${targets[row][1]}”; ` : ""}${names[place[0]]}: ${value}${Number.isNaN(of) ? "" : `, ${percent(of)} of all |A|`}`;
    },
  };
}

// The predicted tokens, one of which is chosen: by the pointer, by focus, or by the arrow keys.
function choicesOf(targets, choose) {
  const made = targets.map(([, name], row) => {
    const each = element("button", { type: "button", role: "radio" }, name);
    for (const kind of ["click", "focus", "pointerenter"]) each.addEventListener(kind, () => choose(row));
    each.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      made[(row + step + made.length) % made.length].focus();
    });
    return each;
  });
  return {
    shown: element("div", { className: "choices", role: "radiogroup", "aria-label": "predicted token" }, element("span", {}, "predicts"), ...made),
    choose(row) {
      made.forEach((each, i) => {
        each.setAttribute("aria-checked", String(i === row));
        each.tabIndex = i === row ? 0 : -1;
      });
    },
  };
}

// A table with a row for each target and a column for each piece, made when it is opened.
function allOf(layout, rows, columns, point) {
  const { names, targets } = layout;
  const room = element("div", { className: "all", tabIndex: 0, role: "region", "aria-label": "all predicted tokens by all tokens" });
  const shown = element("details", { className: "everything" }, element("summary", {}, "All predicted tokens"), room);
  const lines = [];
  let latest = null;
  let chosen = 0;
  const tell = () => lines.forEach((line, i) => line.classList.toggle("chosen", i === chosen));
  const make = () => {
    if (rows * columns > MOST_CELLS) {
      room.replaceChildren(element("p", {}, `${rows * columns} cells; the picture (.png) has them`));
      return;
    }
    const heads = names.map((name) => element("th", { scope: "col" }, element("span", {}, name)));
    for (let row = 0; row < rows; row += 1) {
      const cells = Array.from({ length: columns }, (_, i) => {
        const cell = element("td");
        cell.addEventListener("pointerenter", () => point([i, row]));
        return cell;
      });
      lines.push(element("tr", {}, element("th", { scope: "row" }, targets[row][1]), ...cells));
    }
    room.replaceChildren(element("table", { className: "heat" }, element("thead", {}, element("tr", {}, element("td"), ...heads)), element("tbody", {}, ...lines)));
  };
  const fill = () => {
    if (!latest || !shown.open) return;
    if (!room.childElementCount) make();
    tell();
    const colours = coloursOf(latest.values, layout, latest.look);
    lines.forEach((line, row) => {
      [...line.children].slice(1).forEach((cell, i) => {
        const value = latest.values[row * columns + i];
        coloured(cell, colours[row * columns + i]);
        cell.title = `${targets[row][1]} from ${names[i]}: ${threeDigits(value)}`;
        cell.textContent = threeDigits(value);
      });
    });
  };
  shown.addEventListener("toggle", fill);
  return {
    shown,
    draw(values, look) {
      latest = { values, look };
      fill();
    },
    choose(row) {
      chosen = row;
      tell();
    },
  };
}
