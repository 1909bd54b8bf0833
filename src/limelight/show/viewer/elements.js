// Small makers of elements. Text is only ever set as text, never as markup.

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "dataset") Object.assign(made.dataset, value);
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

// A labelled list to choose from; `options` are [value, text].
export function choice(label, name, options, value, changed) {
  const select = element("select", { name }, ...options.map(([key, text]) => element("option", { value: key }, text)));
  select.value = value;
  select.addEventListener("change", () => changed(select.value));
  return element("label", {}, element("span", {}, label), select);
}

// A labelled slider; `say` puts its value in words beside it.
export function slider(label, name, { min, max, step, value, say }, changed) {
  const input = element("input", { type: "range", name, min, max, step, value });
  const output = element("output", {}, say(Number(value)));
  input.addEventListener("input", () => {
    output.textContent = say(Number(input.value));
    changed(Number(input.value));
  });
  return element("label", {}, element("span", {}, label, " ", output), input);
}

export function button(text, pressed, properties = {}) {
  const made = element("button", { type: "button", ...properties }, text);
  made.addEventListener("click", pressed);
  return made;
}
