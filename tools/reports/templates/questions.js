/* Questions: filters, and the questions that match */

const chosen = {
  run: data.baseline, other: runs.find((run) => run !== data.baseline) ?? null,
  rule: Math.max(0, data.rules.indexOf("answer_overlap")), outcome: "all", query: "", kinds: data.fields.map(() => ""),
  view: "facts", open: -1,
};
let shown = []; // positions in data.cases

const isRight = (item, run) => ((item.runs[run].right >> chosen.rule) & 1) === 1;
const hasTokens = data.cases.some((item) => item.runs.some((answer) => answer.tokens));

function outcomeOf(item) {
  const right = isRight(item, chosen.run);
  if (chosen.other === null) return right ? "right" : "wrong";
  if (isRight(item, chosen.other)) return right ? "both right" : "fixed";
  return right ? "broken" : "both wrong";
}

/* Texts of a search: the question, and the answers of the runs that are shown. */
const lowered = new Map();
function mentions(position, run, query) {
  const key = `${position} ${run}`;
  if (!lowered.has(key)) lowered.set(key, searchable(data.cases[position], run).toLowerCase());
  return lowered.get(key).includes(query);
}
function searchable({ id, question, answer, reference, kinds, runs: answers }, run) {
  return run === null ? [id, question, answer.join(", "), reference, ...kinds].join("\n") : answers[run].text;
}

function matches(item, position) {
  return chosen.kinds.every((kind, field) => !kind || item.kinds[field] === kind)
    && (chosen.outcome === "all" || outcomeOf(item) === chosen.outcome
      || (chosen.outcome === "differ" && ["fixed", "broken"].includes(outcomeOf(item))))
    && (!chosen.query || [...new Set([null, chosen.run, chosen.other])].some((run) => mentions(position, run, chosen.query)));
}

function refresh() {
  shown = [...data.cases.keys()].filter((position) => matches(data.cases[position], position));
  byId("shown").textContent = `${shown.length.toLocaleString("en")} of ${data.cases.length.toLocaleString("en")} questions`;
  byId("comparison").textContent = comparisonWords();
  byId("rows").style.height = `${Math.max(shown.length, 1) * ROW}px`;
  byId("list").scrollTop = 0;
  drawn.clear();
  byId("rows").replaceChildren(...(shown.length ? [] : [make("p", { class: "nothing" }, "No question matches.")]));
  drawRows();
  if (!shown.includes(chosen.open)) select(shown[0] ?? -1, { quietly: true });
  else drawCase();
}

function comparisonWords() {
  if (chosen.other === null) return "";
  const counts = { fixed: 0, broken: 0, "both right": 0, "both wrong": 0 };
  for (const item of data.cases) counts[outcomeOf(item)]++;
  const words = `${labelOf(chosen.other)} against ${labelOf(chosen.run)}, right by ${data.rules[chosen.rule]}: ${counts.fixed} fixed, ` +
    `${counts.broken} broken, ${counts["both right"]} right and ${counts["both wrong"]} wrong both times.`;
  const found = comparison(chosen.other, chosen.run), rule = data.rules[chosen.rule];
  const change = found?.difference[rule === "answer_overlap" ? "accuracy" : rule];
  if (!change) return words;
  const p = found.mcnemar[rule].p_value;
  return `${words} Accuracy ${number("", change.mean, true)} [${number("", change.lo, true)}, ${number("", change.hi, true)}]; ` +
    `McNemar's exact p ${p < 0.0001 ? "< 0.0001" : `= ${short(p)}`} (assumes independent questions).`;
}

/* The list draws only the visible rows. */

const ROW = 76;
const drawn = new Map(); // position in `shown` -> element

function drawRows() {
  const list = byId("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 6);
  const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 6);
  for (const [index, element] of drawn) {
    if (index < first || index >= last) { element.remove(); drawn.delete(index); }
  }
  for (let index = first; index < last; index++) {
    if (drawn.has(index)) continue;
    const element = row(index);
    drawn.set(index, element);
    byId("rows").append(element);
  }
  markSelected();
}

