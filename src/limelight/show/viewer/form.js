// The question's form, built from what the server says can be asked.
import { button, choice, element, slider } from "./elements.js";

function field({ name, kind, options, optional, whole, default: value }) {
  let input;
  if (kind === "switch") input = element("input", { type: "checkbox", checked: value === "True" });
  else if (kind === "choice") input = element("select", {}, ...options.map((each) => element("option", {}, each)));
  else if (kind === "number") input = element("input", { type: "number", step: whole ? "1" : "any", placeholder: optional ? "none" : "" });
  else input = element("input", { type: "text", maxLength: 300, spellcheck: false });
  if (kind !== "switch") input.value = value === "None" ? "" : value;
  input.name = name;
  const read = () => (kind === "switch" ? (input.checked ? "True" : "False") : input.value.trim() || (optional || value === "None" ? "None" : value));
  const write = (text) => (kind === "switch" ? (input.checked = text === "True") : (input.value = text));
  return { name, read, write, shown: element("label", {}, element("span", {}, name), input) };
}

function method(form, settings) {
  const fields = form.fields.map(field);
  for (const each of fields) if (settings && each.name in settings) each.write(settings[each.name]);
  const tick = element("input", { type: "checkbox", name: form.name, checked: settings !== undefined });
  const box = element("div", { className: "fields", hidden: !tick.checked }, element("small", {}, form.summary), ...fields.map((each) => each.shown));
  tick.addEventListener("change", () => (box.hidden = !tick.checked));
  const shown = element("div", { className: "method" }, element("label", { className: "tick", title: form.summary }, tick, ` ${form.name}`), box);
  const asked = () => ({ name: form.name, fields: Object.fromEntries(fields.map((each) => [each.name, each.read()])) });
  return { chosen: () => tick.checked, asked, shown };
}

// Fills the form; `changed` is called where the maps should be made again at once.
export function buildForm(server, changed) {
  const find = (id) => document.getElementById(id);
  const methods = server.methods.map((each) => method(each, server.chosen[each.name]));
  find("methods").replaceChildren(...methods.map((each) => each.shown));

  const state = { classes: [], baseline: "black", layer: "", shift: 0, tests: true };
  const top = element("div", { className: "top" });
  const search = element("input", { type: "search", name: "class", placeholder: "a label or a number" });
  search.setAttribute("list", "labels");
  const labels = element("datalist", { id: "labels" }, ...server.labels.map((label, at) => element("option", { value: `${at} ${label}` })));
  let seen = [];
  const toggle = (index) => {
    state.classes = state.classes.includes(index) ? state.classes.filter((each) => each !== index) : [...state.classes, index].slice(-8);
    showTop();
    changed();
  };
  const showTop = () => {
    const more = state.classes.filter((index) => !seen.some((each) => each.class === index)).map((index) => ({ class: index, label: `${server.labels[index] ?? "class"} (${index})`, probability: null }));
    const text = ({ label, probability }) => (probability === null ? label : `${label} ${(100 * probability).toFixed(1)}%`);
    top.replaceChildren(...[...seen, ...more].map((each) => button(text(each), () => toggle(each.class), { "aria-pressed": String(state.classes.includes(each.class)) })));
  };
  search.addEventListener("change", () => {
    const words = search.value.trim().toLowerCase();
    const number = /^\d+/.exec(words);
    const index = number ? Number(number[0]) : server.labels.findIndex((label) => label.toLowerCase().includes(words));
    if (!words || index < 0) return;
    search.value = "";
    if (!state.classes.includes(index)) toggle(index);
  });
  find("classes").append(top, element("label", {}, element("span", {}, "search all classes (none chosen: the model's first)"), search), labels);

  const number = element("input", { type: "number", name: "baseline-number", step: "any", min: -1, max: 2, placeholder: "or a number, 0 to 1" });
  number.setAttribute("aria-label", "baseline as a number");
  number.addEventListener("change", changed);
  const layers = [["", server.layer ? `chosen for you (${server.layer})` : "chosen for you"], ...server.layers.map((each) => [each.name, `${each.name}  ${each.grid}`])];
  const tests = element("input", { type: "checkbox", name: "tests", checked: true });
  find("question").append(
    choice("baseline: what absent means", "baseline", server.baselines.map((each) => [each, each]), "black", (value) => {
      state.baseline = value;
      number.value = "";
      changed();
    }),
    number,
    choice("layer, for methods that read one", "layer", layers, "", (value) => {
      state.layer = value;
      changed();
    }),
    element("label", { className: "tick" }, tests, " test each map"),
  );

  const said = element("output", { id: "prediction" });
  find("brightness").append(
    slider("added to every pixel", "shift", { min: -0.5, max: 0.5, step: 0.05, value: 0, say: (v) => (v > 0 ? "+" : "") + v.toFixed(2) }, (value) => {
      state.shift = value;
      changed();
    }),
    said,
  );

  return {
    asked: () => ({ methods: methods.filter((each) => each.chosen()).map((each) => each.asked()), classes: state.classes, baseline: number.value || state.baseline, layer: state.layer, shift: state.shift, tests: tests.checked }),
    predicted({ top: found, plain }) {
      seen = found;
      showTop();
      const words = (each) => (each ? `${each.label}${each.probability === null ? "" : ` ${(100 * each.probability).toFixed(1)}%`}` : "");
      said.textContent = plain ? `the model now says ${words(found[0])}; without the change ${words(plain[0])}` : `the model says ${words(found[0])}`;
    },
  };
}
