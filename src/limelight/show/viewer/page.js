// The live page: pictures or a text in, maps out as they are made.
import { button, element, plain } from "./elements.js";
import { buildForm } from "./form.js";
import { ask, events } from "./stream.js";
import { textBox } from "./textbox.js";
import { Viewer } from "./viewer.js";

const MOST_PICTURES = 4;
const PAUSE = 250; // milliseconds after the last move of a slider

const find = (id) => document.getElementById(id);
let pictures = [];
let bringing = null; // the latest bringing of pictures; an earlier one gives way to it
let running = null; // the latest question
let timer = null;

function say(text, refused = false) {
  find("status").textContent = plain(text);
  find("status").classList.toggle("refused", refused);
}

const server = await ask("/api/form", {}).then((response) => response.json()).catch((error) => {
  say(error.message, true);
  throw error;
});
const form = buildForm(server, soon, say);
const viewer = new Viewer(find("viewer"), server.viewer);
find("run").append(viewer.drawing);
find("model").textContent = plain(`${server.model} · limelight ${server.version}`);
const box = server.text ? textBox(server.text, find("drop"), () => (find("explain").disabled = !ready()), () => ready() && explain()) : null;
const empty = box ? "Write a text." : "Add a picture.";
const ready = () => (box ? box.ready() : pictures.length > 0);
if (!box) showDemo();

function showDemo() {
  find("demo").disabled = !server.demo;
  find("demo").hidden = !server.demo;
}

function showPictures() {
  find("pictures").replaceChildren(
    ...pictures.map((each) => {
      const remove = button("remove", () => {
        pictures = pictures.filter((other) => other !== each);
        showPictures();
        find("files").focus();
      }, { "aria-label": `remove ${each.name}` });
      return element("li", {}, element("img", { src: each.picture.src, alt: "" }), element("span", {}, each.name), remove, ...each.notes.map((note) => element("small", {}, note)));
    }),
  );
  find("explain").disabled = !pictures.length;
}

// Take these pictures in place of those before, [name, path, options] each, and explain them; those that are refused
// stay named.
async function bring(wanted, refusals = []) {
  const mine = (bringing = {});
  const brought = [];
  find("refusals").replaceChildren();
  for (const [name, path, options] of wanted) {
    say(`sending ${name}`);
    try {
      brought.push({ name, ...(await (await ask(path, { method: "POST", ...options }, say)).json()) });
    } catch (error) {
      refusals.push(`${name}: ${error.message}`);
    }
    if (bringing !== mine) return;
  }
  find("refusals").replaceChildren(...refusals.map((each) => element("li", {}, each)));
  say(pictures.length ? "" : empty);
  if (!brought.length) return;
  pictures = brought;
  showPictures();
  await explain();
}

function bringFiles(files) {
  const most = server.limits.body;
  const refusals = [...files].slice(MOST_PICTURES).map((file) => `${file.name}: left out; the page shows at most ${MOST_PICTURES} pictures at once`);
  const some = [...files].slice(0, MOST_PICTURES);
  for (const file of some) if (file.size > most) refusals.push(`${file.name}: ${file.size} bytes; the most is ${most}`);
  const small = some.filter((file) => file.size <= most);
  return bring(small.map((file) => [file.name, "/api/pictures", { body: file, headers: { "content-type": file.type } }]), refusals);
}

// Explain again once the reader has stopped changing things.
function soon() {
  clearTimeout(timer);
  if (ready()) timer = setTimeout(explain, PAUSE);
}

async function explain() {
  clearTimeout(timer);
  if (!find("ask").checkValidity()) {
    drawer(true);
    form.openMethods();
    find("ask").reportValidity(); // the browser says what is wrong, where it is
    return;
  }
  const question = { ...form.asked(), ...(box ? { text: box.read() } : { pictures: pictures.map((each) => each.id) }) };
  if (!question.methods.length) {
    say("select a method", true);
    return;
  }
  drawer(false);
  running?.abort();
  const mine = (running = new AbortController());
  find("cancel").disabled = false;
  find("progress").hidden = false;
  find("progress").value = 0;
  say("sending the request");
  try {
    const options = { method: "POST", body: JSON.stringify(question), headers: { "content-type": "application/json" }, signal: mine.signal };
    const response = await ask("/api/explain", options, (words) => running === mine && say(words));
    await show(question, events(response), mine);
  } catch (error) {
    if (running === mine) say(error.name === "AbortError" ? "cancelled" : error.message, error.name !== "AbortError");
  }
  if (running !== mine) return;
  running = null;
  viewer.settle();
  find("cancel").disabled = true;
  find("progress").hidden = true;
}

