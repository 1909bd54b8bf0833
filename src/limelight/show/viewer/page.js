// The live page: pictures in, maps out as they are made.
import { button, element } from "./elements.js";
import { buildForm } from "./form.js";
import { ask, events } from "./stream.js";
import { Viewer } from "./viewer.js";

const MOST_PICTURES = 4;
const PAUSE = 250; // milliseconds after the last move of a slider

const find = (id) => document.getElementById(id);
const server = await (await fetch("/api/form")).json();
const form = buildForm(server, soon);
const viewer = new Viewer(find("viewer"), server.viewer);
const pictures = [];
let running = null;
let timer = null;

find("model").textContent = `${server.model} · limelight ${server.version}`;

function say(text, refused = false) {
  find("status").textContent = text;
  find("status").classList.toggle("refused", refused);
}

function showPictures() {
  find("pictures").replaceChildren(
    ...pictures.map((each) =>
      element("li", { title: each.notes.join("; ") }, element("img", { src: each.picture.src, alt: "" }), ` ${each.name} `, button("remove", () => {
        pictures.splice(pictures.indexOf(each), 1);
        showPictures();
      })),
    ),
  );
  find("explain").disabled = !pictures.length;
}

async function bring(name, path, options) {
  try {
    const found = await (await ask(path, options, say)).json();
    pictures.splice(0, Math.max(0, pictures.length - MOST_PICTURES + 1));
    pictures.push({ name, ...found });
    showPictures();
    return true;
  } catch (error) {
    say(`${name}: ${error.message}`, true);
    return false;
  }
}

async function bringFiles(files) {
  pictures.length = 0;
  let brought = false;
  for (const file of [...files].slice(0, MOST_PICTURES)) {
    if (file.size > server.limits.body) say(`${file.name}: ${file.size} bytes; the most is ${server.limits.body}`, true);
    else brought = (await bring(file.name, "/api/pictures", { body: file, headers: { "content-type": file.type } })) || brought;
  }
  if (brought) await explain();
}

// Explain again once the reader has stopped changing things.
function soon() {
  clearTimeout(timer);
  if (pictures.length) timer = setTimeout(explain, PAUSE);
}

async function explain() {
  clearTimeout(timer);
  running?.abort();
  const mine = (running = new AbortController());
  const question = { ...form.asked(), pictures: pictures.map((each) => each.id) };
  find("cancel").disabled = false;
  find("progress").hidden = false;
  find("progress").value = 0;
  say("asking");
  try {
    const response = await ask("/api/explain", { body: JSON.stringify(question), headers: { "content-type": "application/json" }, signal: mine.signal }, say);
    await show(question, events(response), mine);
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, true);
    else if (running === mine) say("cancelled");
  }
  if (running !== mine) return;
  running = null;
  find("cancel").disabled = true;
  find("progress").hidden = true;
}

async function show(question, answers, mine) {
  const rows = [];
  const shown = [];
  const names = pictures.map((each) => each.name);
  const total = names.length * Math.max(question.classes.length, 1) * question.methods.length;
  let made = 0;
  let now = "";
  viewer.clear();
  const rowOf = ({ row, label }) => (rows[row] ??= viewer.addRow({ label, picture: viewer.addPicture(shown.at(-1).source), maps: [] }));
  for await (const [event, data] of answers) {
    if (running !== mine) return;
    if (event === "queued" && data.before) say(`waiting for ${data.before} before you`);
    if (event === "prediction") {
      shown.push({ source: data.shown });
      if (data.picture === 0) form.predicted(data);
    }
    if (event === "begun") {
      now = `${data.method}, map ${made + 1} of ${total}`;
      rowOf({ row: data.row, label: names.length > 1 ? `${names[data.picture]}: ${data.target}` : data.target });
      say(now);
    }
    if (event === "progress") say(`${now}: ${data.rows} model rows`);
    if (event === "map") rows[data.row].byColumn[data.column] = viewer.addMap(rows[data.row], data.map);
    if (event === "card") rows[data.row].byColumn[data.column].setCard(data.sections);
    if (event === "failed") rows[data.row].cells.append(element("figure", { className: "warning", dataset: { failed: data.method } }, element("h3", {}, data.method), element("p", {}, data.message)));
    if (event === "map" || event === "failed") find("progress").value = (made += 1) / total;
    if (event === "stopped") say(data.message, true);
    if (event === "done") say(`done: ${made} maps, ${data.rows} model rows`);
  }
}

find("files").addEventListener("change", (event) => bringFiles(event.target.files));
find("demo").addEventListener("click", async () => {
  pictures.length = 0;
  if (await bring("cat", "/api/demo", {})) await explain();
});
find("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (pictures.length) explain();
});
find("cancel").addEventListener("click", () => running?.abort());
// Anywhere on the page: a picture dropped beside the box would otherwise replace the page.
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  find("drop").classList.add("over");
});
document.addEventListener("dragleave", () => find("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  find("drop").classList.remove("over");
  if (event.dataTransfer.files.length) bringFiles(event.dataTransfer.files);
});
