// The question's form, built from what the server says can be asked.
import { button, choice, element, slider } from "./elements.js";
import { fieldOf } from "./fields.js";

const MOST_CLASSES = 8;
const MOST_NAMED = 6;

// A line of text that the server reads, with the names that it may begin with.
function typed(label, name, offered, placeholder, changed) {
  const input = element("input", { type: "text", name, maxLength: 300, spellcheck: false, autocomplete: "off", placeholder });
  input.setAttribute("list", `${name}s`);
  input.addEventListener("change", changed);
  const list = element("datalist", { id: `${name}s` }, ...offered.map((each) => element("option", { value: each.text }, each.usage)));
  return { read: () => input.value.trim(), write: (text) => (input.value = text), shown: [element("label", {}, element("span", {}, label), input), list] };
}

function method(form, server) {
  const fields = form.fields.map((each) => fieldOf(each, server));
  const tick = element("input", { type: "checkbox", name: form.name });
  // Disabled while hidden: what stands in it then is not asked, and need not be valid.
  const box = element("fieldset", { className: "fields", "aria-label": `settings of ${form.name}` }, ...fields.map((each) => each.shown));
  const fold = () => (box.hidden = box.disabled = !tick.checked || !fields.length);
  tick.addEventListener("change", fold);
  const cost = `${form.exact ? "" : "≥ "}${Math.max(form.rows, 1).toLocaleString("en")}`;
  const shown = element(
    "div",
    { className: "method" },
    element("label", { className: "tick" }, tick, element("span", {}, form.name), element("span", { className: "cost", title: "model evaluations for one map" }, cost)),
    element("small", {}, form.summary),
    box,
  );
  const asked = () => ({ name: form.name, fields: Object.fromEntries(fields.map((each) => [each.name, each.read()])) });
  // Tick or untick; `settings` are the fields that differ from their defaults.
  const set = (settings) => {
    tick.checked = settings !== undefined;
    fields.forEach((each, at) => settings && each.write(settings[each.name] ?? form.fields[at].default));
    fold();
  };
  const words = `${form.name} ${form.family} ${form.summary}`.toLowerCase();
  set(undefined);
  return { name: form.name, family: form.family, words, tick, chosen: () => tick.checked, asked, set, shown };
}

