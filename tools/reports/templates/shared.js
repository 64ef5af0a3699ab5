/* Parts that every page uses. Text from the data reaches the page through `make` alone: as text nodes or attribute values. */

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const SVG = new Set(["svg", "line", "circle", "path", "text", "title", "rect", "g"]);

function make(tag, attributes = {}, ...children) {
  const element = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function button(label, action, attributes = {}) {
  const element = make("button", { type: "button", ...attributes }, label);
  element.addEventListener("click", action);
  return element;
}

/* Buttons, exactly one of them pressed. */
function choice(parent, labels, onChoose) {
  const buttons = Object.entries(labels).map(([value, label]) => [value, button(label, () => press(value))]);
  function press(value) {
    for (const [own, element] of buttons) element.setAttribute("aria-pressed", own === value);
    onChoose(value);
  }
  parent.append(...buttons.map(([, element]) => element));
  press(buttons[0][0]);
}

/* A <select> with a label. `options` are [value, label] pairs. */
function picker(label, options, value, onChange) {
  const select = make("select", {}, options.map(([own, text]) => make("option", { value: own }, text)));
  select.value = value;
  select.addEventListener("change", () => onChange(select.value));
  return make("label", {}, label, select);
}

function themeButton() {
  const root = document.documentElement;
  const stored = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  if (["light", "dark"].includes(stored())) root.dataset.theme = stored();
  const element = button("Dark", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* some browsers forbid it for files */ }
    element.setAttribute("aria-pressed", dark());
  }, { id: "theme", "aria-label": "Dark mode", "aria-pressed": dark() });
  return element;
}

const minus = (text) => text.replace("-", "−");
function short(value) {
  const rounded = Number(value.toPrecision(3));
  return minus(Math.abs(rounded) < 1e6 ? rounded.toString() : rounded.toExponential());
}

/* The action waits: it may change sizes again, which is an error inside the observer. */
function onResize(element, action) {
  new ResizeObserver(() => setTimeout(action)).observe(element);
}

/* Line charts: as wide as their figure, read with pointer or arrow keys. */

function ticks(low, high, wanted) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let index = Math.ceil(low / step); index * step <= high + step * 1e-9; index++) found.push(index * step);
  return found;
}

function extent(values, within) {
  let [low, high] = within ?? [Infinity, -Infinity];
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  return low === high ? [low - 0.5, high + 0.5] : [low, high];
}

const LETTER = 8; // width of a digit beside an axis in pixels, at most

/* `series`: [{label, color, x, y, smooth, dots, total}], x ascending. Without a cursor the key shows `total`, or the last y. The y axis shows at least the interval `range`. */
function chart({ title, xName, series, range, diagonal = false, height = 190 }) {
  const xs = extent(series.flatMap((one) => one.x), diagonal ? [0, 1] : undefined);
  const ys = extent(series.flatMap((one) => one.y), range);
  const keys = make("div", { class: "keys" });
  const words = series.map((one) => `${one.label} from ${short(one.y[0])} to ${short(one.y.at(-1))}`).join("; ");
  const svg = make("svg", { role: "img", tabindex: 0, "aria-label": `${title}: ${words}. Arrow keys read values.` });
  const figure = make("figure", { class: "chart" }, make("h3", {}, title), keys, svg);
  const points = [...new Set(series.flatMap((one) => one.x))].sort((a, b) => a - b);
  const margin = { left: Math.max(44, 12 + LETTER * Math.max(...ticks(...ys, 4).map((y) => short(y).length))), right: 16, top: 8, bottom: 34 };
  let width = 0, cursor = null;
  const atX = (x) => margin.left + ((x - xs[0]) / (xs[1] - xs[0])) * (width - margin.left - margin.right);
  const atY = (y) => margin.top + (1 - (y - ys[0]) / (ys[1] - ys[0])) * (height - margin.top - margin.bottom);
  const line = (x, y) => x.map((value, index) => `${index ? "L" : "M"}${atX(value).toFixed(1)} ${atY(y[index]).toFixed(1)}`).join("");

  function draw() {
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    const bottom = height - margin.bottom;
    svg.replaceChildren(
      ...ticks(...ys, 4).flatMap((y) => [
        make("line", { class: "grid", x1: margin.left, x2: width - margin.right, y1: atY(y), y2: atY(y) }),
        make("text", { class: "end", x: margin.left - 6, y: atY(y) + 4 }, short(y))]),
      ...ticks(...xs, Math.max(2, width / 90)).map((x) => make("text", { class: "middle", x: atX(x), y: bottom + 16 }, short(x))),
      make("text", { class: "end", x: width - margin.right, y: height - 3 }, xName),
      diagonal ? make("line", { class: "even", x1: atX(0), y1: atY(0), x2: atX(1), y2: atY(1) }) : "",
      ...series.flatMap(({ color, x, y, smooth, dots }) => [
        smooth ? make("path", { class: `raw run${color}`, d: line(x, y) }) : "",
        make("path", { class: `run${color}`, d: line(x, smooth ? smoothed(y) : y) }),
        ...(dots ? x.map((value, index) => make("circle", { class: `run${color}`, cx: atX(value), cy: atY(y[index]), r: 4 })) : [])]),
      cursor === null ? "" : make("line", { class: "cursor", x1: atX(cursor), x2: atX(cursor), y1: margin.top, y2: bottom }));
    read();
  }
  function read() {
    const values = series.map(({ label, color, x, y, total }) => {
      const index = cursor === null ? y.length - 1 : x.findLastIndex((value) => value <= cursor);
      const value = cursor === null && total !== undefined ? total : y[index];
      return make("span", {}, make("span", { class: `dot run${color}` }), `${label} `, make("b", {}, value === undefined ? "" : short(value)));
    });
    keys.replaceChildren(...values, cursor === null ? "" : make("span", {}, `${xName} ${short(cursor)}`));
  }
  function point(x) { cursor = x; draw(); }
  svg.addEventListener("pointermove", (event) => {
    const x = xs[0] + ((event.offsetX - margin.left) / (width - margin.left - margin.right)) * (xs[1] - xs[0]);
    point(points.reduce((best, value) => (Math.abs(value - x) < Math.abs(best - x) ? value : best)));
  });
  for (const leave of ["pointerleave", "blur"]) svg.addEventListener(leave, () => point(null));
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const index = cursor === null ? points.length - 1 : points.indexOf(cursor) + step;
    point(points[Math.min(Math.max(index, 0), points.length - 1)]);
    event.preventDefault();
  });
  onResize(figure, () => {
    const room = Math.max(200, Math.round(figure.clientWidth));
    if (room !== width) { width = room; draw(); }
  });
  return figure;
}

