// Small things that everything uses. Texts of a run become nodes only through `text` and `shown`.

const $ = (id) => document.getElementById(id);

/** An element with attributes and children; strings become text nodes, never HTML. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

const has = (x) => x !== null && x !== undefined;

function number(x) {
  if (!has(x)) return "–";
  if (typeof x !== "number") return String(x);
  if (Number.isInteger(x)) return x.toLocaleString("en");
  const size = Math.abs(x);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return x.toExponential(2);
  return x.toPrecision(4).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

const percent = (x) => (has(x) ? (100 * x).toFixed(1) + "%" : "–");

/** A number that may be small or a share, as its chart has it. */
const formatted = (x, share) => (share ? percent(x) : number(x));

// What a terminal would obey, and what would turn a line around: shown by its name instead.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e0fff}]/gu;

/** A text of the run as nodes: as it is, what cannot be seen by its number. */
function shown(text) {
  const made = document.createDocumentFragment();
  let last = 0;
  for (const match of text.matchAll(HIDDEN)) {
    if (match.index > last) made.append(text.slice(last, match.index));
    const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    made.append(make("span", { class: "hidden-character", title: "a character that cannot be seen" }, "U+" + code));
    last = match.index + match[0].length;
  }
  if (last < text.length) made.append(text.slice(last));
  return made;
}

const LONG = 3000;
const SLICE = 200000;

/** A long text: its beginning, and a button for more of it. */
function clipped(text, from = 0, until = LONG) {
  const made = document.createDocumentFragment();
  made.append(shown(text.slice(from, until)));
  if (until < text.length) {
    const more = make("button", { type: "button", class: "more" },
      `… ${(text.length - until).toLocaleString("en")} more characters`);
    more.addEventListener("click", () => more.replaceWith(clipped(text, until, until + SLICE)));
    made.append(more);
  }
  return made;
}

/** Fill a select with [value, label] pairs and keep what was chosen, if it is still there. */
function choices(select, pairs) {
  const before = select.value;
  select.replaceChildren(...pairs.map(([value, label]) => make("option", { value }, label)));
  if (pairs.some(([value]) => value === before)) select.value = before;
}

/** Calls that come in quick succession become one, after the last. */
function soon(call, wait = 150) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(call, wait);
  };
}

async function copy(button, text) {
  const before = button.textContent;
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not allowed for a file in some browsers
    const field = make("textarea", { "aria-hidden": "true" });
    field.value = text;
    document.body.append(field);
    field.select();
    done = document.execCommand("copy");
    field.remove();
  }
  button.textContent = done ? "Copied" : "Not allowed";
  setTimeout(() => (button.textContent = before), 1200);
}

/** A mark of an axis, with as many digits as tell it from its neighbours. */
function tick(x, step) {
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size < 1e-3 || size >= 1e6) return x.toExponential(Math.max(1, digitsOf(step / 10 ** Math.floor(Math.log10(size)))));
  return x.toFixed(digitsOf(step));
}

/** The digits behind the point that multiples of a step need: 1 for 0.5 and 2.5, 2 for 0.25. */
function digitsOf(step) {
  const digits = Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));
  const last = step * 10 ** digits;
  return Math.min(6, Math.abs(last - Math.round(last)) > 1e-6 ? digits + 1 : digits);
}
