// Elements of the page. Text of objects reaches it by textContent alone; nothing here parses HTML.
const SVG = "http://www.w3.org/2000/svg";
const SHOWN_AT_MOST = 160;

export const byId = (id) => document.getElementById(id);

function filled(node, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (key === "text") node.textContent = value;
    else if (key === "click") node.addEventListener("click", value);
    else if (value !== undefined && value !== false) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

export const make = (name, properties = {}, ...children) => filled(document.createElement(name), properties, children);
export const draw = (name, properties = {}, ...children) => filled(document.createElementNS(SVG, name), properties, children);

export const cell = (properties, ...children) => make("td", { role: "cell", ...properties }, ...children);

// Characters that aren't visible, or that turn the direction of writing, as \u{…}.
export const printable = (text) => String(text).replace(/(?! )[\p{C}\p{Z}]/gu, (found) => `\\u{${found.codePointAt(0).toString(16)}}`);

// The begin and the end of a text that is too long: the end tells Pods of one workload apart.
export function short(text, most = SHOWN_AT_MOST) {
  const shown = printable(text);
  if (shown.length <= most) return shown;
  const end = Math.floor((most - 1) / 2);
  return `${shown.slice(0, most - 1 - end)}…${shown.slice(shown.length - end)}`;
}

export const count = (number, one, many = `${one}s`) => `${Number(number).toLocaleString("en")} ${number === 1 ? one : many}`;

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text; // a status that stays isn't read out again
}

// One button of a table is in the order of Tab; arrows move from row to row.
export function moveByArrows(body) {
  body.addEventListener("keydown", (event) => {
    const buttons = [...body.querySelectorAll("button.plain")];
    const at = buttons.indexOf(event.target);
    const moves = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 };
    if (at < 0 || !(event.key in moves)) return;
    const target = buttons[moves[event.key]];
    if (target) {
      event.target.tabIndex = -1;
      target.tabIndex = 0;
      target.focus();
    }
    event.preventDefault();
  });
}

export function keepOneInTabOrder(body) {
  const buttons = [...body.querySelectorAll("button.plain")];
  const kept = buttons.find((button) => button === document.activeElement) || buttons[0];
  for (const button of buttons) button.tabIndex = button === kept ? 0 : -1;
}