/* Exponential moving average with bias correction, so that the first points are not drawn towards 0. */
function smoothed(values, weight = 0.9) {
  let total = 0;
  return values.map((value, index) => (total = weight * total + (1 - weight) * value) / (1 - weight ** (index + 1)));
}

const tokenHint = () => ["Tokens: sure ", make("span", { class: "scale" }),
  " unlikely (5% or less); dotted: below one half. Point at one, or use Tab and the arrow keys, to read it."];

const lookHint = () => ["Tokens: what they owe to the image, none ", make("span", { class: "scale looks" }),
  " 1 nat or more. Point at one, or use Tab and the arrow keys, to read it."];

/* Tokens shaded by how unlikely they were, or by what they owe to the image; one is read by pointing at it or with the
   arrow keys. `tokens`: {nats, lengths or texts, entropies?, ranks?, others?, looks?} as tools/reports/token_columns.py
   writes them. */

function tokenTexts({ text, tokens }) {
  if (tokens.texts) return tokens.texts;
  let start = 0;
  return tokens.lengths.map((length) => text.slice(start, start += length));
}

function tokenView({ text: whole, tokens }, looks = false) {
  const texts = tokenTexts({ text: whole, tokens });
  const info = make("p", { class: "tokeninfo", "aria-live": "polite" });
  const spans = texts.map((text, index) => {
    const nats = tokens.nats[index];
    const span = make("span", { class: "token", tabindex: index ? -1 : 0 }, text || "end");
    span.classList.toggle("end", !text);
    if (looks) {
      span.classList.add("looks");
      span.style.setProperty("--look", Math.min(1, Math.sqrt((tokens.looks[index] ?? 0) / 1000)));
    } else {
      span.classList.toggle("unlikely", nats !== null && nats > 69);
      span.style.setProperty("--doubt", nats === null ? 1 : Math.min(1, nats / 300));
    }
    const tell = () => { info.textContent = tokenWords(text, tokens, index); };
    span.addEventListener("pointerenter", tell);
    span.addEventListener("focus", tell);
    span.addEventListener("click", () => span.focus());
    return span;
  });
  const paragraph = make("p", { class: "tokens" }, spans);
  paragraph.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const next = step && spans[spans.indexOf(document.activeElement) + step];
    if (!next) return;
    document.activeElement.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    event.preventDefault();
    event.stopPropagation();
  });
  return make("div", {}, paragraph, info);
}

function tokenWords(text, { nats, entropies, ranks, others, looks }, index) {
  const chance = (hundredths) => (hundredths === null ? "0" : short(Math.exp(-hundredths / 100)));
  const log = nats[index] === null ? "not finite" : minus((-nats[index] / 100).toFixed(2));
  const parts = [`${JSON.stringify(text)}: probability ${chance(nats[index])}, log-probability ${log}`];
  if (ranks) parts.push(`rank ${ranks[index] ?? 1}`);
  if (entropies && entropies[index] !== null) parts.push(`entropy ${(entropies[index] / 100).toFixed(2)} nats`);
  if (looks && looks[index] !== null) parts.push(`vision dependency ${(looks[index] / 1000).toFixed(3)} nats`);
  const instead = (others?.[index] ?? []).filter(([other]) => other !== text);
  const list = instead.map(([other, hundredths]) => `${JSON.stringify(other)} ${chance(hundredths)}`).join(", ");
  return parts.join(", ") + (list ? `; instead: ${list}` : "");
}