function row(index) {
  const position = shown[index], item = data.cases[position];
  const marks = [chosen.run, chosen.other].filter((run) => run !== null).map((run) => verdict(item, run, true));
  const [file, ...kinds] = item.kinds;
  const meta = [item.answer.join(", ") || "(nothing)", kinds.findLast(Boolean), file].filter(Boolean).join(" · ").replaceAll("_", " ");
  const element = make("div", { class: "item", role: "option", id: `row-${position}`, "aria-setsize": shown.length, "aria-posinset": index + 1 },
    item.images.length ? picture(item.images[0], "thumb") : make("div", { class: "absent" }, "no image"),
    make("div", {}, make("div", { class: "ask" }, item.question), make("div", { class: "meta" }, meta)),
    make("div", { class: "marks" }, marks));
  element.style.top = `${index * ROW}px`;
  element.addEventListener("click", () => select(position, { reveal: true }));
  return element;
}

function markSelected() {
  for (const [index, element] of drawn) element.setAttribute("aria-selected", shown[index] === chosen.open);
  if (chosen.open < 0) byId("list").removeAttribute("aria-activedescendant");
  else byId("list").setAttribute("aria-activedescendant", `row-${chosen.open}`);
}

function picture(position, name = null, text = "") {
  const image = make("img", { class: name, src: data.images[position], alt: text, decoding: "async" });
  image.addEventListener("error", () => image.replaceWith(make("span", { class: "absent" }, "X-ray cannot be loaded")));
  return image;
}

function verdict(item, run, brief = false) {
  const right = isRight(item, run), word = right ? "right" : "wrong";
  return make("span", { class: `verdict ${right ? "up" : "down"}`, title: `${labelOf(run)}: ${word}` },
    brief ? make("span", { class: `dot ${colorOf(run)}` }) : null, right ? "✓" : "✗", brief ? "" : ` ${word}`);
}

/* One question */

function select(position, { quietly = false, reveal = false } = {}) {
  chosen.open = position;
  const index = shown.indexOf(position), list = byId("list");
  if (index >= 0 && !quietly) {
    const top = index * ROW;
    if (top < list.scrollTop) list.scrollTop = top;
    if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
    try { history.replaceState(null, "", `#question-${position}`); } catch { /* some browsers forbid it for files */ }
  }
  drawRows();
  drawCase();
  byId("case").scrollTop = 0;
  if (reveal) byId("case").classList.add("open");
  if (reveal && getComputedStyle(byId("close")).display !== "none") byId("close").focus();
}

function step(by) {
  const index = shown.indexOf(chosen.open) + by;
  if (shown.length) select(shown[Math.min(Math.max(index, 0), shown.length - 1)]);
}

function closeCase() {
  if (!byId("case").classList.contains("open")) return false;
  byId("case").classList.remove("open");
  byId("list").focus();
  return true;
}

function drawCase() {
  const item = data.cases[chosen.open], panel = byId("case");
  if (!item) return void panel.replaceChildren(make("p", { class: "nothing" }, "Choose a question."));
  const focused = document.activeElement?.closest?.("#case") ? document.activeElement.id : null;
  const columns = [chosen.run, chosen.other].filter((run) => run !== null);
  const index = shown.indexOf(chosen.open);
  const kinds = item.kinds.map((kind, field) => (kind === null ? null : `${data.fields[field].label}: ${kind}`)).filter(Boolean);
  const tokens = columns.some((run) => item.runs[run].tokens);
  panel.replaceChildren(
    make("div", { class: "casehead" }, make("h3", {}, item.question),
      button("← Back", closeCase, { id: "close" }),
      button("↑", () => step(-1), { id: "previous", "aria-label": "Previous question", ...(index <= 0 ? { disabled: "" } : {}) }),
      button("↓", () => step(1), { id: "next", "aria-label": "Next question", ...(index >= shown.length - 1 ? { disabled: "" } : {}) })),
    make("p", { class: "tags" }, make("b", {}, outcomeOf(item)), ` · id ${item.id} · `, kinds.join(" · ").replaceAll("_", " ")),
    tokens ? viewButtons() : "",
    make("div", { class: "evidence" },
      make("div", { class: "images" }, item.images.map((position, number) => figure(position, number, item.images.length))),
      make("div", { class: "outputs" }, reference(item), columns.map((run) => answerColumn(item, run)))),
    legend(tokens));
  if (focused) byId(focused)?.focus();
}

function viewButtons() {
  return make("div", { class: "buttons", role: "group", "aria-label": "Show texts with" },
    [["facts", "Facts"], ["tokens", "Token probabilities"]].map(([view, label]) => button(label, () => {
      chosen.view = view;
      drawCase();
    }, { id: `view-${view}`, "aria-pressed": chosen.view === view })));
}

