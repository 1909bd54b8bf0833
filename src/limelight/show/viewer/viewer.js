// The viewer of reports, notebooks and the live page: a grid of maps, rows (pictures or classes) by columns (methods).
import { button, choice, element, slider } from "./elements.js";
import { mapCell } from "./cell.js";
import { pictureCell, saidOf, twinsOf } from "./lead.js";
import { openLarge } from "./large.js";
import { READINGS, SCALES } from "./view.js";

// Null: each map's own.
const STARTING = { opacity: 0.85, reading: "own", scale: "own", percentile: null, diverging: null, magnitude: null, share: "map", row: "all", layout: "rows" };
const NARROWEST = 230; // pixels of a map in a row that wraps

// Columns for `count` maps where at most `most` fit: rows as full as can be, and no map alone in its row.
export function columnsFor(count, most) {
  let best = 1;
  let least = Infinity;
  for (let columns = Math.min(most, count); columns >= 2; columns -= 1) {
    const last = count % columns;
    const empty = last ? columns - last + (last === 1 ? columns : 0) : 0;
    if (empty < least) [best, least] = [columns, empty];
  }
  return best;
}

export class Viewer {
  // `payload` as limelight.show.payload makes it; rows and maps may be added later.
  constructor(root, payload) {
    this.root = root;
    this.payload = payload;
    this.look = { ...STARTING };
    this.rows = [];
    this.controls = element("form", { "aria-label": "how the maps are shown" });
    this.controls.addEventListener("submit", (event) => event.preventDefault());
    this.drawing = element("details", { className: "controls" }, element("summary", {}, "How the maps are drawn"), this.controls);
    this.grid = element("div", { className: "grid" });
    const { heading, footer, facts, cautions } = payload;
    root.replaceChildren(
      ...[...root.children].filter((child) => ["STYLE", "SCRIPT"].includes(child.tagName)),
      element("div", { className: "top" }, element("h2", { hidden: !heading }, heading), this.drawing),
      element("ul", { className: "cautions", "aria-label": "cautions", hidden: !cautions.length }, ...cautions.map(([name, value]) => element("li", {}, element("b", {}, name), ` ${value}`))),
      this.grid,
      element("details", { className: "facts", hidden: !facts.length }, element("summary", {}, "How the maps were made"), element("dl", {}, ...facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]))),
      element("footer", { hidden: !footer }, footer),
    );
    this.buildControls();
    payload.rows.forEach((row) => this.addRow(row));
    new ResizeObserver(() => requestAnimationFrame(() => this.fit())).observe(this.grid);
  }

  buildControls() {
    const { tables, percentiles } = this.payload;
    const names = (group) => Object.keys(tables[group]).map((name) => [name, name]);
    const set = (name) => (value) => {
      this.look[name] = value;
      this.redraw();
    };
    const place = (value) => Math.max(percentiles.indexOf(value), 0);
    this.controls.replaceChildren(
      slider("opacity", "opacity", { min: 0, max: 1, step: 0.05, value: this.look.opacity, say: (v) => v.toFixed(2) }, set("opacity")),
      choice("values", "reading", READINGS, this.look.reading, set("reading")),
      choice("drawn at", "scale", SCALES, this.look.scale, set("scale")),
      slider("colours end at percentile", "percentile", { min: 0, max: percentiles.length - 1, step: 1, value: place(this.look.percentile ?? this.payload.look.percentile), say: (v) => String(percentiles[v]) }, (v) => set("percentile")(percentiles[v])),
      choice("scale shared", "share", [["map", "no: one for each map"], ["row", "within each row"], ["all", "by all maps"]], this.look.share, set("share")),
      choice("colours, signed", "diverging", names("diverging"), this.look.diverging ?? this.payload.look.diverging, set("diverging")),
      choice("colours, magnitude", "magnitude", names("magnitude"), this.look.magnitude ?? this.payload.look.magnitude, set("magnitude")),
    );
    if (this.rows.length > 1) {
      const options = [["all", "all"], ...this.rows.map((row, at) => [String(at), row.label])];
      const layouts = [["rows", "a line each"], ["side", "side by side"]];
      const lay = (value) => {
        this.look.layout = value;
        this.arrange();
      };
      this.controls.append(choice("rows", "row", options, this.look.row, set("row")), choice("layout", "layout", layouts, this.look.layout, lay));
    }
  }

  // Take all rows away; how maps are shown stays as the reader has set it.
  clear() {
    this.rows = [];
    this.payload.pictures = [];
    this.look.row = "all";
    this.grid.style.minHeight = `${this.grid.offsetHeight}px`; // until `settle`: the page doesn't jump under its reader
    this.grid.replaceChildren();
    this.buildControls();
  }

  // All rows are there.
  settle() {
    this.grid.style.minHeight = "";
  }

  addPicture(picture) {
    return this.payload.pictures.push(picture) - 1;
  }

  // `expected`: how many maps will come, so that their places stay as they are.
  addRow({ label, picture, maps, summary = null, expected = 0 }) {
    const source = this.payload.pictures[picture];
    const cells = element("div", { className: "panel" });
    const lead = element("div", { className: "lead" });
    const { figure, point, outline } = pictureCell(source, null);
    const title = element("h3", { className: "row", hidden: !label }, label);
    const section = element("section", {}, lead, title, cells);
    const row = { label, source, section, lead, title, cells, figure, point, outline, expected, summary: null, maps: [], byColumn: [], twins: null };
    this.rows.push(row);
    this.grid.append(section);
    this.buildControls();
    maps.forEach((map) => this.addMap(row, map));
    if (summary) this.setSummary(row, summary);
    this.arrange();
    return row;
  }

  // What stands above a row's maps, once they are all there.
  setSummary(row, summary) {
    row.summary = summary;
    row.outline(summary.region);
    row.twins = summary.furthest && twinsOf(summary.furthest, row.maps);
    row.lead.replaceChildren(...[row.figure.parentElement === row.lead ? row.figure : null, saidOf(summary), row.twins?.shown].filter(Boolean));
    this.arrange();
    this.redraw();
  }

  // A row alone has its picture beside the words; of several, each begins with its picture.
  arrange() {
    const alone = this.rows.length === 1;
    this.grid.classList.toggle("aligned", !alone && this.look.layout === "rows");
    this.grid.classList.toggle("side", !alone && this.look.layout === "side");
    this.rows.forEach((row) => {
      const home = alone ? row.lead : row.cells;
      row.title.hidden = !row.label || Boolean(alone && row.summary); // whose first words are the same
      if (row.figure.parentElement !== home) home.prepend(row.figure);
    });
    this.fit();
  }

  // Columns by the room that there is.
  fit() {
    const room = Math.max(Math.floor((this.grid.clientWidth + 20) / (NARROWEST + 20)), 1);
    const lines = Math.max(...this.rows.map((row) => row.cells.children.length), 1);
    this.rows.forEach((row) => row.cells.style.setProperty("--columns", columnsFor(Math.max(row.cells.children.length, row.expected), room)));
    this.grid.style.setProperty("--lines", lines);
  }

  addMap(row, map) {
    const cell = mapCell(map, row.source, {
      point: (at) => {
        [row, ...row.maps].forEach((each) => each.point(at));
        row.maps.forEach((each) => each.figure.dispatchEvent(new Event("pointed")));
      },
      tables: this.payload.tables,
      label: row.label,
    });
    const enlarge = button("Enlarge", () => openLarge(this.root, cell, map, row), { className: "enlarge", "aria-label": `enlarge the map of ${map.title}` });
    cell.figure.querySelector(".links").prepend(enlarge, " ");
    row.maps.push(cell);
    row.cells.append(cell.figure);
    this.fit();
    this.redraw();
    return cell;
  }

  // The end of a map's colours: its own, or the largest of those it shares the scale with.
  limit(cell, row) {
    const own = (each) => each.limitAt(this.look);
    const among = { map: [cell], row: row.maps, all: this.rows.flatMap((each) => each.maps) }[this.look.share];
    return Math.max(...among.map(own).filter(Number.isFinite), 0);
  }

  // Every map at most once a frame, however fast a slider moves.
  redraw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.rows.forEach((row, at) => {
        row.section.hidden = this.look.row !== "all" && Number(this.look.row) !== at;
        if (row.section.hidden) return;
        const drawn = row.maps.map((cell) => cell.draw(this.look, this.limit(cell, row)).then(() => cell.figure.dispatchEvent(new Event("drawn"))));
        Promise.all(drawn).then(() => row.twins?.draw());
      });
    });
  }
}

// Turn every waiting element of a report or a notebook into a viewer of the data it carries.
export function mountAll() {
  document.querySelectorAll(".limelight[data-waiting]").forEach((root) => {
    root.removeAttribute("data-waiting");
    root.viewer = new Viewer(root, JSON.parse(root.querySelector("script[type='application/json']").textContent));
  });
}
