// The question's form, built from what the server says can be asked.
import { button, choice, element, slider } from "./elements.js";

const MOST_CLASSES = 8;
const MOST_NAMED = 6;

function field({ name, kind, options, optional, whole, default: value }) {
  let input;
  if (kind === "switch") input = element("input", { type: "checkbox", checked: value === "True" });
  else if (kind === "choice") input = element("select", {}, ...options.map((each) => element("option", {}, each)));
  else if (kind === "number") input = element("input", { type: "number", step: whole ? "1" : "any", placeholder: optional ? "none" : value });
  else input = element("input", { type: "text", maxLength: 300, spellcheck: false, placeholder: value });
  if (kind !== "switch") input.value = value === "None" ? "" : value;
  input.name = name;
  const read = () => (kind === "switch" ? (input.checked ? "True" : "False") : input.value.trim() || (optional || value === "None" ? "None" : value));
  const write = (text) => (kind === "switch" ? (input.checked = text === "True") : (input.value = text));
  return { name, read, write, shown: element("label", {}, element("span", {}, name), input) };
}

// A line of text that the server reads, with the names that it may begin with.
function typed(label, name, offered, placeholder, changed) {
  const input = element("input", { type: "text", name, maxLength: 300, spellcheck: false, autocomplete: "off", placeholder });
  input.setAttribute("list", `${name}s`);
  input.addEventListener("change", changed);
  const list = element("datalist", { id: `${name}s` }, ...offered.map((each) => element("option", { value: each.text }, each.usage)));
  return { read: () => input.value.trim(), shown: [element("label", {}, element("span", {}, label), input), list] };
}

function method(form, settings) {
  const fields = form.fields.map(field);
  for (const each of fields) if (settings && each.name in settings) each.write(settings[each.name]);
  const tick = element("input", { type: "checkbox", name: form.name, checked: settings !== undefined });
  // Disabled while hidden: what stands in it then is not asked, and need not be valid.
  const box = element("fieldset", { className: "fields", "aria-label": form.name, hidden: !tick.checked, disabled: !tick.checked }, element("small", {}, form.summary), ...fields.map((each) => each.shown));
  tick.addEventListener("change", () => (box.hidden = box.disabled = !tick.checked));
  const shown = element("div", { className: "method" }, element("label", { className: "tick", title: form.summary }, tick, ` ${form.name}`), box);
  const asked = () => ({ name: form.name, fields: Object.fromEntries(fields.map((each) => [each.name, each.read()])) });
  return { chosen: () => tick.checked, asked, shown };
}

// The classes that words mean: a number, else whole labels, else labels with these words in them, else with these
// letters; as the command line reads them.
export function classesOf(words, labels) {
  const sought = words.trim().toLowerCase();
  if (!sought) return [];
  const number = /^(\d+)(?: (.*))?$/.exec(sought);
  if (number && (number[2] === undefined || labels[number[1]]?.toLowerCase() === number[2])) {
    return !labels.length || Number(number[1]) < labels.length ? [Number(number[1])] : [];
  }
  const whole = new RegExp(`(?<![\\p{L}\\p{N}_])${sought.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}(?![\\p{L}\\p{N}_])`, "u");
  for (const fits of [
    (label) => label === sought || label.split(",").some((part) => part.trim() === sought),
    (label) => whole.test(label),
    (label) => label.includes(sought),
  ]) {
    const found = labels.flatMap((label, at) => (fits(label.toLowerCase()) ? [at] : []));
    if (found.length) return found;
  }
  return [];
}

