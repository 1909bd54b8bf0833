// The live page: pictures in, maps out as they are made.
import { button, element, plain } from "./elements.js";
import { buildForm } from "./form.js";
import { ask, events } from "./stream.js";
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
find("model").textContent = plain(`${server.model} · limelight ${server.version}`);
find("demo").disabled = false;

function showPictures() {
  find("pictures").replaceChildren(
    ...pictures.map((each) => {
      const remove = button("remove", () => {
        pictures = pictures.filter((other) => other !== each);
        showPictures();
        find("files").focus();
      }, { "aria-label": `remove ${each.name}` });
      return element("li", {}, element("img", { src: each.picture.src, alt: "" }), ` ${each.name} `, remove, ...each.notes.map((note) => element("small", {}, note)));
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
  say(pictures.length ? "" : "Add a picture.");
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
  if (pictures.length) timer = setTimeout(explain, PAUSE);
}

async function explain() {
  clearTimeout(timer);
  if (!find("ask").checkValidity()) {
    find("methods").parentElement.open = true;
    find("ask").reportValidity(); // the browser says what is wrong, where it is
    return;
  }
  const question = { ...form.asked(), pictures: pictures.map((each) => each.id) };
  if (!question.methods.length) {
    say("select a method", true);
    return;
  }
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
  const names = pictures.map((each) => each.name);
  const total = names.length * Math.max(question.classes.length, 1) * question.methods.length;
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
      rows[data.row] ??= viewer.addRow({ label: about(data, data.target), picture: shown, maps: [] });
    },
    progress: ({ rows: spent }) => say(`${now}: ${spent} model rows`),
    map({ row, column, map }) {
      rows[row].byColumn[column] = viewer.addMap(rows[row], map);
      made += 1;
      next();
    },
    card: ({ row, column, sections }) => rows[row].byColumn[column].setCard(sections),
    failed({ row, method, message }) {
      rows[row].cells.append(element("figure", { className: "warning", dataset: { failed: method } }, element("h3", {}, `⚠ ${method}`), element("p", {}, message)));
      failed += 1;
      next();
    },
    stopped: ({ message }) => say(message, true),
    done: ({ rows: spent }) => say(`done: ${made} maps${failed ? `, ${failed} failed` : ""}, ${spent} model rows`, failed > 0),
  };
  for await (const [event, data] of answers) {
    if (running !== mine) return;
    on[event](data);
  }
}

find("files").addEventListener("change", (event) => event.target.files.length && bringFiles(event.target.files));
find("demo").addEventListener("click", () => bring([["cat", "/api/demo", {}]]));
find("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (pictures.length) explain();
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
  event.preventDefault();
  find("drop").classList.remove("over");
  if (event.dataTransfer.files.length) bringFiles(event.dataTransfer.files);
});
