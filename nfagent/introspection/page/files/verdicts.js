// The list of verdicts, newest first. It holds still while a record of it has the focus, or is paused.
import { byId, cell, count, keepOneInTabOrder, make, moveByArrows, setText, short } from "./dom.js";
import { destination, endName, policyNames, verdictClass, verdictWord } from "./records.js";

const ROWS = 200;

export function localTime(timestamp) {
  const found = new Date(timestamp);
  if (Number.isNaN(found.getTime())) return short(timestamp, 30);
  const two = (number) => String(number).padStart(2, "0");
  const today = found.toDateString() === new Date().toDateString();
  const day = today ? "" : `${found.getFullYear()}-${two(found.getMonth() + 1)}-${two(found.getDate())} `;
  return `${day}${two(found.getHours())}:${two(found.getMinutes())}:${two(found.getSeconds())}.${String(found.getMilliseconds()).padStart(3, "0")}`;
}

export class VerdictList {
  constructor(store, opened) {
    this.store = store;
    this.opened = opened;
    this.paused = false;
    this.waiting = 0;
    this.body = byId("verdicts-table").tBodies[0];
    this.rows = new WeakMap();
    moveByArrows(this.body);
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row) this.open(row);
    });
    byId("hold").addEventListener("click", () => {
      const held = this.isHeld();
      this.paused = !held;
      if (held) {
        for (const row of this.body.querySelectorAll("[aria-current]")) row.removeAttribute("aria-current");
        this.draw();
      }
      this.showHold();
    });
  }

  isHeld() {
    return this.paused || this.body.querySelector("[aria-current]") !== null || this.body.contains(document.activeElement);
  }

  showHold() {
    const held = this.isHeld();
    setText(byId("hold"), held ? `Go on${this.waiting ? `: ${this.waiting.toLocaleString("en")} new` : ""}` : "Pause");
    setText(byId("stream-count"), this.countWords());
  }

  countWords() {
    const parts = [count(this.store.records.length, "record")];
    if (this.store.lost) parts.push(`${count(this.store.lost, "record")} lost: this page was too slow`);
    if (this.store.unreadable) parts.push(`${count(this.store.unreadable, "line")} can't be read`);
    if (this.store.unknownPods.length) parts.push(`labels of ${count(this.store.unknownPods.length, "Pod")} that are gone aren't known`);
    return parts.join("; ");
  }

  add(added) {
    if (this.isHeld() && this.body.rows.length) this.waiting += added.length;
    else this.prepend(added.map(({ record }) => record), this.body.rows.length > 0);
    this.showHold();
  }

  draw() {
    this.body.replaceChildren();
    this.waiting = 0;
    this.prepend(this.store.records.slice(-ROWS).map(({ record }) => record), false);
    this.showHold();
  }

  prepend(records, isNew) {
    this.body.prepend(...records.slice(-ROWS).reverse().map((record) => this.row(record, isNew)));
    while (this.body.rows.length > ROWS) this.body.lastElementChild.remove();
    keepOneInTabOrder(this.body);
    byId("verdicts-table").hidden = !this.body.rows.length;
    const more = this.store.records.length - this.body.rows.length;
    setText(byId("verdicts-more"), more > 0 ? `The latest ${this.body.rows.length} are listed; filters find the others, and the picture has them all.` : "");
  }

  row(record, isNew) {
    const button = make("button", { type: "button", class: "plain", tabindex: "-1" },
      make("bdi", { text: short(endName(record.src)) }), make("span", { class: "arrow", text: " → " }), make("bdi", { text: short(destination(record)) }));
    const row = make("tr", { role: "row", class: isNew ? "new" : undefined },
      cell({ class: "time", text: localTime(record.timestamp) }),
      cell({}, make("span", { class: `verdict ${verdictClass(record.disposition)}`, text: short(verdictWord(record), 20) })),
      cell({ class: "wide" }, button),
      cell({ "data-name": "by", text: short(policyNames(record).join(", ")) || "–" }),
      cell({ class: "number", "data-name": "packets", text: String(record.count) }));
    this.rows.set(row, record);
    return row;
  }

  open(row) {
    for (const before of this.body.querySelectorAll("[aria-current]")) before.removeAttribute("aria-current");
    row.setAttribute("aria-current", "true");
    this.opened(this.rows.get(row), row.querySelector("button"));
    this.showHold();
  }

  close() {
    for (const before of this.body.querySelectorAll("[aria-current]")) before.removeAttribute("aria-current");
    this.showHold();
  }
}