// Fills the form; `changed` is called where the maps should be made again at once, `say` tells what could not be done.
export function buildForm(server, changed, say) {
  const find = (id) => document.getElementById(id);
  const methods = server.methods.map((each) => method(each, server.chosen[each.name]));
  find("methods").replaceChildren(...methods.map((each) => each.shown));

  const state = { classes: [], layer: "", arithmetic: "", shift: 0, tests: true };
  const classes = classPicker(server.labels, state, changed, say);
  find("classes").append(...classes.shown);

  const target = typed("target other than a class", "target", server.targets, "such as margin(281, other=285)", changed);
  const baseline = typed("baseline: the value of absent pixels, a name or a number", "baseline", server.baselines, server.baseline, changed);
  const view = typed("view: how maps are read and drawn", "view", server.views, "such as signed(smooth=0.02)", changed);
  const layers = [["", server.layer ? `automatic (${server.layer})` : "automatic"], ...server.layers.map((each) => [each.name, `${each.name}  ${each.grid}`])];
  const tests = element("input", { type: "checkbox", name: "tests", checked: true });
  find("question").append(
    ...target.shown,
    ...baseline.shown,
    ...view.shown,
    choice("layer, for methods that use one", "layer", layers, "", (value) => {
      state.layer = value;
      changed();
    }),
    choice("arithmetic of the model's rows", "arithmetic", [["", "automatic"], ...server.arithmetics.map((each) => [each, each])], "", (value) => {
      state.arithmetic = value;
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
    asked: () => ({ methods: methods.filter((each) => each.chosen()).map((each) => each.asked()), classes: state.classes, target: target.read(), baseline: baseline.read() || server.baseline, view: view.read(), layer: state.layer, arithmetic: state.arithmetic, shift: state.shift, tests: tests.checked }),
    // What the model says of a picture, brightened and plain; the class picker offers the first picture's.
    predicted({ picture, top, plain: before }, about) {
      if (picture === 0) {
        said.replaceChildren();
        classes.offer(top);
      }
      const words = (each) => named(each.label, each.probability);
      said.append(element("p", {}, about(before ? `the model now says ${words(top[0])}; without the change ${words(before[0])}` : `the model says ${words(top[0])}`)));
    },
  };
}

function named(label, probability) {
  return probability === null ? label : `${label} ${(100 * probability).toFixed(1)}%`;
}

// Buttons for the classes the model thinks of first and those that were searched for; pressed ones are explained.
function classPicker(labels, state, changed, say) {
  const top = element("div", { className: "top", role: "group", "aria-label": "classes to explain" });
  const search = element("input", { type: "search", name: "class", placeholder: "a label or a number" });
  search.setAttribute("list", "labels");
  const list = element("datalist", { id: "labels" }, ...labels.map((label, at) => element("option", { value: `${at} ${label}` })));
  let seen = [];
  const toggle = (index) => {
    const others = state.classes.filter((each) => each !== index);
    if (others.length === state.classes.length && others.length >= MOST_CLASSES) return say(`at most ${MOST_CLASSES} classes at once`, true);
    state.classes = others.length < state.classes.length ? others : [...others, index];
    show();
    changed();
  };
  const show = () => {
    const more = state.classes.filter((index) => !seen.some((each) => each.class === index)).map((index) => ({ class: index, label: `${labels[index] ?? "class"} (${index})`, probability: null }));
    const focused = [...top.children].indexOf(document.activeElement);
    top.replaceChildren(...[...seen, ...more].map((each) => button(named(each.label, each.probability), () => toggle(each.class), { "aria-pressed": String(state.classes.includes(each.class)) })));
    if (focused >= 0) top.children[Math.min(focused, top.children.length - 1)]?.focus(); // new buttons, same place
  };
  search.addEventListener("change", () => {
    if (!search.value.trim()) return;
    const found = classesOf(search.value, labels);
    if (found.length === 1) {
      search.value = "";
      if (!state.classes.includes(found[0])) toggle(found[0]);
    } else if (found.length) {
      const some = found.slice(0, MOST_NAMED).map((index) => `${index} ${labels[index]}`).join(", ");
      say(`${found.length} classes fit “${search.value}”; give a number: ${some}${found.length > MOST_NAMED ? ", …" : ""}`, true);
    } else {
      say(`no class fits “${search.value}”; ${labels.length ? `numbers run to ${labels.length - 1}` : "the model has no labels, so give a number"}`, true);
    }
  });
  const offer = (found) => {
    seen = found;
    show();
  };
  const what = element("span", {}, "search all classes (with none selected: the model's first class)");
  return { shown: [top, element("label", {}, what, search), list], offer };
}
