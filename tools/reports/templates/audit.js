/* The matrix of an audit. A cell that is pressed shows its cases below. */

const percent = (value) => `${(100 * value).toFixed(0)}%`;
const decimal = (value) => minus(value.toFixed(2));
const pressed = { row: data.start[0], column: data.start[1], number: "main" };

function interval([mean, low, high], form) {
  return [form(mean), make("small", {}, `${form(low)} to ${form(high)}`)];
}

function cellButton(cell, row, column) {
  const main = pressed.number === "main";
  const number = main ? cell.main : cell.mean;
  const mark = main && cell.verdict ? cell.verdict : "";
  const content = number ? interval(number, main && !cell.plain ? percent : decimal) : "–";
  return button(content, () => { Object.assign(pressed, { row, column }); draw(); }, {
    class: mark || null, "aria-pressed": row === pressed.row && column === pressed.column,
    "aria-label": `${data.rows[row].name}, ${data.columns[column]}`,
  });
}

function matrix() {
  const head = make("tr", {}, make("th", { scope: "col" }, data.first),
    make("th", { scope: "col" }, data.counted), data.columns.map((name) => make("th", { scope: "col" }, name)));
  const body = data.rows.map((row, index) => make("tr", {}, make("th", { scope: "row" }, row.name),
    make("td", { class: "count" }, row.count.toLocaleString("en")),
    row.cells.map((cell, column) => make("td", {}, cellButton(cell, index, column)))));
  byId("matrix").replaceChildren(make("thead", {}, head), make("tbody", {}, body));
}

function side(title, text, scores) {
  return make("div", {}, make("h4", {}, title), make("p", {}, text), make("div", { class: "scores" }, scores));
}

function cases() {
  const row = data.rows[pressed.row];
  const shown = row.cells[pressed.column].cases.map((number) => data.cases[number]);
  byId("which").textContent = `${row.name}, ${data.columns[pressed.column]}: ${shown.length ? data.order[row.kind] : "no cases"}`;
  byId("cases").replaceChildren(...shown.map((one) => make("article", { class: "case" },
    make("h3", {}, one.question),
    make("div", { class: "sides" }, one.texts.map(([title, text, scores]) => side(title, text, scores))))));
}

function draw() {
  const focused = document.activeElement?.getAttribute("aria-label");
  matrix();
  cases();
  if (focused) document.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
}

document.querySelector(".top").append(themeButton());
byId("title").textContent = data.title;
byId("facts").textContent = data.facts;
byId("table-title").textContent = data.heading;
byId("reading").textContent = data.reading;
byId("numbers").hidden = Object.keys(data.numbers).length < 2;
choice(byId("numbers"), data.numbers, (number) => { pressed.number = number; draw(); });
