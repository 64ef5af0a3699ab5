/* Looking: runs beside their controls, which answered the same questions with other images. */

const RELIANCE = "image_reliance";
const CONTROL_WORDS = { blank: "a blank image", shuffled: "another patient's image" };
const looks = data.looking?.looks ?? [];
const looked = { rule: data.looking?.rules[0], control: data.looking?.controls[0], figure: RELIANCE, field: null };
const figureOf = (figures, name) => (name === "changed" ? figures.changed : figures.rules[looked.rule][name]);

function lookingLead() {
  const plain = looks.filter(({ baseline, overall }) => baseline === null && overall.count);
  const shares = [...new Set(plain.map(({ run }) => run))].map((run) => {
    const own = plain.filter((look) => look.run === run);
    const without = own.map(({ control, overall }) =>
      `${number("", figureOf(overall, "accuracy_without_image")[0])} with ${CONTROL_WORDS[control] ?? `${control} images`}`);
    return `${labelOf(run)} answers ${number("", figureOf(own[0].overall, "accuracy_with_image")[0])} of the questions right, ` +
      `and ${without.join(" and ")}.`;
  });
  const changes = looks.filter(({ baseline, overall }) => baseline !== null && overall.count).map(({ run, control, baseline, overall }) => {
    const change = figureOf(overall, RELIANCE), [mean, low, high] = change.map((part) => number("", part, true));
    const verdict = change[1] > 0 ? "more" : change[2] < 0 ? "less" : "no difference beyond chance";
    return `Image reliance of ${labelOf(run)} against ${labelOf(baseline)}, ${control} images: ${verdict} (${mean} [${low}, ${high}]).`;
  });
  byId("looking-lead").textContent = [...shares, ...changes].join(" ");
}

function lookingTable() {
  const heads = ["run", "control", "questions", ...data.looking.figures.map(({ label }) => label)];
  const rows = looks.map(({ run, control, baseline, overall }) => make("tr", {},
    make("th", { scope: "row" }, baseline === null ? make("span", { class: `dot ${colorOf(run)}` }) : null,
      baseline === null ? labelOf(run) : `${labelOf(run)} − ${labelOf(baseline)}`),
    make("td", {}, control), make("td", {}, overall.count.toLocaleString("en")),
    data.looking.figures.map(({ name, signed }) => figureCell(figureOf(overall, name), signed || baseline !== null,
      name === RELIANCE && baseline !== null))));
  byId("looking-table").replaceChildren(
    make("thead", {}, make("tr", {}, heads.map((head) => make("th", { scope: "col" }, head)))), make("tbody", {}, rows));
}

/* `toned`: green if the whole interval is above 0, red if it is below. */
function figureCell(value, signed, toned) {
  if (!value) return make("td", {}, "–");
  const tone = toned && value[1] > 0 ? "up" : toned && value[2] < 0 ? "down" : null;
  const [mean, low, high] = value.map((part) => number("", part, signed));
  return make("td", { class: tone }, mean, make("small", {}, `[${low}, ${high}]`));
}

function lookingPlot() {
  const shown = looks.filter(({ baseline, control }) => baseline === null && control === looked.control);
  const values = shown[0].by[looked.field];
  const rows = Object.entries(values).map(([kind, { count }]) => ({
    label: kind.replaceAll("_", " "), note: `n = ${count}`,
    points: shown.map(({ by }) => figureOf(by[looked.field][kind], looked.figure)),
  }));
  const ends = rows.flatMap(({ points }) => points).filter(Boolean).flatMap(([, low, high]) => [low, high]);
  const range = [Math.min(0, ...ends), Math.max(QUARTER, ...ends)];
  plot(byId("looking-plot"), rows, shown.map(({ run }) => run),
    [Math.floor(range[0] / QUARTER) * QUARTER, Math.ceil(range[1] / QUARTER) * QUARTER]);
}

function drawLooking() {
  lookingLead();
  lookingTable();
  if (looked.field !== null) lookingPlot();
}

function lookingPickers() {
  const { rules, controls, figures } = data.looking;
  const choose = (part) => (value) => { looked[part] = value; drawLooking(); };
  const fields = data.fields.filter(({ name }) => looks[0].by[name]);
  byId("looking-rules").append(picker("right by rule", rules.map((rule) => [rule, rule]), looked.rule, choose("rule")));
  if (!fields.length) return;
  looked.field = fields[0].name;
  byId("looking-kinds").append(
    picker("kinds by", fields.map(({ name, label }) => [name, label]), looked.field, choose("field")),
    picker("figure", figures.map(({ name, label }) => [name, label]), looked.figure, choose("figure")),
    picker("control", controls.map((control) => [control, control]), looked.control, choose("control")));
}

if (looks.length) {
  byId("looking").hidden = false;
  byId("looking-notes").textContent = data.looking.notes.map((note) => `${note[0].toUpperCase()}${note.slice(1)}.`).join(" ");
  lookingPickers();
  drawLooking();
}
