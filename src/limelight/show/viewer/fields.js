// The settings of a method as fields: numbers, boxes to tick, choices, layers, and named values with fields of their own.
import { element } from "./elements.js";

// A field as { name, read, write, shown }; `read` gives text as Python reads it. `server` knows layers and methods.
export function fieldOf(form, server) {
  return form.kind === "named" ? named(form, server) : plainField(form, server);
}

function labelled(name, input) {
  return element("label", {}, element("span", {}, name.replaceAll("_", " ")), input);
}

function plainField({ name, kind, options, optional, whole, default: value }, server) {
  let input;
  if (kind === "switch") input = element("input", { type: "checkbox", checked: value === "True" });
  else if (kind === "choice") input = element("select", {}, ...options.map((each) => element("option", {}, each)));
  else if (kind === "layer") input = element("select", {}, element("option", { value: "" }, "automatic"), ...server.layers.map((each) => element("option", { value: each.name }, each.name)));
  else if (kind === "number") input = element("input", { type: "number", step: whole ? "1" : "any", placeholder: optional ? "automatic" : value });
  else input = element("input", { type: "text", maxLength: 300, spellcheck: false, autocomplete: "off", placeholder: value === "None" ? "automatic" : bare(value), title: "one number, or several with commas" });
  input.name = name;
  const write = (text) => {
    if (kind === "switch") input.checked = text === "True";
    else input.value = text === "None" ? "" : bare(text);
  };
  write(value);
  const read = () => {
    if (kind === "switch") return input.checked ? "True" : "False";
    const text = input.value.trim();
    if (!text) return optional || ["None", "layer"].includes(value) || kind === "layer" ? "None" : value;
    return kind === "numbers" && text.includes(",") && !/[(["']/.test(text) ? `(${text})` : text;
  };
  return { name, kind, read, write, shown: labelled(name, input) };
}

function bare(text) {
  return text.replace(/^[(\[](.*)[)\]]$/, "$1");
}

// A choice of a class, and below it the fields of the one chosen.
function named({ name, options, optional, chosen, default: value }, server) {
  const select = element("select", { name }, optional ? element("option", { value: "" }, "automatic") : null, ...options.map((each) => element("option", { value: each.name }, each.label)));
  const inner = element("div", { className: "inner", role: "group", "aria-label": `settings of ${name}` });
  let fields = [];
  let untouched = value; // as it was given, until something is changed
  const show = () => {
    const option = options.find((each) => each.name === select.value);
    const forms = option ? (option.fields ?? server.methods.find((each) => each.name === option.label)?.fields ?? []) : [];
    fields = forms.filter((each) => each.kind !== "named").map((each) => fieldOf(each, server));
    inner.replaceChildren(...fields.map((each) => each.shown));
    inner.hidden = !fields.length;
  };
  const write = (text) => {
    untouched = text;
    select.value = text === "None" ? "" : text.split("(")[0];
    show();
  };
  select.value = chosen;
  show();
  const touched = () => (untouched = null);
  select.addEventListener("change", () => {
    touched();
    show();
  });
  inner.addEventListener("input", touched);
  const read = () => {
    if (untouched !== null) return untouched;
    if (!select.value) return "None";
    const settings = fields.map((each) => `${each.name}=${each.kind === "choice" || (each.kind === "layer" && each.read() !== "None") ? JSON.stringify(each.read()) : each.read()}`);
    return `${select.value}(${settings.join(", ")})`;
  };
  return { name, kind: "named", read, write, shown: element("div", { className: "named" }, labelled(name, select), inner) };
}
