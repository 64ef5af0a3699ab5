/* Curves, and the groups of completions one by one. */

const chosen = { kind: "all", query: "", view: "text" };
let shown = data.groups;

function header() {
  document.querySelector(".top").append(themeButton());
  byId("title").textContent = data.title;
  byId("facts").textContent = `${data.steps.toLocaleString("en")} steps.`;
  byId("charts").append(...data.panels.map(({ title, series }) => chart({
    title, xName: "step", series: series.map((one) => ({ ...one, smooth: true })),
  })));
  if (!data.panels.length) byId("curves").parentElement.remove();
  byId("settings").append(make("tbody", {}, data.facts.map(([name, value]) =>
    make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)))));
  if (!data.facts.length) byId("arguments").parentElement.remove();
}

/* The stages of the profiled steps. Shares of limits are blank where a stage has none. */
function profile() {
  const own = data.profile;
  if (!own) return void byId("profile").remove();
  const percent = (value) => (value === undefined ? "" : `${(100 * value).toFixed(1)}%`);
  const columns = [
    ["stage", (row) => row.stage], ["seconds per step", (row) => row.seconds.toFixed(3)], ["share", (row) => percent(row.share)],
    ["tokens per second", (row) => (row.tokens_per_second === undefined ? "" : Math.round(row.tokens_per_second).toLocaleString("en"))],
    ["of compute limit", (row) => percent(row.compute_share)], ["of bandwidth limit", (row) => percent(row.bandwidth_share)],
  ];
  const trace = own.trace ? ` The trace of one more step is in ${own.trace}; chrome://tracing and ui.perfetto.dev open it.` : "";
  byId("profile-facts").textContent = `Mean of ${own.steps} ${own.steps === 1 ? "step" : "steps"} from step ${own.first_step} on, ` +
    `${own.device}. Limits as measured: ${own.bandwidth_gb_per_second.toFixed(0)} GB/s by copying, ` +
    `${short(own.compute_tflops)} TFLOP/s by matrix products. Work counts weights, not attention.${trace}`;
  byId("stages").append(
    make("thead", {}, make("tr", {}, columns.map(([name]) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, own.stages.map((row) => make("tr", {}, columns.map(([, show], place) => {
      const share = make(place ? "td" : "th", place ? {} : { scope: "row" }, show(row));
      if (place === 2) {
        const part = make("i", { class: "part" });
        part.style.setProperty("--part", row.share);
        share.append(part);
      }
      return share;
    })))));
}

function matches(group) {
  const kinds = {
    all: true, flat: group.flat, spread: !group.flat,
    truncated: group.completions.some((one) => !one.finished), "not in loss": group.completions.some((one) => !one.in_loss),
  };
  const text = () => [group.prompt, group.solution, group.idx, ...group.completions.map((one) => one.text)].join("\n").toLowerCase();
  return kinds[chosen.kind] && (!chosen.query || text().includes(chosen.query));
}

function refresh() {
  shown = data.groups.filter(matches);
  byId("position").max = Math.max(0, shown.length - 1);
  byId("position").value = 0;
  draw();
}

function draw() {
  const index = Number(byId("position").value), group = shown[index];
  byId("position").setAttribute("aria-valuetext", group ? `step ${group.step}` : "none");
  byId("where").textContent = group ? `Step ${group.step}, group ${index + 1} of ${shown.length} shown` : "No group matches.";
  byId("previous").disabled = index <= 0;
  byId("next").disabled = index >= shown.length - 1;
  if (!group) return void byId("group").replaceChildren();
  const highest = Math.max(...group.completions.map((one) => Math.abs(one.advantage ?? 0)), 1e-9);
  const best = [...group.completions].sort((a, b) => b.reward - a.reward);
  byId("group").replaceChildren(
    make("h3", {}, promptWords(group.prompt)),
    make("p", { class: "solution" }, `Reference: ${group.solution || "(none)"}`),
    make("p", { class: "note" }, group.flat
      ? [make("span", { class: "flat" }, "no spread"), " all completions earned the same reward, so the group trains nothing"]
      : `spread of rewards ${short(group.spread)}`),
    chosen.view === "text" ? "" : make("p", { class: "note" }, chosen.view === "looks" ? lookHint() : tokenHint()),
    ...best.map((one) => completion(one, highest)));
}

/* A prompt without the marks of the chat format. */
function promptWords(prompt) {
  return prompt.replace(/<\|image_(\d+)\|>/g, "[image $1] ").replace(/<\|(user|end|assistant|system)\|>/g, " ").trim();
}

function completion(one, highest) {
  const signed = (value) => (value >= 0 ? "+" : "") + minus(value.toFixed(2));
  const rewards = Object.entries(one.rewards).map(([name, value]) =>
    make("div", {}, name.replace("external_", ""), make("span", {}, value === null ? "–" : short(value))));
  const notes = [one.finished ? null : "truncated", one.in_loss ? null : "not in loss"].filter(Boolean).join(", ");
  const marks = make("div", { class: "marks" }, make("div", {}, "reward", make("b", {}, short(one.reward))), rewards);
  if (one.advantage !== null) {
    const part = make("i", { class: one.advantage >= 0 ? "up" : "down" });
    part.style.setProperty("--part", Math.abs(one.advantage) / highest);
    marks.append(make("div", {}, "advantage", make("b", {}, signed(one.advantage))), make("div", { class: "bar" }, part));
  }
  if (one.weight !== undefined) marks.append(make("div", {}, "vision weight", make("span", {}, short(one.weight))));
  if (notes) marks.append(make("span", { class: "flat" }, notes));
  return make("div", { class: "completion" }, marks,
    canShow(one, chosen.view) ? tokenView(one, chosen.view === "looks") : make("p", {}, one.text || "(nothing)"));
}

/* Whether a completion can be shown as tokens shaded by probability or by what they owe to the image. */
function canShow(one, view) {
  return Boolean({ text: false, tokens: one.tokens, looks: one.tokens?.looks }[view]);
}

function move(by) {
  byId("position").value = Number(byId("position").value) + by;
  draw();
}

function filters() {
  const kinds = [["all", "all groups"], ["flat", "without spread"], ["spread", "with spread"], ["truncated", "with a truncated completion"],
    ["not in loss", "left out of the loss"]];
  byId("filters").append(picker("groups", kinds, "all", (value) => { chosen.kind = value; refresh(); }));
  const views = [["tokens", "Token probabilities"], ["looks", "Vision dependency"]];
  const possible = views.filter(([view]) => data.groups.some((group) => group.completions.some((one) => canShow(one, view))));
  const toggles = possible.map(([view, label]) => [view, button(label, () => {
    chosen.view = chosen.view === view ? "text" : view;
    for (const [name, toggle] of toggles) toggle.setAttribute("aria-pressed", chosen.view === name);
    draw();
  }, { id: view, "aria-pressed": false })]);
  byId("filters").append(...toggles.map(([, toggle]) => toggle));
  const walk = document.querySelector(".walk");
  walk.prepend(button("←", () => move(-1), { id: "previous", "aria-label": "Previous group" }));
  walk.append(button("→", () => move(1), { id: "next", "aria-label": "Next group" }));
  byId("position").addEventListener("input", draw);
  byId("query").addEventListener("input", () => { chosen.query = byId("query").value.trim().toLowerCase(); refresh(); });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest("input[type=search], select, textarea");
    if (typing && event.key !== "Escape") return;
    if (event.key === "j" || event.key === "k") move(event.key === "j" ? 1 : -1);
    else if (event.key === "/") byId("query").focus();
    else if (event.key === "Escape" && typing) event.target.blur();
    else return;
    event.preventDefault();
  });
}

header();
profile();
if (data.groups.length) {
  const share = (100 * data.flat / data.sampled).toFixed(0);
  byId("counts").textContent = `${data.groups.length.toLocaleString("en")} of ${data.sampled.toLocaleString("en")} groups, evenly over the ` +
    `run. ${data.flat.toLocaleString("en")} of all groups (${share}%) had no spread. Keys: j and k next and previous, / search.`;
  filters();
  refresh();
} else {
  byId("samples").remove();
}
document.documentElement.dataset.ready = Math.round(performance.now());
