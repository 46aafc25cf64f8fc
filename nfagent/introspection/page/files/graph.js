// Who talks to whom, added up from records: ends by Pod, workload or namespace, and edges by verdict. No DOM here.
import { destination, endName } from "./records.js";

export const MOST_ENDS = 24; // of a side: so many lines of text are read at a glance
const MOST_PAIRS = 50; // kept of one edge
const LEVELS = ["pod", "workload", "namespace"];
const OUTSIDE = "addresses of no Pod";

// An address as its range: 203.0.113.0/24, 2001:db8:1:2::/64.
export function rangeOf(address) {
  if (!address.includes(":")) return `${address.split(".").slice(0, 3).join(".")}.0/24`;
  const [left, right = ""] = address.split("::");
  const [head, tail] = [left, right].map((part) => (part ? part.split(":") : []));
  const groups = [...head, ...Array(Math.max(0, 8 - head.length - tail.length)).fill("0"), ...tail].slice(0, 4);
  while (groups.length && groups.at(-1) === "0") groups.pop();
  return `${groups.join(":")}::/64`;
}

// The end's name at a level, and the term of a filter that means it; '' for none.
export function endAt(end, level) {
  if (end.instance) {
    if (level === "pod") return { name: end.instance, term: `ip:${end.instance}` };
    if (level === "workload") return { name: rangeOf(end.instance), term: `ip:${rangeOf(end.instance)}` };
    return { name: OUTSIDE, term: "" };
  }
  if (level === "pod") return { name: endName(end), term: `pod:${endName(end)}` };
  if (level === "workload") {
    const name = `${end.pod_namespace}/${end.workload_name || end.pod_name}`;
    return end.workload_name === end.pod_name ? { name, term: `pod:${name}` } : { name: `${name} (${end.workload_kind})`, term: `pod:${name}*` };
  }
  return { name: end.pod_namespace, term: `namespace:${end.pod_namespace}` };
}

function added(records, level) {
  const sides = [new Map(), new Map()];
  const edges = new Map();
  for (const { record } of records) {
    const ends = [endAt(record.src, level), endAt(record.dest, level)];
    const packets = Number(record.count) || 1;
    ends.forEach((end, side) => {
      const found = sides[side].get(end.name) || { ...end, packets: 0 };
      found.packets += packets;
      sides[side].set(end.name, found);
    });
    const key = JSON.stringify([ends[0].name, ends[1].name, record.disposition]);
    let edge = edges.get(key);
    if (!edge) {
      edge = { from: ends[0].name, to: ends[1].name, verdict: record.disposition, packets: 0, latest: "", pairs: new Map(), morePairs: 0 };
      edges.set(key, edge);
    }
    addTo(edge, record, packets);
  }
  return { sides, edges };
}

function addTo(edge, record, packets) {
  edge.packets += packets;
  if (record.timestamp > edge.latest) edge.latest = record.timestamp;
  const words = `${endName(record.src)} → ${destination(record)}`;
  const pair = edge.pairs.get(words);
  if (pair) {
    pair.packets += packets;
    pair.record = record;
  } else if (edge.pairs.size < MOST_PAIRS) edge.pairs.set(words, { words, packets, record });
  else edge.morePairs += 1;
}

// Those ends of a side that are shown: the ones with the most packets; the others are one end.
function kept(side) {
  const all = [...side.values()];
  if (all.length <= MOST_ENDS) return { shown: side, other: null };
  const shown = new Map(all.sort((one, two) => two.packets - one.packets).slice(0, MOST_ENDS - 1).map((end) => [end.name, end]));
  const name = `${all.length - shown.size} others`;
  return { shown: shown.set(name, { name, term: "", packets: 0 }), other: name };
}

// Returns { level, sources, targets, edges, of }: ends with their names in order, and how many there are.
export function graphOf(records, wanted) {
  let [level, found] = [wanted, null];
  if (wanted === "auto") {
    for (level of LEVELS) {
      found = added(records, level);
      if (found.sides.every((side) => side.size <= MOST_ENDS)) break;
    }
  } else found = added(records, level);
  const [sources, targets] = found.sides.map(kept);
  const edges = new Map();
  for (const edge of found.edges.values()) {
    const from = sources.shown.has(edge.from) ? edge.from : sources.other;
    const to = targets.shown.has(edge.to) ? edge.to : targets.other;
    const key = JSON.stringify([from, to, edge.verdict]);
    const same = edges.get(key);
    if (same) joined(same, edge);
    else edges.set(key, { ...edge, from, to });
  }
  return {
    level, edges: [...edges.values()], of: found.sides.map((side) => side.size),
    sources: inOrder(sources), targets: inOrder(targets),
  };
}

function joined(edge, more) {
  edge.packets += more.packets;
  if (more.latest > edge.latest) edge.latest = more.latest;
  edge.pairs = new Map(edge.pairs);
  for (const [words, pair] of more.pairs) {
    if (edge.pairs.size < MOST_PAIRS) edge.pairs.set(words, pair);
    else edge.morePairs += 1;
  }
  edge.morePairs += more.morePairs;
}

// By name, and the others last.
const inOrder = ({ shown, other }) => [...shown.values()].sort((one, two) => (one.name === other) - (two.name === other) || (one.name < two.name ? -1 : 1));

// What is denied comes first, then what has the most packets.
const RANK = { deny: 0, "audit-deny": 1 };
export const byWeight = (one, two) => (RANK[one.verdict] ?? 2) - (RANK[two.verdict] ?? 2) || two.packets - one.packets;
