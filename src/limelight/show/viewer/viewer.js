// The viewer of reports, notebooks and the live page: a grid of maps, rows (pictures or classes) by columns (methods).
import { choice, element, framed, slider } from "./elements.js";
import { mapCell } from "./cell.js";
import { pictureShown } from "./layouts.js";
import { READINGS, SCALES } from "./view.js";

// Null: each map's own.
const STARTING = { opacity: 0.85, reading: "own", scale: "own", percentile: null, diverging: null, magnitude: null, share: "map", row: "all" };

export class Viewer {
  // `payload` as limelight.show.payload makes it; rows and maps may be added later.
  constructor(root, payload) {
    this.root = root;
    this.payload = payload;
    this.look = { ...STARTING };
    this.rows = [];
    this.controls = element("form", { className: "controls", "aria-label": "how the maps are shown" });
    this.controls.addEventListener("submit", (event) => event.preventDefault());
    this.grid = element("div", { className: "grid" });
    const { heading, footer, facts } = payload;
    root.replaceChildren(
      ...[...root.children].filter((child) => ["STYLE", "SCRIPT"].includes(child.tagName)),
      element("h2", { hidden: !heading }, heading),
      this.controls,
      this.grid,
      element("dl", { hidden: !facts.length }, ...facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
      element("footer", { hidden: !footer }, footer),
    );
    this.buildControls();
    payload.rows.forEach((row) => this.addRow(row));
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
      this.controls.append(choice("rows", "row", options, this.look.row, set("row")));
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

  addRow({ label, picture, maps }) {
    const source = this.payload.pictures[picture];
    const cells = element("div", { className: "panel" });
    const { frame, point } = framed(pictureShown(source), source.width, source.height);
    cells.append(element("figure", {}, frame, element("h3", {}, "picture"), element("p", {}, source.size)));
    const section = element("section", {}, element("h3", { className: "row", hidden: !label }, label), cells);
    const row = { label, source, section, cells, point, maps: [], byColumn: [] };
    this.rows.push(row);
    this.grid.append(section);
    this.grid.classList.toggle("aligned", this.rows.length > 1);
    this.buildControls();
    maps.forEach((map) => this.addMap(row, map));
    return row;
  }

  addMap(row, map) {
    const cell = mapCell(map, row.source, {
      point: (at) => [row, ...row.maps].forEach((each) => each.point(at)),
      tables: this.payload.tables,
      label: row.label,
    });
    row.maps.push(cell);
    row.cells.append(cell.figure);
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
        if (!row.section.hidden) row.maps.forEach((cell) => cell.draw(this.look, this.limit(cell, row)));
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
