// The box of a text, in place of pictures: what is written in it is explained.
import { element } from "./elements.js";

// Fills `place`; `changed` is called with every letter, `explain` by Control and Enter.
export function textBox({ first, longest }, place, changed, explain) {
  const input = element("textarea", { name: "text", rows: 7, value: first, spellcheck: false, dir: "auto", placeholder: "a text to explain" });
  const read = () => input.value;
  const check = () => {
    const count = [...read()].length;
    input.setCustomValidity(count > longest ? `${count} characters; the page explains up to ${longest}` : "");
    changed();
  };
  input.addEventListener("input", check);
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    explain();
  });
  place.replaceChildren(element("label", { className: "text" }, element("span", {}, "text"), input));
  return { read, ready: () => read().trim() !== "", focus: () => input.focus() };
}