async function show(question, answers, mine) {
  const rows = [];
  const names = box ? ["the text"] : pictures.map((each) => each.name);
  const targets = question.classes.length + (question.target ? 1 : 0);
  const total = names.length * Math.max(targets, 1) * question.methods.length;
  let shown = null;
  let made = 0;
  let failed = 0;
  let now = "";
  viewer.clear();
  const about = (data, text) => (names.length > 1 ? `${names[data.picture]}: ${text}` : text);
  const next = () => {
    find("progress").value = (made + failed) / total;
  };
  const on = {
    queued: ({ before }) => before && say(`waiting for ${before} earlier requests`),
    prediction(data) {
      shown = viewer.addPicture(data.shown);
      form.predicted(data, (text) => about(data, text));
    },
    begun(data) {
      now = `${data.method}, map ${made + failed + 1} of ${total}`;
      say(now);
      rows[data.row] ??= viewer.addRow({ label: about(data, data.target), picture: shown, maps: [], expected: question.methods.length });
    },
    progress: ({ rows: spent }) => say(`${now}: ${spent} model evaluations`),
    map({ row, column, map }) {
      rows[row].byColumn[column] = Object.assign(viewer.addMap(rows[row], map), { id: map.id });
      made += 1;
      next();
    },
    card: ({ row, column, card, more }) => setCard(rows[row], rows[row].byColumn[column], card, more),
    summary({ row, summary }) {
      viewer.setSummary(rows[row], summary);
    },
    failed({ row, method, message }) {
      rows[row].cells.append(element("figure", { className: "warning", dataset: { failed: method } }, element("h3", {}, `⚠ ${method}`), element("p", {}, message)));
      failed += 1;
      next();
    },
    stopped: ({ message }) => say(message, true),
    done: ({ rows: spent }) => say(`done: ${made} maps${failed ? `, ${failed} failed` : ""}, ${spent} model evaluations`, failed > 0),
  };
  for await (const [event, data] of answers) {
    if (running !== mine) return;
    on[event](data);
  }
}

// A map's card; where tests were left out, with a button that runs them and then sums up the row again.
function setCard(row, cell, card, more) {
  const test = async () => {
    const question = { map: cell.id, row: row.byColumn.filter(Boolean).map((each) => each.id) };
    say(`testing ${cell.figure.dataset.method}`);
    try {
      const options = { method: "POST", body: JSON.stringify(question), headers: { "content-type": "application/json" } };
      for await (const [event, data] of events(await ask("/api/tests", options, say))) {
        if (event === "progress") say(`testing ${cell.figure.dataset.method}: ${data.rows} model evaluations`);
        if (event === "stopped") say(data.message, true);
        if (event === "done") say(`done: tested ${cell.figure.dataset.method}, ${data.rows} model evaluations`);
        if (event === "card") {
          setCard(row, cell, data.card, data.more);
          cell.figure.querySelector(".card").open = true;
        }
        if (event === "summary") {
          viewer.setSummary(row, { ...row.summary, agreed: data.summary.agreed, region: data.summary.region, furthest: data.summary.furthest, held: data.summary.held });
        }
      }
    } catch (error) {
      say(error.message, true);
    }
  };
  cell.setCard(card, more ? test : null);
}

// The rail where it is a drawer.
function drawer(open) {
  find("ask").classList.toggle("open", open);
  find("settings").setAttribute("aria-expanded", String(open));
  find("settings").textContent = open ? "Close" : "Settings";
}

find("settings").addEventListener("click", () => {
  drawer(!find("ask").classList.contains("open"));
  if (find("ask").classList.contains("open")) (box ?? find("files")).focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !find("ask").classList.contains("open")) return;
  drawer(false);
  find("settings").focus();
});

const bringDemo = () => bring([["demonstration", "/api/demo", {}]]);
if (!box) {
  find("files").addEventListener("change", (event) => event.target.files.length && bringFiles(event.target.files));
  find("demo").addEventListener("click", bringDemo);
}
find("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (ready()) explain();
});
find("cancel").addEventListener("click", () => {
  running?.abort();
  find("explain").focus();
});
// Anywhere on the page: a picture dropped beside the box would otherwise replace the page.
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  find("drop").classList.add("over");
});
document.addEventListener("dragleave", () => find("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  if (box && !event.dataTransfer.files.length) return; // letters dragged into the box
  event.preventDefault();
  find("drop").classList.remove("over");
  if (!event.dataTransfer.files.length) return;
  if (box) say("this page explains texts and takes no files: write the text into its box", true);
  else bringFiles(event.dataTransfer.files);
});
// Something to look at, until a picture or text takes its place.
if (box) {
  say(empty);
  find("explain").disabled = !ready();
  if (ready()) await explain();
} else if (server.demo && !pictures.length && !bringing) await bringDemo();
