// The picture of who talks to whom: sources at the left, destinations at the right; and the same as a table.
import { byId, cell, count, draw, keepOneInTabOrder, make, moveByArrows, setText, short } from "./dom.js";
import { byWeight, graphOf } from "./graph.js";
import { verdictClass, WORDS } from "./records.js";
import { localTime } from "./verdicts.js";

const ROW = 26;
const TOP = 30;
const MARGIN = 22; // beside a name
const NARROW = 560;
const EDGES_DRAWN = 400;
const EDGES_LISTED = 100;
const LEVEL_WORDS = { pod: "Pods and addresses", workload: "workloads and ranges of addresses", namespace: "namespaces" };

const pen = document.createElement("canvas").getContext("2d");

function widthOf(text) {
  pen.font = "13px system-ui, sans-serif";
  return pen.measureText(text).width;
}

// As much of a name as has room in so many pixels.
function fitted(name, room) {
  const shown = short(name);
  const width = widthOf(shown);
  return width <= room ? shown : short(name, Math.max(5, Math.floor((shown.length * room) / width) - 1));
}

export class Picture {
  constructor(store, opened, ended) {
    this.store = store;
    this.opened = opened; // called with an edge
    this.ended = ended; // called with an end that was chosen
    this.drawn = "";
    moveByArrows(byId("edges-table").tBodies[0]);
    byId("level").addEventListener("change", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(byId("picture"));
  }

  draw() {
    if (byId("picture-view").hidden) return;
    const graph = graphOf(this.store.records, byId("level").value);
    const width = Math.max(300, byId("picture").clientWidth);
    const drawn = JSON.stringify([width, graph.sources, graph.targets, graph.edges.map((edge) => [edge.from, edge.to, edge.verdict, edge.packets])]);
    if (drawn === this.drawn) return; // what has the focus or the pointer stays
    this.drawn = drawn;
    const [from, to] = graph.of;
    setText(byId("picture-words"), graph.edges.length ? `${count(from, "source")} and ${count(to, "destination")} as ${LEVEL_WORDS[graph.level]}, of ${count(this.store.records.length, "record")}. Choose a line for its connections, a name to filter by it.` : "");
    byId("edges-table").hidden = !graph.edges.length;
    graph.edges.sort(byWeight);
    byId("picture").replaceChildren(...(graph.edges.length ? [this.svg(graph, width)] : []));
    this.list(graph.edges);
  }

  svg(graph, width) {
    const most = width * (width < NARROW ? 0.38 : 0.33);
    const [before, behind] = [graph.sources, graph.targets].map((ends) => Math.round(Math.min(most, MARGIN + Math.max(30, ...ends.map((end) => widthOf(short(end.name)))))));
    const [left, right] = [before, width - behind];
    const area = ROW * Math.max(graph.sources.length, graph.targets.length);
    const height = TOP + area + 6;
    const at = (ends) => new Map(ends.map((end, index) => [end.name, TOP + (area * (index + 0.5)) / ends.length]));
    const [sources, targets] = [at(graph.sources), at(ordered(graph))];
    const drawn = graph.edges.slice(0, EDGES_DRAWN);
    const [begins, ends] = [spread(drawn, "from", sources, "to", targets, area), spread(drawn, "to", targets, "from", sources, area)];
    const names = new Map(graph.targets.map((end) => [end.name, end]));
    const svg = draw("svg", {
      viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": `Lines from ${count(graph.sources.length, "source")} to ${count(graph.targets.length, "destination")}; the table below has the same.`,
    });
    svg.append(
      draw("text", { class: "title", x: left - 10, y: 16, "text-anchor": "end", text: "from" }),
      draw("text", { class: "title", x: right + 10, y: 16, text: "to" }),
      ...[...drawn].reverse().map((edge) => this.edge(edge, [left, begins.found.get(edge)], [right, ends.found.get(edge)])),
      ...graph.sources.map((end) => this.end(svg, end, left, [sources.get(end.name), begins.halves.get(end.name)], "from", before - MARGIN + 4)),
      ...[...targets.keys()].map((name) => this.end(svg, names.get(name), right, [targets.get(name), ends.halves.get(name)], "to", behind - MARGIN + 4)));
    return svg;
  }

  edge(edge, [x1, y1], [x2, y2]) {
    const bend = (x2 - x1) * 0.45;
    const path = `M${x1} ${y1} C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
    const words = `${short(edge.from)} → ${short(edge.to)}: ${WORDS[edge.verdict] || edge.verdict}, ${count(edge.packets, "packet")}`;
    const parts = [draw("title", { text: words }), draw("path", { class: "reach", d: path }),
      draw("path", { class: "line", d: path, "stroke-width": Math.min(6, 1.5 + Math.log10(edge.packets + 1)).toFixed(1) })];
    if (edge.verdict === "deny") parts.push(draw("path", { class: "cross", d: `M${x2 - 12} ${y2 - 4}l8 8m0-8l-8 8` }));
    const made = draw("g", { class: `edge ${verdictClass(edge.verdict)}`, click: () => this.opened(edge, null) }, ...parts);
    made.ends = { from: edge.from, to: edge.to };
    return made;
  }

  end(svg, end, x, [y, half], side, room) {
    const near = (on) => {
      svg.classList.toggle("some", on);
      for (const edge of svg.querySelectorAll(".edge")) edge.classList.toggle("near", on && edge.ends[side] === end.name);
    };
    const made = draw("g", { class: "end", click: () => this.ended(end, side) },
      draw("title", { text: short(end.name, 400) }),
      draw("rect", { x: side === "from" ? 0 : x, y: y - ROW / 2, width: side === "from" ? x : x, height: ROW, fill: "transparent" }),
      draw("rect", { class: "bar", x: x - 2, y: y - half, width: 4, height: 2 * half, rx: 2 }),
      draw("text", { x: side === "from" ? x - 10 : x + 10, y: y + 4, "text-anchor": side === "from" ? "end" : "start", text: fitted(end.name, room) }));
    made.addEventListener("pointerenter", () => near(true));
    made.addEventListener("pointerleave", () => near(false));
    return made;
  }

  list(edges) {
    const body = byId("edges-table").tBodies[0];
    const focused = body.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
    const rows = edges.slice(0, EDGES_LISTED).map((edge) => {
      const button = make("button", { type: "button", class: "plain", tabindex: "-1", "data-key": JSON.stringify([edge.from, edge.to, edge.verdict]) }, make("bdi", { text: short(edge.from) }));
      button.addEventListener("click", (event) => { event.stopPropagation(); this.opened(edge, button); });
      return make("tr", { role: "row", click: () => this.opened(edge, button) }, cell({}, button), cell({ "data-name": "→" }, make("bdi", { text: short(edge.to) })),
        cell({}, make("span", { class: `verdict ${verdictClass(edge.verdict)}`, text: short(WORDS[edge.verdict] || edge.verdict, 20) })),
        cell({ class: "number", "data-name": "packets", text: edge.packets.toLocaleString("en") }), cell({ class: "time", text: localTime(edge.latest) }));
    });
    if (edges.length > EDGES_LISTED) rows.push(make("tr", { role: "row" }, cell({ colspan: "5", class: "faint", text: `and ${count(edges.length - EDGES_LISTED, "more line")}: a filter makes them fewer` })));
    body.replaceChildren(...rows);
    if (focused !== undefined) [...body.querySelectorAll("button")].find((one) => one.dataset.key === focused)?.focus();
    keepOneInTabOrder(body);
  }
}

// Where lines meet an end: beside each other, in the order of their other ends, as far as there is room.
function spread(edges, side, places, other, others, area) {
  const room = area / places.size - 8;
  const [found, halves] = [new Map(), new Map()];
  for (const [name, middle] of places) {
    const own = edges.filter((edge) => edge[side] === name).sort((one, two) => others.get(one[other]) - others.get(two[other]) || byWeight(one, two));
    const step = Math.min(5, room / Math.max(1, own.length - 1));
    halves.set(name, Math.max(4, (step * (own.length - 1)) / 2 + 2));
    own.forEach((edge, index) => found.set(edge, middle + step * (index - (own.length - 1) / 2)));
  }
  return { found, halves };
}

// Destinations in the order of the sources that reach them: fewer lines cross.
function ordered(graph) {
  const place = new Map(graph.sources.map((end, index) => [end.name, index]));
  const sums = new Map(graph.targets.map((end) => [end.name, { sum: 0, edges: 0 }]));
  for (const edge of graph.edges) {
    const found = sums.get(edge.to);
    found.sum += place.get(edge.from);
    found.edges += 1;
  }
  const mean = (end) => sums.get(end.name).sum / (sums.get(end.name).edges || 1);
  return [...graph.targets].sort((one, two) => mean(one) - mean(two) || (one.name < two.name ? -1 : 1));
}
