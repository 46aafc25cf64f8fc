// The page: its views by the address' fragment, and how its parts are connected.
import { Detail } from "./detail.js";
import { byId, count, printable, setText } from "./dom.js";
import { FilterForm, encoded } from "./filter.js";
import { Picture } from "./picture.js";
import { Policies } from "./policies.js";
import { RecordStore } from "./records.js";
import { endAt } from "./graph.js";
import { Status } from "./status.js";
import { RecordStream } from "./stream.js";
import { VerdictList } from "./verdicts.js";

const VIEWS = ["verdicts", "picture", "policies", "health-details"];
const WITH_RECORDS = new Set(["verdicts", "picture"]);
const DRAW_MILLISECONDS = 300;
const NEWS_MILLISECONDS = 10000;
const HIDDEN_MILLISECONDS = 60000;
const INVALID = 400;

const store = new RecordStore();
let waiting = []; // lines that aren't drawn yet
let drawing = 0;
let state = { kind: "connecting", words: "" };
let news = { records: 0, denied: 0 };
let hiding = 0;

const detail = new Detail(() => verdicts.close(), (field, end) => form.add({ field, not: false, term: endAt(end, "pod").term }));
const verdicts = new VerdictList(store, (record, opener) => detail.record(record, opener));
const picture = new Picture(store, (edge, opener) => detail.edge(edge, opener), (end, side) => {
  if (end.term) form.add({ field: side, not: false, term: end.term });
});
const policies = new Policies();
const stream = new RecordStream(received, changed);
const form = new FilterForm((filter) => {
  store.clear();
  waiting = [];
  verdicts.draw();
  picture.draw();
  stream.start(filter);
});

function received(lines) {
  waiting.push(...lines);
  if (!drawing) drawing = setTimeout(show, DRAW_MILLISECONDS);
}

function show() {
  drawing = 0;
  const added = store.add(waiting);
  waiting = [];
  news.records += added.length;
  news.denied += added.filter(({ record }) => record.disposition === "deny").length;
  verdicts.add(added);
  picture.draw();
  showState();
}

function changed(now) {
  state = now;
  form.problem(now.kind === "refused" && now.status === INVALID ? printable(now.words) : "");
  showState();
}

function showState() {
  const node = byId("stream-state");
  node.className = { live: "live", waiting: "broken", refused: "broken" }[state.kind] || "";
  setText(node, printable(state.words));
  const filtered = form.terms.length > 0;
  const none = filtered ? "No record matches the filter, of those that the agent keeps; new ones that do will appear here." : "Nothing is logged yet: records appear here as connections are judged. Which ones are logged, the NetworkLogging object says.";
  const words = store.records.length ? "" : state.kind === "live" ? none : state.kind === "refused" ? "The agent did not take the question." : "No records yet.";
  setText(byId("verdicts-empty"), words);
  setText(byId("picture-empty"), words);
}

function route() {
  const wanted = location.hash.slice(1);
  const view = VIEWS.includes(wanted) ? wanted : VIEWS[0];
  for (const name of VIEWS) byId(`${name}-view`).hidden = name !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  byId("filter").hidden = !WITH_RECORDS.has(view);
  document.querySelector(".stream").hidden = !WITH_RECORDS.has(view);
  picture.draw();
  policies.refresh(true);
}

// A list that changes all the time isn't read out; how much came is, now and then.
setInterval(() => {
  if (news.records) byId("news").textContent = `${count(news.records, "new record")}, ${news.denied.toLocaleString("en")} denied`;
  news = { records: 0, denied: 0 };
}, NEWS_MILLISECONDS);

// A page that no user looks at asks for nothing.
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) hiding = setTimeout(() => stream.stop("paused while this page is hidden"), HIDDEN_MILLISECONDS);
  else if (state.kind === "stopped") stream.start(encoded(form.terms));
});
addEventListener("hashchange", route);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment names the view
  byId("content").focus();
});

new Status();
route();
stream.start(encoded(form.terms));
