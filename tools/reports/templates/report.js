/* The numbers: overview, kinds of question, calibration, training curves. */

const runs = data.runs.map((_, index) => index);
const labelOf = (run) => data.runs[run].label;
const colorOf = (run) => `run${run % 8}`;
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const isLength = (metric) => metric === "length";
const plotted = data.metrics.filter(({ name }) => !isLength(name)
  && data.runs.every((run) => { const value = run.metrics[name]; return value && value.mean >= 0 && value.mean <= 1; }));

function number(metric, value, signed = false) {
  return (signed && value >= 0 ? "+" : "") + minus(value.toFixed(isLength(metric) ? 1 : 3));
}

function comparison(run, baseline) {
  return data.comparisons.find((one) => one.run === data.runs[run].name && one.baseline === data.runs[baseline].name);
}

/* Overview */

function header() {
  document.querySelector(".top").append(themeButton());
  byId("title").textContent = data.title;
  const sources = data.runs.map(({ label, checkpoints, controls, skipped }) => {
    const images = controls.filter((control) => control !== "none").map((control) => `, images ${control}`).join("");
    return `${label}: ${checkpoints.join(", ") || "checkpoint unknown"}${images}${skipped ? `, ${plural(skipped, "question")} skipped` : ""}`;
  });
  const pictures = data.images.some((address) => !address.startsWith("data:"))
    ? " Images are not in this file. They are shown if their files can be opened." : "";
  const notes = data.notes.map((note) => ` ${note[0].toUpperCase()}${note.slice(1)}.`).join("");
  byId("facts").textContent = `${plural(data.questions, "question")} about ${data.clusters}. ${sources.join("; ")}. ` +
    `Facts read by ${data.extractor}. ${data.date}.${pictures}${notes}`;
  byId("lead").textContent = lead();
}

function lead() {
  const other = runs.find((run) => run !== data.baseline);
  const found = other === undefined ? undefined : comparison(other, data.baseline);
  if (!found) {
    const { mean, lo, hi } = data.runs[data.baseline].metrics.accuracy;
    return `${number("", mean)} of the questions are answered right, 95% interval ${number("", lo)} to ${number("", hi)}.`;
  }
  const change = found.difference.accuracy, [name, base] = [labelOf(other), labelOf(data.baseline)];
  const verdict = change.lo > 0 ? `${name} answers more questions right than ${base}`
    : change.hi < 0 ? `${name} answers fewer questions right than ${base}`
      : `${name} and ${base} do not differ in accuracy beyond chance`;
  const test = found.mcnemar.answer_overlap;
  return `${verdict}: ${plural(test.gained, "question")} went from wrong to right and ${test.lost} from right to wrong.`;
}

function summaryTable() {
  const others = runs.filter((run) => run !== data.baseline && comparison(run, data.baseline));
  const heads = [
    ...runs.map((run) => make("th", { scope: "col" }, make("span", { class: `dot ${colorOf(run)}` }), labelOf(run))),
    ...others.map((run) => make("th", { scope: "col" }, `${labelOf(run)} − ${labelOf(data.baseline)}`))];
  const rows = data.metrics.map(({ name, label, direction }) => make("tr", {},
    make("th", { scope: "row" }, label),
    runs.map((run) => cell(name, data.runs[run].metrics[name])),
    others.map((run) => cell(name, comparison(run, data.baseline).difference[name], direction))));
  byId("summary").append(make("thead", {}, make("tr", {}, make("td"), heads)), make("tbody", {}, rows));
}

/* `direction` is given for differences: 1 if more is better, -1 if less is. */
function cell(metric, value, direction) {
  if (!value) return make("td", {}, "–");
  const signed = direction !== undefined, gain = Math.sign(value.lo) === Math.sign(value.hi) ? Math.sign(value.mean) : 0;
  const tone = signed && gain * direction > 0 ? "up" : signed && gain * direction < 0 ? "down" : null;
  return make("td", { class: tone }, number(metric, value.mean, signed),
    make("small", {}, `[${number(metric, value.lo, signed)}, ${number(metric, value.hi, signed)}]`));
}

/* Interval plots: one row per item, one line per run of `members`, all on the same axis `range`, a mark at each quarter. */

const QUARTER = 0.25;
const place = (value, [low, high]) => `${100 * Math.min(Math.max((value - low) / (high - low), 0), 1)}%`;
const quarters = ([low, high]) => Array.from({ length: Math.round((high - low) / QUARTER) + 1 }, (_, index) => low + QUARTER * index);

