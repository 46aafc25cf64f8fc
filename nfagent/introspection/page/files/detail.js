// What was chosen: a record, or a line of the picture; with the agent's explanation of the connection.
import { askJson } from "./answers.js";
import { byId, count, make, printable, short } from "./dom.js";
import { destination, endName, explained, policyNames, verdictClass, verdictWord, WORDS } from "./records.js";
import { localTime } from "./verdicts.js";

const LONGEST = 2000;
const PAIRS = 50;

const badge = (verdict, text) => make("span", { class: `verdict ${verdictClass(verdict)}`, text: short(text, 60) });
const fact = (name, text) => [make("dt", { text: name }), make("dd", { text: short(text, LONGEST) })];
const list = (name, texts) => make(name, {}, ...texts.map((text) => make("li", { text: short(text, LONGEST) })));

function endWords(end, address, port) {
  const where = port === undefined ? address : `${address}, port ${port}`;
  if (end.instance) return where;
  const workload = end.workload_name && end.workload_name !== end.pod_name ? `, of ${end.workload_kind} ${end.workload_name}` : "";
  return `${endName(end)} (${where})${workload}`;
}

export class Detail {
  constructor(closed, filtered) {
    this.closed = closed;
    this.filtered = filtered; // called with a term of the filter
    this.asking = new AbortController();
    this.opener = null;
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !byId("detail").hidden) this.close();
    });
  }

  close() {
    this.asking.abort();
    byId("detail").hidden = true;
    const { opener } = this;
    this.closed();
    if (opener && opener.isConnected) opener.focus();
    else byId("content").focus();
  }

  show(title, opener, ...parts) {
    this.asking.abort();
    this.asking = new AbortController();
    if (opener) this.opener = opener;
    const heading = make("h2", { tabindex: "-1" }, ...title);
    byId("detail").replaceChildren(make("button", { type: "button", class: "close", text: "Close", click: () => this.close() }), heading, ...parts);
    byId("detail").hidden = false;
    byId("detail").scrollTop = 0;
    heading.focus({ preventScroll: true });
  }

  record(record, opener, back) {
    const { connection } = record;
    const policies = policyNames(record);
    const facts = make("dl", { class: "facts" },
      ...fact("time", record.timestamp.replace("T", " ").replace(/(\.\d{3})\d*Z$/, "$1 UTC")),
      ...fact("from", endWords(record.src, connection.src_ip, connection.src_port)),
      ...fact("to", endWords(record.dest, connection.dest_ip, connection.dest_port)),
      ...fact("protocol", connection.protocol),
      ...fact("seen at", `${connection.direction} of ${connection.direction === "egress" ? "the source" : "the destination"}`),
      ...fact("policies", policies.join(", ") || "none"),
      ...fact("packets", String(record.count)),
      ...(record.node_name ? fact("node", record.node_name) : []));
    const answer = make("div", { "aria-live": "polite" }, make("p", { class: "faint", text: "asking the agent …" }));
    const actions = make("p", { class: "actions" },
      make("button", { type: "button", text: "Only from this source", click: () => this.filtered("from", record.src) }),
      make("button", { type: "button", text: "Only to this destination", click: () => this.filtered("to", record.dest) }));
    if (back) actions.prepend(make("button", { type: "button", text: "Back to the list", click: back }));
    this.show([make("bdi", { text: short(endName(record.src)) }), " → ", make("bdi", { text: short(destination(record)) }), " ", badge(record.disposition, verdictWord(record))],
      opener, make("h3", { text: "By the policies in force now" }), answer, make("h3", { text: "The record" }), facts, actions);
    this.explain(record, answer, this.asking.signal);
  }

  edge(edge, opener) {
    const pairs = [...edge.pairs.values()].sort((one, two) => two.packets - one.packets);
    const open = (pair) => this.record(pair.record, null, pairs.length > 1 ? () => this.edge(edge, null) : undefined);
    if (pairs.length === 1 && !edge.morePairs) {
      this.opener = opener;
      open(pairs[0]);
      return;
    }
    const items = pairs.slice(0, PAIRS).map((pair) => make("li", {}, make("button", { type: "button", text: `${short(pair.words)}: ${count(pair.packets, "packet")}`, click: () => open(pair) })));
    const parts = [make("p", { text: `${count(edge.packets, "packet")}. Choose a connection for its explanation.` }), make("ul", {}, ...items)];
    if (edge.morePairs) parts.push(make("p", { class: "faint", text: `and ${count(edge.morePairs, "more record")} of other connections: a filter makes them fewer` }));
    this.show([make("bdi", { text: short(edge.from) }), " → ", make("bdi", { text: short(edge.to) }), " ", badge(edge.verdict, WORDS[edge.verdict] || edge.verdict)], opener, ...parts);
  }

  async explain(record, answer, signal) {
    const ends = explained(record);
    if (ends === null) {
      answer.replaceChildren(make("p", { text: "The record has no protocol and port to judge." }));
      return;
    }
    try {
      const found = await askJson("explain", ends, signal);
      answer.replaceChildren(...explanation(found, record));
    } catch (error) {
      if (!signal.aborted) answer.replaceChildren(make("p", { class: "note", text: printable(error.message) }));
    }
  }
}

function explanation(found, record) {
  if (typeof found.verdict !== "string" || !Array.isArray(found.lines)) {
    return [make("p", { class: "note", text: "The agent explains in another format than this page reads: both need one version." })];
  }
  const unknown = (found.unknown || []).map(String);
  const verdict = unknown.length ? "other" : found.allowed ? "allow" : "deny";
  const parts = [make("p", {}, badge(verdict, unknown.length ? "not known" : found.verdict), ` ${short(found.connection || "", LONGEST)}`), list("ol", found.lines.map(String))];
  if (contradicts(found, record)) {
    parts.push(make("p", { class: "note", text: `The connection was ${WORDS[record.disposition] || record.disposition} at ${localTime(record.timestamp)}: Pods or policies have changed since.` }));
  }
  for (const [name, texts] of [["Not known", unknown], ["May be outdated", (found.notes || []).map(String)]]) {
    if (texts.length) parts.push(make("h3", { text: name }), list("ul", texts));
  }
  return parts;
}

// A record has the verdict of one end; that of the other end may differ.
function contradicts(found, record) {
  const judged = Array.isArray(found.judged) && found.judged[0];
  const side = judged && judged.judgement && judged.judgement[record.connection.direction]; // codespell:ignore judgement
  return Boolean(judged) && side !== undefined && (side === null || side.allowed) !== (record.disposition !== "deny");
}
