// The filter of records, by the terms of `nfagent logs`; the agent applies it.
import { byId, make, short } from "./dom.js";

const PEER = "a Pod (shop/web), Pods by prefix (shop/web-*), a namespace (shop), labels (app=web,tier!=db), addresses (10.0.0.0/8), node or world";
const WHEN = "how long ago (5m, 1h30m, 2d), a time of today (10:15), or a date and time (2026-01-31T10:15)";
const FIELDS = [
  ["from", "from", PEER], ["to", "to", PEER], ["peer", "either end", PEER],
  ["to_port", "destination port", "a port (5432) or a range (8000-8100)"],
  ["from_port", "source port", "a port or a range"], ["port", "port at either end", "a port or a range"],
  ["verdict", "verdict", "", { allow: "allowed", deny: "denied", "audit-deny": "audit: passed, would be denied" }],
  ["direction", "direction", "", { ingress: "ingress", egress: "egress" }],
  ["protocol", "protocol", "", Object.fromEntries(["tcp", "udp", "sctp", "icmp", "icmpv6", "unknown"].map((name) => [name, name]))],
  ["policy", "policy", "the policy that decided: shop/db, or the name of a policy of the tiers"],
  ["family", "IP family", "", { 4: "IPv4", 6: "IPv6" }],
  ["since", "since", WHEN], ["until", "until", WHEN],
];
const TIMES = new Set(["since", "until"]);
const SECONDS = { s: 1, m: 60, h: 3600, d: 86400 };

// A time as records have it: RFC 3339 in UTC with nine decimals; null for none.
export function timestamp(text, now = new Date()) {
  let found = null;
  const ago = /^(?:\d{1,9}[smhd])+$/.test(text) ? [...text.matchAll(/(\d+)([smhd])/g)] : [];
  const clock = /^(\d{1,2}):(\d\d)(?::(\d\d))?$/.exec(text);
  if (ago.length) found = new Date(now - 1000 * ago.reduce((sum, [, number, unit]) => sum + number * SECONDS[unit], 0));
  else if (clock) found = new Date(now.getFullYear(), now.getMonth(), now.getDate(), clock[1], clock[2], clock[3] || 0);
  else if (/^\d{4}-\d\d-\d\d/.test(text)) found = new Date(text.length === 10 ? `${text}T00:00` : text);
  return found && !Number.isNaN(found.getTime()) && found.getFullYear() > 0 ? found.toISOString().replace(/\.(\d{3})Z$/, ".$1000000Z") : null;
}

// Terms of one field: one of them; of different fields: all of them; those with `not`: none of them.
export function encoded(terms, now = new Date()) {
  const required = new Map();
  const filter = { all: [], none: [] };
  for (const { field, not, term } of terms) {
    if (TIMES.has(field)) filter[field] = timestamp(term, now);
    else if (not) filter.none.push({ field, terms: [term] });
    else required.set(field, [...(required.get(field) || []), term]);
  }
  filter.all = [...required].map(([field, found]) => ({ field, terms: found }));
  return filter;
}

export class FilterForm {
  constructor(changed) {
    this.terms = [];
    this.changed = changed;
    byId("filter-field").append(...FIELDS.map(([field, name]) => make("option", { value: field, text: name })));
    byId("filter-field").addEventListener("change", () => this.showValue());
    byId("filter-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const value = byId("filter-term");
      this.add({ field: byId("filter-field").value, not: byId("filter-not").value === "not", term: value.value.trim() });
      if (value.tagName === "INPUT") value.value = "";
      value.focus();
    });
    byId("only-denied").addEventListener("click", () => this.add({ field: "verdict", not: false, term: "deny" }));
    this.showValue();
  }

  showValue() {
    const [field, , hint, choices] = FIELDS.find(([name]) => name === byId("filter-field").value);
    const value = choices
      ? make("select", { id: "filter-term" }, ...Object.entries(choices).map(([term, text]) => make("option", { value: term, text })))
      : make("input", { id: "filter-term", type: "text", autocomplete: "off", autocapitalize: "none", spellcheck: "false", "aria-describedby": "filter-hint" });
    byId("filter-value").replaceChildren(value);
    byId("filter-hint").textContent = hint;
    byId("filter-not").disabled = TIMES.has(field);
  }

  add(term) {
    if (TIMES.has(term.field) && timestamp(term.term) === null) {
      this.problem(`${JSON.stringify(term.term)} is no time: write ${WHEN}`);
      return;
    }
    if (!term.term) return;
    const wanted = TIMES.has(term.field) ? { ...term, not: false } : term;
    const kept = this.terms.filter((one) => !(TIMES.has(one.field) && one.field === wanted.field));
    if (!kept.some((one) => JSON.stringify(one) === JSON.stringify(wanted))) kept.push(wanted);
    this.set(kept);
  }

  set(terms) {
    this.terms = terms;
    this.problem("");
    byId("filter-terms").replaceChildren(...terms.map((term) => this.chip(term)));
    this.changed(encoded(terms));
  }

  chip(term) {
    const [, name, , choices] = FIELDS.find(([field]) => field === term.field);
    const words = `${name} ${term.not ? "is not" : "is"} ${short((choices && choices[term.term]) || term.term, 60)}`;
    return make("li", {}, make("button", {
      type: "button", text: `${words} ✕`, "aria-label": `remove the filter: ${words}`,
      click: () => {
        this.set(this.terms.filter((one) => one !== term));
        byId("filter-term").focus();
      },
    }));
  }

  problem(words) {
    byId("filter-problem").textContent = words;
    byId("filter-problem").hidden = !words;
  }
}
