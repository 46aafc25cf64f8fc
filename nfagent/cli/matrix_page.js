"use strict";
// Text of objects reaches the page by textContent alone.
const found = JSON.parse(document.getElementById("matrix").textContent);
const SHOWN = 60;
const WORDS = { a: "allowed", d: "denied", s: "allowed in part", u: "not known", n: "no such connection" };
const SYMBOLS = { a: "+", d: "−", s: "~", u: "?", n: "·", ".": "" };
const count = found.ends.length;
const start = { clients: 0, servers: 0 };
let rows = [];
let columns = [];
let place = [0, 0];
const byId = (id) => document.getElementById(id);

function make(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "text") node.textContent = value;
    else if (key === "click") node.addEventListener("click", value);
    else if (value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

const letter = (client, server) => found.letters[client * count + server];
const label = (at) => `${found.ends[at].name}, ${found.ends[at].pods} ${found.ends[at].pods === 1 ? "Pod" : "Pods"}`;

function lanes(said) {
  const lists = new Map();
  for (const item of said) {
    const key = `${item[3]} ${item[4]}`;
    if (!lists.has(key)) lists.set(key, []);
    lists.get(key).push(item);
  }
  return lists;
}

// What both ends say together: ranges of ports in which neither changes. Items: protocol, first, last, family, nodes, reason.
function joined(client, server) {
  const here = lanes(found.said[found.egress[client * count + server]]);
  const there = lanes(found.said[found.ingress[client * count + server]]);
  const result = [];
  for (const key of (here.size > 1 ? here : there).keys()) {
    const left = here.get(key) || here.get("0 ");
    const right = there.get(key) || there.get("0 ");
    const where = (here.size > 1 ? here : there).get(key)[0].slice(3, 5);
    const add = (item, one, other) => result.push({
      protocol: item[0], first: item[1], last: item[2], family: where[0], nodes: where[1], egress: one, ingress: other,
      allowed: found.reasons[one][0] && found.reasons[other][0],
    });
    if (left[0][0] === "any") right.forEach((item) => add(item, left[0][5], item[5]));
    else if (right[0][0] === "any") left.forEach((item) => add(item, item[5], right[0][5]));
    else {
      let i = 0;
      let j = 0;
      while (i < left.length && j < right.length) {
        const [one, other] = [left[i], right[j]];
        const last = Math.min(one[2], other[2]);
        add([one[0], Math.max(one[1], other[1]), last], one[5], other[5]);
        i += one[2] === last ? 1 : 0;
        j += other[2] === last ? 1 : 0;
      }
    }
  }
  const plain = (family) => JSON.stringify(result.filter((item) => item.family === family).map((item) => ({ ...item, family: 0 })));
  const families = [...new Set(result.map((item) => item.family))];
  return families.length > 1 && plain(families[0]) === plain(families[1]) ? JSON.parse(plain(families[0])) : result;
}

function trafficText(item) {
  let text = `${item.first}-${item.last}/${item.protocol}`;
  if (item.protocol === "any") text = found.ports.length ? found.ports.join(", ") : "anything";
  else if (item.protocol === "portless") text = "ICMP and other protocols without ports";
  else if (item.first === 1 && item.last === 65535) text = `any ${item.protocol}`;
  else if (item.first === item.last) text = `${item.first}/${item.protocol}`;
  if (item.family) text += `, IPv${item.family}`;
  if (item.nodes) text += item.nodes === "same" ? ", on the same node" : ", from other nodes";
  return text;
}

function members(at) {
  const end = found.ends[at];
  const list = make("ul");
  for (const name of end.names) list.append(make("li", { text: name }));
  if (end.pods > end.names.length) list.append(make("li", { text: `and ${end.pods - end.names.length} more Pods` }));
  const parts = [make("h3", { text: label(at) })];
  if (end.labels.length) parts.push(make("p", { class: "faint", text: `labels: ${end.labels.join(" | ")}${end.label_sets > end.labels.length ? " | …" : ""}` }));
  if (end.namespace_count > 1) parts.push(make("p", { class: "faint", text: `namespaces: ${end.namespaces.join(", ")}` }));
  return [...parts, list];
}

function show(title, ...parts) {
  byId("detail").replaceChildren(make("h2", { text: title }), ...parts);
  byId("detail").hidden = false;
  byId("detail").scrollTop = 0;
  byId("detail").scrollIntoView({ block: "nearest" });
}

// Ranges with the same verdict and reasons share a row; the row with most of them is "everything else".
function alike(items) {
  const rows = new Map();
  for (const item of items) {
    const key = [item.egress, item.ingress, item.family, item.nodes].join(" ");
    if (!rows.has(key)) rows.set(key, { ...item, texts: [] });
    rows.get(key).texts.push(trafficText(item));
  }
  const list = [...rows.values()];
  const longest = list.reduce((most, row) => (row.texts.length > most.texts.length ? row : most), list[0]);
  if (list.length > 1 && longest.texts.length > 2 && !items.some((item) => item.family || item.nodes)) longest.texts = ["everything else"];
  return list.sort((one, other) => other.allowed - one.allowed);
}

function cellRow(item) {
  const verdict = make("span", { class: `verdict ${item.allowed ? "a" : "d"}`, text: item.allowed ? "allowed" : "denied" });
  return make("tr", {},
    make("td", { text: item.texts.slice(0, 20).join(", ") + (item.texts.length > 20 ? ", …" : ""), "data-name": "traffic" }),
    make("td", { "data-name": "verdict" }, verdict),
    make("td", { text: found.reasons[item.egress][1], "data-name": "at the client" }),
    make("td", { text: found.reasons[item.ingress][1], "data-name": "at the server" }));
}

function showCell(client, server) {
  const verdict = letter(client, server);
  const title = `${found.ends[client].name} → ${found.ends[server].name}: ${WORDS[verdict]}`;
  const items = joined(client, server);
  const parts = [];
  if (verdict === "u" || verdict === "n") parts.push(make("p", { text: found.reasons[items[0].ingress][1] }));
  else {
    const head = ["traffic", "verdict", "at the client (egress)", "at the server (ingress)"];
    parts.push(make("table", {},
      make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col", text })))),
      make("tbody", {}, ...alike(items).map(cellRow))));
    const shared = [client, server].filter((at) => found.ends[at].groups > 1);
    if (shared.length) parts.push(make("p", { class: "faint", text: `Pods of other namespaces share a row where no verdict differs: the reasons are those of ${shared.map((at) => found.ends[at].names[0]).join(" and ")}.` }));
  }
  show(title, ...parts, ...members(client), ...(client === server ? [] : members(server)));
}

function showEnd(at, asClient) {
  const groups = { a: [], s: [], u: [], d: [] };
  for (let other = 0; other < count; other += 1) {
    const [client, server] = asClient ? [at, other] : [other, at];
    const list = groups[letter(client, server)];
    if (list) list.push([client, server, other]);
  }
  const parts = [];
  for (const [verdict, list] of Object.entries(groups)) {
    if (!list.length) continue;
    const items = list.slice(0, 200).map(([client, server, other]) => make("li", {},
      make("button", { type: "button", text: found.ends[other].name, click: () => showCell(client, server) })));
    if (list.length > 200) items.push(make("li", { text: `and ${list.length - 200} more` }));
    parts.push(make("h3", { text: `${WORDS[verdict]} (${list.length})` }), make("ul", {}, ...items));
  }
  show(asClient ? `What ${found.ends[at].name} reaches` : `What reaches ${found.ends[at].name}`, ...parts, ...members(at));
}

function cell(client, server, row, column) {
  const verdict = letter(client, server);
  if (verdict === ".") return make("td", { role: "gridcell", tabindex: "-1", "aria-label": "not judged" });
  const words = `${found.ends[client].name} to ${found.ends[server].name}: ${WORDS[verdict]}`;
  return make("td", {
    role: "gridcell", class: verdict, text: SYMBOLS[verdict], "aria-label": words, title: words,
    tabindex: row === place[0] && column === place[1] ? "0" : "-1",
  });
}

function header(at, asClient) {
  const text = asClient ? `${at + 1} ${found.ends[at].name} (${found.ends[at].pods})` : String(at + 1);
  const words = `${asClient ? "client" : "server"} ${at + 1}: ${label(at)}`;
  const button = make("button", {
    type: "button", class: `head${found.ends[at].inside ? "" : " outside"}`, text, title: words, "aria-label": words,
    click: () => showEnd(at, asClient),
  });
  return make("th", { scope: asClient ? "row" : "col", role: asClient ? "rowheader" : "columnheader" }, button);
}

function matching(filter) {
  const words = filter.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const all = found.ends.map((_, at) => at);
  return all.filter((at) => words.every((word) => `${at + 1} ${found.ends[at].name} ${found.ends[at].names.join(" ")}`.toLowerCase().includes(word)));
}

function pager(name, total) {
  const buttons = byId(`${name}-pages`);
  buttons.hidden = total <= SHOWN;
  const [before, after] = buttons.querySelectorAll("button");
  before.disabled = start[name] === 0;
  after.disabled = start[name] + SHOWN >= total;
}

function draw() {
  const clients = matching(byId("clients").value);
  const servers = matching(byId("servers").value);
  rows = clients.slice(start.clients, start.clients + SHOWN);
  columns = servers.slice(start.servers, start.servers + SHOWN);
  place = [Math.min(place[0], Math.max(rows.length - 1, 0)), Math.min(place[1], Math.max(columns.length - 1, 0))];
  const grid = byId("grid");
  grid.tHead.replaceChildren(make("tr", { role: "row" },
    make("th", { scope: "col", role: "columnheader", text: "client ↓  server →" }), ...columns.map((at) => header(at, false))));
  grid.tBodies[0].replaceChildren(...rows.map((client, row) => make("tr", { role: "row" },
    header(client, true), ...columns.map((server, column) => cell(client, server, row, column)))));
  grid.setAttribute("aria-rowcount", String(clients.length + 1));
  grid.setAttribute("aria-colcount", String(servers.length + 1));
  byId("shown").textContent = `${rows.length} of ${clients.length} clients, ${columns.length} of ${servers.length} servers`;
  pager("clients", clients.length);
  pager("servers", servers.length);
}

function cellAt(row, column) {
  return byId("grid").tBodies[0].rows[row].cells[column + 1];
}

function go(row, column) {
  if (row < 0 || column < 0 || row >= rows.length || column >= columns.length) return;
  cellAt(...place).tabIndex = -1;
  place = [row, column];
  const target = cellAt(row, column);
  target.tabIndex = 0;
  target.focus();
  target.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function open(target) {
  const row = target.parentNode.sectionRowIndex;
  const column = target.cellIndex - 1;
  if (letter(rows[row], columns[column]) === ".") return;
  for (const before of byId("grid").querySelectorAll("[aria-selected]")) before.removeAttribute("aria-selected");
  target.setAttribute("aria-selected", "true");
  go(row, column);
  showCell(rows[row], columns[column]);
}

byId("grid").addEventListener("click", (event) => {
  const target = event.target.closest("td");
  if (target) open(target);
});
byId("grid").addEventListener("keydown", (event) => {
  const target = event.target.closest("td");
  if (!target) return;
  const [row, column] = place;
  const moves = {
    ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
    Home: [row, 0], End: [row, columns.length - 1], PageUp: [0, column], PageDown: [rows.length - 1, column],
  };
  if (event.key in moves) go(...moves[event.key]);
  else if (event.key === "Enter" || event.key === " ") open(target);
  else return;
  event.preventDefault();
});
for (const name of ["clients", "servers"]) {
  byId(name).addEventListener("input", () => { start[name] = 0; draw(); });
  const [before, after] = byId(`${name}-pages`).querySelectorAll("button");
  before.addEventListener("click", () => { start[name] -= SHOWN; draw(); });
  after.addEventListener("click", () => { start[name] += SHOWN; draw(); });
}
byId("page").hidden = false;
draw();
