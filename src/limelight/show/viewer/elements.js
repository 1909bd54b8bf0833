// Small makers of elements. Text is only ever set as text, never as markup.

const WORDS = new Set(["title", "alt", "aria-label"]);
// Control characters, and those that turn the direction of what stands after them.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

// Words from elsewhere (labels, names of files) that can't rearrange the words beside them.
export function plain(text) {
  return text.replace(UNSEEN, "\ufffd");
}

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "dataset") Object.assign(made.dataset, value);
    else if (WORDS.has(name)) made.setAttribute(name, plain(value));
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null).map((child) => (typeof child === "string" ? plain(child) : child)));
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
  const said = element("span", {}); // no output element: the label would be that one's and not the slider's
  const tell = () => {
    said.textContent = say(Number(input.value));
    input.setAttribute("aria-valuetext", said.textContent);
  };
  tell();
  input.addEventListener("input", () => {
    tell();
    changed(Number(input.value));
  });
  return element("label", {}, element("span", {}, label, " ", said), input);
}

export function button(text, pressed, properties = {}) {
  const made = element("button", { type: "button", ...properties }, text);
  made.addEventListener("click", pressed);
  return made;
}

// What is shown in `width` x `height` pixels, with a mark that `point` moves to one of them; null takes it away.
export function framed(shown, width, height) {
  const mark = element("span", { className: "mark", hidden: true, "aria-hidden": "true" });
  if (width < 160) shown.classList.add("coarse"); // each pixel a square
  const point = (at) => {
    mark.hidden = !at;
    if (at) [mark.style.left, mark.style.top] = [`${(100 * (at[0] + 0.5)) / width}%`, `${(100 * (at[1] + 0.5)) / height}%`];
  };
  return { frame: element("div", { className: "frame" }, shown, mark), point };
}