function legend(tokens) {
  const parts = chosen.view === "tokens" && tokens
    ? make("span", {}, tokenHint())
    : ["Facts:", make("mark", { class: "matched" }, "in the reference too"), make("mark", { class: "extra" }, "not in the reference"),
      make("mark", { class: "extra claim" }, "hallucinated finding or device"), make("mark", { class: "missing" }, "missing")];
  return make("p", { class: "note legend" }, parts);
}

function figure(position, number, count) {
  const name = count > 1 ? `image ${number + 1} of ${count}` : "image";
  const open = button("", () => enlarge(position), { "aria-label": `Enlarge ${name}` });
  open.append(picture(position, null, `X-ray, ${name}`));
  return make("figure", {}, open, count > 1 ? make("figcaption", {}, name) : null);
}

function enlarge(position) {
  const dialog = make("dialog", { "aria-label": "X-ray" }, picture(position, null, "X-ray"));
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function reference(item) {
  const [entities] = item.facts;
  const marks = new Map(pairs(entities).map(([word]) => [data.terms[word], "known"]));
  return make("div", { class: "output" }, make("h4", {}, "Reference"), marked(thinkOf(item.reference), marks),
    make("p", { class: "answer" }, item.answer.join(", ") || "(nothing)"));
}

function answerColumn(item, run) {
  const answer = item.runs[run], facts = compareFacts(answer.facts, item.facts);
  const rules = data.rules.map((rule, bit) => `${rule} ${(answer.right >> bit) & 1 ? "✓" : "✗"}`).join(" · ");
  const scores = data.case_metrics.flatMap((name, index) => (answer.metrics[index] === null ? []
    : [make("dt", {}, name), make("dd", {}, String(answer.metrics[index]))]));
  const text = chosen.view === "tokens" && answer.tokens
    ? tokenView(answer) : marked(thinkOf(answer.text), facts.marks);
  return make("div", { class: "output" },
    make("h4", {}, make("span", {}, make("span", { class: `dot ${colorOf(run)}` }), labelOf(run)), verdict(item, run)),
    text,
    make("p", { class: "answer" }, answer.answer.join(", ") || "(nothing)", answer.tagged ? null : make("small", {}, " (first sentence: no <answer>)")),
    make("div", { class: "facts" }, factList("Entities", facts.entities), factList("Relations", facts.relations)),
    make("details", {}, make("summary", {}, "Scores"), make("p", { class: "rules" }, rules), make("dl", { class: "scores" }, scores)));
}

/* The inside of the first <think>...</think>, as the scores read it. The whole text if there is none. */
function thinkOf(text) {
  const start = text.indexOf("<think>"), end = text.indexOf("</think>", start);
  return start < 0 || end < 0 ? text.trim() : text.slice(start + 7, end).trim();
}

/* Facts: entities are [word, type] pairs, relations [source, target, type] triples, of numbers */

function pairs(flat, size = 2) {
  return Array.from({ length: flat.length / size }, (_, index) => flat.slice(index * size, (index + 1) * size));
}

function compareFacts([entities, relations], [trueEntities, trueRelations]) {
  const found = {
    entities: split(pairs(entities), pairs(trueEntities), entityWords, ([, type]) => data.entity_types[type].claim),
    relations: split(pairs(relations, 3), pairs(trueRelations, 3), relationWords, () => false),
  };
  const known = new Set(pairs(trueEntities).map(String));
  found.marks = new Map(pairs(entities).map((pair) => [data.terms[pair[0]],
    known.has(String(pair)) ? "matched" : data.entity_types[pair[1]].claim ? "extra claim" : "extra"]));
  return found;
}

/* Facts that are in the reference, are not, or are missing: [words, class] each. */
function split(mine, truth, words, isClaim) {
  const [said, known] = [new Set(mine.map(String)), new Set(truth.map(String))];
  return [
    ...mine.filter((fact) => known.has(String(fact))).map((fact) => [words(fact), "matched"]),
    ...mine.filter((fact) => !known.has(String(fact))).map((fact) => [words(fact), isClaim(fact) ? "extra claim" : "extra"]),
    ...truth.filter((fact) => !said.has(String(fact))).map((fact) => [words(fact), "missing"]),
  ];
}

function entityWords([word, type]) {
  const { kind } = data.entity_types[type];
  return kind ? `${data.terms[word]} (${kind})` : data.terms[word];
}

function relationWords([source, target, type]) {
  return `${data.terms[source]} ${data.relation_types[type].replaceAll("_", " ")} ${data.terms[target]}`;
}

const factNames = { matched: "in the reference", extra: "not in the reference", "extra claim": "hallucinated", missing: "missing" };

function factList(title, facts) {
  if (!facts.length) return null;
  const items = facts.map(([words, name]) => make("li", {}, make("mark", { class: name, title: factNames[name], "aria-label": `${words}: ${factNames[name]}` }, words)));
  return [make("h5", {}, title), make("ul", { class: "factlist" }, items)];
}

/* A paragraph in which whole-word occurrences of the keys of `marks`, in any case, carry their class; longer keys win. */
function marked(text, marks) {
  const words = [...marks.keys()].sort((a, b) => b.length - a.length).map((word) => word.replace(/[.*+?^${}()|[\]\\\/-]/g, "\\$&"));
  if (!words.length) return make("p", {}, text);
  const pieces = text.split(new RegExp(`(?<![\\p{L}\\p{N}_])(${words.join("|")})(?![\\p{L}\\p{N}_])`, "iu"));
  return make("p", {}, pieces.map((piece, index) =>
    (index % 2 ? make("mark", { class: marks.get(piece.toLowerCase()) ?? "known" }, piece) : piece)));
}

/* Filters and keys */

function filters() {
  const bar = byId("filters"), outcomes = make("span", {});
  const names = runs.map((run) => [run, labelOf(run)]);
  const drawOutcomes = () => {
    chosen.outcome = "all";
    const options = chosen.other === null ? ["all", "right", "wrong"]
      : ["all", "differ", "fixed", "broken", "both right", "both wrong"];
    outcomes.replaceChildren(picker("outcome", options.map((name) => [name, name]), "all", (value) => { chosen.outcome = value; refresh(); }));
  };
  const others = make("span", {});
  const drawOthers = () => others.replaceChildren(picker("compared with", [["", "no other"], ...names.filter(([run]) => run !== chosen.run)],
    chosen.other ?? "", (value) => { chosen.other = value === "" ? null : Number(value); drawOutcomes(); refresh(); }));
  drawOutcomes();
  if (runs.length > 1) {
    bar.append(picker("run", names, chosen.run, (value) => {
      if (chosen.other === Number(value)) chosen.other = chosen.run;
      chosen.run = Number(value);
      drawOthers();
      drawOutcomes();
      refresh();
    }), others);
    drawOthers();
  }
  bar.append(outcomes, picker("right by", data.rules.map((rule, index) => [index, rule]), chosen.rule, (value) => {
    chosen.rule = Number(value);
    refresh();
  }));
  data.fields.forEach(({ label }, field) => {
    const counts = new Map();
    for (const { kinds } of data.cases) if (kinds[field] !== null) counts.set(kinds[field], (counts.get(kinds[field]) ?? 0) + 1);
    if (counts.size < 2) return;
    const options = [...counts].sort((a, b) => b[1] - a[1]).map(([kind, count]) => [kind, `${kind.replaceAll("_", " ")} (${count})`]);
    bar.append(picker(label, [["", "all"], ...options], "", (value) => { chosen.kinds[field] = value; refresh(); }));
  });
  byId("query").addEventListener("input", () => { chosen.query = byId("query").value.trim().toLowerCase(); refresh(); });
}

function keys(event) {
  const typing = event.target.closest("input, select, textarea"), inList = event.target === byId("list");
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const page = Math.max(1, Math.floor(byId("list").clientHeight / ROW) - 1);
  const moves = { ...(typing ? {} : { j: 1, k: -1 }),
    ...(inList ? { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -shown.length, End: shown.length } : {}) };
  if (event.key in moves) step(moves[event.key]);
  else if (event.key === "/" && !typing) byId("query").focus();
  else if (event.key === "Enter" && inList) { select(chosen.open, { reveal: true }); byId("case").focus(); }
  else if (event.key === "Escape" && !closeCase() && event.target === byId("query")) {
    byId("query").value = "";
    byId("query").dispatchEvent(new Event("input"));
    byId("list").focus();
  } else if (event.key === "Escape" && event.target.closest("#case")) byId("list").focus({ preventScroll: true });
  else return;
  event.preventDefault();
}

filters();
const wanted = Number(/^#question-(\d+)$/.exec(location.hash)?.[1] ?? -1);
if (wanted < data.cases.length) chosen.open = wanted;
byId("list").addEventListener("scroll", drawRows, { passive: true });
onResize(byId("list"), drawRows);
refresh();
if (wanted >= 0) select(chosen.open);
document.addEventListener("keydown", keys);
document.documentElement.dataset.ready = Math.round(performance.now());
