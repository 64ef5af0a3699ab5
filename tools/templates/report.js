"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const runs = ["sft", "grpo", "blind"].filter((name) => name in data.summary);
const runNames = { sft: "SFT", grpo: "GRPO", blind: "blind (images shuffled)", difference: "GRPO − SFT" };
const metricNames = { accuracy: "Accuracy", kg_jaccard: "KG Jaccard", entity_f1: "Entity F1", length: "Length" };
const outcomeNames = {
  fixed: "GRPO fixed", broke: "GRPO broke", both_wrong: "Both wrong", both_right: "Both right",
};
const typeNames = {
  disorder_present: "present", disorder_notpresent: "absent", devices_present: "device", devices_notpresent: "no device",
};
const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "line", "circle", "text", "title"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

function number(metric, value, signed = false) {
  const text = metric === "length" ? value.toFixed(1) : value.toFixed(3);
  return (signed && value >= 0 ? "+" : "") + text.replace("-", "−");
}

/* Overview */

function header() {
  document.title = data.title;
  byId("title").textContent = data.title;
  const checkpoints = runs.map((run) => `${runNames[run]}: ${data.checkpoints[run].join(", ")}`).join("; ");
  byId("facts").textContent = `${data.questions.toLocaleString("en")} questions about ${data.patients} patients. ` +
    `${checkpoints}. Facts read by ${data.extractor}. ${data.date}.`;
  const change = data.summary.difference.accuracy;
  const verdict = change.lo > 0 ? "GRPO answers more questions right than SFT"
    : change.hi < 0 ? "GRPO answers fewer questions right than SFT"
      : "GRPO and SFT do not differ in accuracy beyond chance";
  byId("lead").textContent = `${verdict}: ${data.outcomes.fixed} questions went from wrong to right and ` +
    `${data.outcomes.broke} from right to wrong; ${data.outcomes.both_right} were right both times, ` +
    `${data.outcomes.both_wrong} wrong both times.`;
}

function summaryTable() {
  const columns = [...runs, "difference"];
  const head = make("tr", {}, make("td"), ...columns.map((name) => make("th", { scope: "col" },
    name === "difference" ? null : make("span", { class: `dot ${name}` }), runNames[name])));
  const rows = Object.keys(data.summary.sft).map((metric) => make("tr", {},
    make("th", { scope: "row" }, metricNames[metric]),
    ...columns.map((name) => summaryCell(metric, data.summary[name][metric], name === "difference"))));
  byId("summary").append(make("thead", {}, head), make("tbody", {}, ...rows));
}

function summaryCell(metric, { mean, lo, hi }, signed) {
  const direction = signed && metric !== "length" ? (lo > 0 ? "up" : hi < 0 ? "down" : "") : "";
  return make("td", { class: direction }, number(metric, mean, signed),
    make("small", {}, `[${number(metric, lo, signed)}, ${number(metric, hi, signed)}]`));
}

/* Interval plots: one row per item, one line per run, all on the same axis from 0 to 1. */

function plot(parent, rows) {
  const keys = runs.map((run) => make("span", {}, make("span", { class: `dot ${run}` }), runNames[run]));
  parent.replaceChildren(make("div", { class: "keys" }, ...keys), ...rows.map(plotRow), axis());
}

function plotRow({ label, note, points }) {
  const height = 13 * runs.length + 14;
  const marks = runs.flatMap((run, index) => interval(run, points[run], 13.5 + 13 * index));
  const values = runs.map((run) => points[run].mean.toFixed(2)).join("  ·  ");
  return make("div", { class: "row" },
    make("div", { class: "label" }, label, " ", make("small", {}, note)),
    make("div", { class: "plotted" }, make("svg", { height, role: "img", "aria-label": `${label}: ${values}` },
      ...grid(height), ...marks)),
    make("div", { class: "values" }, values));
}

function grid(height) {
  return [0, 25, 50, 75, 100].map((x) => make("line", { class: "grid", x1: `${x}%`, x2: `${x}%`, y1: 0, y2: height }));
}

function interval(run, { mean, lo, hi }, y) {
  const at = (value) => `${100 * value}%`;
  const words = `${runNames[run]}: ${mean.toFixed(3)} [${lo.toFixed(3)}, ${hi.toFixed(3)}]`;
  return [
    make("line", { class: `whisker ${run}`, x1: at(lo), x2: at(hi), y1: y, y2: y }),
    make("circle", { class: run, cx: at(mean), cy: y, r: 5 }, make("title", {}, words)),
  ];
}

function axis() {
  const ticks = [0, 25, 50, 75, 100].map((x) => make("text", { x: `${x}%`, y: 13 }, (x / 100).toString()));
  return make("div", { class: "row", "aria-hidden": "true" }, make("div"),
    make("div", { class: "plotted" }, make("svg", { height: 18 }, ...ticks)), make("div"));
}