// The methods by family, a search in them, and presets of them. `changed` is called when a preset is taken.
function methodList(server, changed) {
  const methods = server.methods.map((each) => method(each, server));
  const groups = server.families
    .map((family) => [family, methods.filter((each) => each.family === family)])
    .filter(([, members]) => members.length)
    .map(([family, members]) => ({ members, shown: element("section", { className: "family" }, element("h4", {}, family), ...members.map((each) => each.shown)) }));
  const search = element("input", { type: "search", name: "find", placeholder: "such as shap, or noise", autocomplete: "off" });
  const none = element("p", { hidden: true, role: "status" }, "no method fits");
  search.addEventListener("input", () => {
    const sought = search.value.trim().toLowerCase().split(/\s+/);
    methods.forEach((each) => (each.shown.hidden = !sought.every((word) => each.words.includes(word))));
    groups.forEach(({ members, shown }) => (shown.hidden = members.every((each) => each.shown.hidden)));
    none.hidden = methods.some((each) => !each.shown.hidden);
  });
  const chosen = element("summary", {});
  const tell = () => {
    const names = methods.filter((each) => each.chosen()).map((each) => each.name);
    chosen.textContent = names.length ? `${names.length} methods: ${names.join(", ")}` : "Choose methods";
  };
  const radios = server.presets.map((preset, at) => {
    const radio = element("input", { type: "radio", name: "preset", value: String(at) });
    radio.addEventListener("change", () => take(preset));
    return { radio, shown: element("label", { className: "preset" }, radio, element("span", {}, element("b", {}, preset.name), element("small", {}, preset.sentence))) };
  });
  const fill = (preset) => {
    methods.forEach((each) => each.set(preset.methods[each.name]));
    tell();
  };
  const take = (preset) => {
    fill(preset);
    changed();
  };
  methods.forEach((each) =>
    each.tick.addEventListener("change", () => {
      radios.forEach(({ radio }) => (radio.checked = false)); // no longer that preset
      tell();
    }),
  );
  radios[0].radio.checked = true;
  fill(server.presets[0]);
  const list = element("details", { id: "methods" }, chosen, element("label", {}, element("span", {}, "find a method"), search), ...groups.map((each) => each.shown), none, element("p", {}, element("small", {}, "Numbers are model evaluations for one map.")));
  return { methods, shown: [...radios.map((each) => each.shown), list], open: () => (list.open = true) };
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
  const list = methodList(server, changed);
  find("presets").append(...list.shown);

  const state = { classes: [], layer: "", arithmetic: "", shift: 0 };
  const { text } = server; // of a model of texts: what stands in its box at first
  const [label, example] = text ? ["what is explained", text.classes ? "such as next-token('Paris')" : "such as similarity('a text')"] : ["explain another target", "such as margin(281, other=285)"];
  const target = typed(label, "target", server.targets, example, () => {
    classes.show();
    changed();
  });
  const classes = classPicker(server.labels, state, () => target.read() !== "", changed, say);
  const [top, ...search] = classes.shown;
  if (text) {
    find("question").firstElementChild.textContent = "Baseline and view";
    target.write(text.target);
    find("classes").firstElementChild.textContent = "Target";
    find("classes").append(...target.shown, ...(text.classes ? [top] : []), ...(server.labels.length ? search : []));
  } else find("classes").append(top, ...search);

  const view = typed("view: how maps are read and drawn", "view", server.views, "such as signed(smooth=0.02)", changed);
  const absent = text ? "baseline: what absent tokens are" : "baseline: the value of absent pixels";
  const baseline = typed(absent, "baseline", server.baselines, server.baseline || "automatic", changed);
  const layers = [["", server.layer ? `automatic (${server.layer})` : "automatic"], ...server.layers.map((each) => [each.name, `${each.name}  ${each.grid}`])];
  const layer = choice("layer, for methods that use one", "layer", layers, "", (value) => {
    state.layer = value;
    changed();
  });
  find("question").append(
    ...baseline.shown,
    ...view.shown,
    ...(text ? [] : [layer]),
  );
  const tests = element("input", { type: "checkbox", name: "tests", checked: true });
  find("more").append(
    ...(text ? [] : target.shown),
    choice("arithmetic of the model", "arithmetic", [["", "automatic"], ...server.arithmetics.map((each) => [each, each])], "", (value) => {
      state.arithmetic = value;
      changed();
    }),
    element("label", { className: "tick" }, tests, element("span", {}, "test each map")),
  );

  const said = element("output", { id: "prediction" });
  if (text) {
    find("brightness").hidden = true;
    find("classes").append(said);
  } else find("brightness").append(
    slider("added to every pixel", "shift", { min: -0.5, max: 0.5, step: 0.05, value: 0, say: (v) => (v > 0 ? "+" : "") + v.toFixed(2) }, (value) => {
      state.shift = value;
      changed();
    }),
    said,
  );

  return {
    asked: () => ({ methods: list.methods.filter((each) => each.chosen()).map((each) => each.asked()), classes: state.classes, target: target.read(), baseline: baseline.read() || server.baseline, view: view.read(), layer: state.layer, arithmetic: state.arithmetic, tests: tests.checked, ...(text ? {} : { shift: state.shift }) }),
    openMethods: list.open,
    // What the model says of a picture, brightened and plain; the class picker offers the first picture's.
    predicted({ picture, top, plain: before }, about) {
      if (picture === 0) {
        said.replaceChildren();
        classes.offer(top, before ?? top);
      }
      if (!top.length) return; // an embedding
      const words = (each) => named(each.label, each.probability);
      said.append(element("p", {}, about(before ? `the model now says ${words(top[0])}; without the change ${words(before[0])}` : `the model says ${words(top[0])}`)));
    },
  };
}

function named(label, probability) {
  return probability === null ? label : `${label} ${(100 * probability).toFixed(1)}%`;
}

// Buttons for the classes the model thinks of first and those that were searched for; pressed ones are explained.
function classPicker(labels, state, another, changed, say) {
  const top = element("div", { className: "offered", role: "group", "aria-label": "classes to explain" });
  const search = element("input", { type: "search", name: "class", placeholder: "a label or a number" });
  search.setAttribute("list", "labels");
  const list = element("datalist", { id: "labels" }, ...labels.map((label, at) => element("option", { value: `${at} ${label}` })));
  let seen = [];
  let own = null; // the model's first class, explained while no class is chosen
  const explained = () => (state.classes.length || another() || own === null ? state.classes : [own]);
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
    const pressed = explained();
    top.replaceChildren(...[...seen, ...more].map((each) => button(named(each.label, each.probability), () => toggle(each.class), { "aria-pressed": String(pressed.includes(each.class)) })));
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
  const offer = (found, plain) => {
    seen = found;
    own = plain[0]?.class ?? null;
    show();
  };
  return { shown: [top, element("label", {}, element("span", {}, "another class"), search), list], offer, show };
}