function plot(parent, rows, members = runs, range = [0, 1]) {
  const keys = members.map((run) => make("span", {}, make("span", { class: `dot ${colorOf(run)}` }), labelOf(run)));
  parent.replaceChildren(make("div", { class: "keys" }, keys), ...rows.map((row) => plotRow(row, members, range)), axis(range));
}

/* `points`: per member [mean, low, high], or null. */
function plotRow({ label, note, points }, members, range) {
  const height = 13 * members.length + 14;
  const values = points.map((point) => (point ? minus(point[0].toFixed(2)) : "–")).join("  ·  ");
  const marks = members.flatMap((run, line) => (points[line] ? interval(run, points[line], 13.5 + 13 * line, range) : []));
  return make("div", { class: "row" },
    make("div", { class: "label" }, label, " ", make("small", {}, note)),
    make("div", { class: "plotted" }, make("svg", { height, role: "img", "aria-label": `${label}: ${values}` },
      grid(height, range), marks)),
    make("div", { class: "values" }, values));
}

function grid(height, range) {
  return quarters(range).map((value) => make("line", {
    class: value === 0 && range[0] < 0 ? "even" : "grid", x1: place(value, range), x2: place(value, range), y1: 0, y2: height,
  }));
}

function interval(run, [mean, lo, hi], y, range) {
  const words = `${labelOf(run)}: ${minus(mean.toFixed(3))} [${minus(lo.toFixed(3))}, ${minus(hi.toFixed(3))}]`;
  return [
    make("line", { class: `whisker ${colorOf(run)}`, x1: place(lo, range), x2: place(hi, range), y1: y, y2: y }),
    make("circle", { class: colorOf(run), cx: place(mean, range), cy: y, r: 5 }, make("title", {}, words)),
  ];
}

function axis(range) {
  const marks = quarters(range).map((value) => make("text", { class: "middle", x: place(value, range), y: 13 }, minus(value.toString())));
  return make("div", { class: "row", "aria-hidden": "true" }, make("div"),
    make("div", { class: "plotted" }, make("svg", { height: 18 }, marks)), make("div"));
}

function metricPlot() {
  plot(byId("metrics"), plotted.map(({ name, label }) => ({
    label, note: "",
    points: data.runs.map(({ metrics: { [name]: { mean, lo, hi } } }) => [mean, lo, hi]),
  })));
}

function breakdowns() {
  const fields = data.fields.filter(({ name }) => data.breakdown[name]);
  if (!fields.length) return void byId("by-type").parentElement.remove();
  let [field, metric] = [fields[0].name, plotted[0].name];
  const draw = () => plot(byId("breakdown"), data.breakdown[field].map(({ name, count, runs: points }) => ({
    label: name.replaceAll("_", " "), note: `n = ${count}`, points: points.map((point) => point[metric]),
  })));
  byId("groupings").append(
    picker("group by", fields.map(({ name, label }) => [name, label]), field, (value) => { field = value; draw(); }),
    picker("metric", plotted.map(({ name, label }) => [name, label]), metric, (value) => { metric = value; draw(); }));
  draw();
}

/* Calibration: one reliability curve per run and file that has one. */

function calibration() {
  const entries = data.runs.flatMap(({ label, calibration: files }, run) =>
    files.map((file) => ({ run, label, file, bins: file.bins ?? [] })));
  if (!entries.length) return;
  byId("calibration").hidden = false;
  byId("calibration").querySelector(".charts").append(...entries.map(({ run, label, file, bins }) => {
    const words = Object.entries(file).filter(([, value]) => typeof value?.mean === "number")
      .map(([name, { mean, lo, hi }]) => `${name} ${number("", mean)} [${number("", lo)}, ${number("", hi)}]`);
    const answers = bins.reduce((sum, { count }) => sum + count, 0);
    const total = bins.reduce((sum, { accuracy, count }) => sum + accuracy * count, 0) / answers;
    const series = [{ label: "share right", total, color: run % 8, x: bins.map((bin) => bin.confidence), y: bins.map((bin) => bin.accuracy), dots: true }];
    const figure = bins.length ? chart({ title: `${label}, ${file.dataset}`, xName: "confidence", series, range: [0, 1], diagonal: true, height: 260 })
      : make("figure", { class: "chart" }, make("h3", {}, `${label}, ${file.dataset}`));
    figure.append(make("figcaption", { class: "note" }, [file.right_by ? `right by ${file.right_by}` : "", ...words].filter(Boolean).join(", ")));
    return figure;
  }));
}

header();
summaryTable();
metricPlot();
breakdowns();
calibration();
if (data.curves) {
  byId("training").hidden = false;
  byId("training").querySelector("img").src = data.curves;
}