function metricPlot() {
  const metrics = Object.keys(data.summary.sft).filter((metric) => metric !== "length");
  plot(byId("metrics"), metrics.map((metric) => ({
    label: metricNames[metric], note: "",
    points: Object.fromEntries(runs.map((run) => [run, data.summary[run][metric]])),
  })));
}

/* Buttons of which one is pressed. */

function choice(parent, labels, onChoose) {
  const buttons = Object.entries(labels).map(([value, label]) => {
    const button = make("button", { type: "button", "data-value": value }, label);
    button.addEventListener("click", () => press(value));
    return button;
  });
  function press(value) {
    for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.value === value);
    onChoose(value);
  }
  parent.append(...buttons);
  press(Object.keys(labels)[0]);
}

function breakdowns() {
  const filled = Object.entries(data.breakdown).filter(([, rows]) => rows.length);
  if (!filled.length) return void byId("by-type").parentElement.remove();
  choice(byId("groupings"), Object.fromEntries(filled.map(([label]) => [label, `by ${label}`])), (label) =>
    plot(byId("breakdown"), data.breakdown[label].map((row) => ({
      label: row.name.replaceAll("_", " "), note: `n = ${row.count}`, points: row,
    }))));
}

/* Cases */

function caseCard(item) {
  const card = make("article", { class: "case" },
    make("div", { class: "images" }, ...item.images.map((name, index) => picture(name, index, item.images.length))),
    make("div", {},
      make("h3", {}, item.question),
      make("p", { class: "tags" }, make("span", { class: "outcome" }, outcomeNames[item.outcome]),
        ["", item.dataset, item.id, ...item.types].join(" · ").replaceAll("_", " ")),
      make("div", { class: "outputs" }, reference(item), completion("SFT", item.sft), completion("GRPO", item.grpo))));
  return { card, outcome: item.outcome, text: card.textContent.toLowerCase() };
}

function picture(name, index, count) {
  const image = make("img", { src: data.images[name], alt: "X-ray: its file is not within reach", loading: "lazy", tabindex: 0 });
  image.addEventListener("click", () => image.classList.toggle("large"));
  image.addEventListener("keydown", (event) => {
    if (event.key === "Enter") image.classList.toggle("large");
    if (event.key === "Escape") image.classList.remove("large");
  });
  const caption = count > 1 ? make("figcaption", {}, `image ${index + 1} of ${count}`) : null;
  return make("figure", {}, image, caption);
}

function marked(pieces) {
  return make("p", {}, ...pieces.map(([text, mark]) => (mark ? make("mark", { class: mark }, text) : text)));
}

function reference(item) {
  const answer = item.answer.join(", ") || "(nothing)";
  return make("div", { class: "output" }, make("h4", {}, "Reference"), marked(item.reference),
    make("p", { class: "answer" }, answer));
}

function completion(title, { right, text, answer, entities, kg_jaccard: jaccard }) {
  const verdict = make("span", { class: `verdict ${right ? "up" : "down"}` }, right ? "✓ right" : "✗ wrong");
  const score = jaccard === null ? null : make("span", { class: "score" }, `KG Jaccard ${jaccard.toFixed(2)}`);
  const missing = entities.missing.map(([name, type]) => make("mark", { class: "missing", title: type },
    type in typeNames ? `${name} (${typeNames[type]})` : name));
  return make("div", { class: "output" }, make("h4", {}, title, verdict, score), marked(text),
    answer === null ? null : make("p", { class: "answer" }, answer || "(nothing)"),
    missing.length ? make("p", { class: "facts" }, "missing: ", ...missing) : null);
}

function cases() {
  const cards = data.cases.map(caseCard);
  let outcome = "all";
  byId("list").append(...cards.map(({ card }) => card));
  byId("sampling").textContent = `${cards.length} of ${data.questions.toLocaleString("en")} questions, drawn at random ` +
    "and as evenly over the four outcomes as they allow.";
  const show = () => {
    const query = byId("query").value.trim().toLowerCase();
    let count = 0;
    for (const item of cards) {
      const visible = (outcome === "all" || item.outcome === outcome) && item.text.includes(query);
      item.card.hidden = !visible;
      count += visible;
    }
    byId("shown").textContent = count === 1 ? "1 case" : `${count} cases`;
  };
  byId("query").addEventListener("input", show);
  const shown = (name) => cards.filter((item) => item.outcome === name).length;
  const labels = Object.entries(outcomeNames).map(([name, label]) => [name, `${label} (${shown(name)})`]);
  choice(byId("outcomes"), { all: `All (${cards.length})`, ...Object.fromEntries(labels) }, (value) => {
    outcome = value;
    show();
  });
}

header();
summaryTable();
metricPlot();
breakdowns();
cases();
if (data.curves) {
  byId("training").hidden = false;
  byId("training").querySelector("img").src = data.curves;
}
