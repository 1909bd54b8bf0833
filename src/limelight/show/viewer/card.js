// A map's trust card: its verdict in one line while closed; open, a table of figure, limit and a plain sentence.
import { button, element } from "./elements.js";

const MARKS = { pass: "good", above: "good", FAIL: "bad", "NOT ABOVE": "bad" };
const VERDICTS = { "holds up": "good", "does not hold up": "bad" };

// The verdict's word apart from what follows it.
export function verdictOf(line) {
  const [word, ...rest] = line.split(":");
  return [element("b", { className: VERDICTS[word] ?? "plain" }, word), rest.length ? `:${rest.join(":")}` : ""];
}

// `more`, if given, runs the tests that were left out. Where nothing was tested and nothing can be, the line alone, or
// null without one.
export function cardOf({ verdict, sections }, more = null) {
  const entries = sections.flatMap((section) => section.entries);
  if (!entries.length && !more) return verdict ? element("p", { className: "card muted" }, verdict) : null;
  const leftOut = entries.filter(([, , , , , without]) => without);
  return element(
    "details",
    { className: "card" },
    element("summary", {}, ...(verdict ? verdictOf(verdict) : ["not tested"])),
    ...sections.flatMap(tableOf),
    ...entries.filter(isSilent).map(([, name, , words]) => element("p", { className: "muted" }, `${name}: ${words}`)),
    ...sections.flatMap(({ pictures }) => pictures).map(([name, src]) => element("details", { className: "behind" }, element("summary", {}, name), element("img", { src, alt: `the pictures behind ${name}` }))),
    leftOut.length ? element("p", { className: "muted" }, `left out to save model evaluations: ${leftOut.map(([, name]) => name).join(", ")}`) : null,
    more && (leftOut.length || !entries.length) ? element("p", {}, button(leftOut.length ? "Run the tests left out" : "Test this map", more)) : null,
  );
}

// A test that does not apply, with the reason.
function isSilent([, name, figure, , , without]) {
  return name && figure === "-" && !without;
}

function tableOf({ title, entries }) {
  const cautions = entries.filter(([, name]) => !name).map(([, , , words]) => element("li", {}, words));
  const shown = entries.filter(([, name, figure, , , without]) => name && figure !== "-" && !without);
  const head = element("thead", {}, element("tr", {}, ...["test", "figure", "limit"].map((each) => element("th", { scope: "col" }, each))));
  return [
    cautions.length || shown.length ? element("h4", {}, title) : null,
    shown.length ? element("table", {}, head, ...shown.map(rowsOf)) : null,
    cautions.length ? element("ul", {}, ...cautions) : null,
  ].filter((each) => each !== null);
}

// Two lines a test, so that the sentence has the table's whole width.
function rowsOf([mark, name, figure, words, limit]) {
  const verdict = mark === "-" ? null : element("b", { className: MARKS[mark] ?? "plain" }, mark);
  return element(
    "tbody",
    {},
    element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, figure), element("td", {}, limit || "none")),
    element("tr", { className: "words" }, element("td", { colSpan: 3 }, verdict, verdict ? " " : "", words)),
  );
}
