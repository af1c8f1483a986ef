// The page of a study: verdicts, differences with intervals, curves over seeds.

const SHOW = ["auto", "light", "dark"];
const QUANTITIES = {
  entropy: ["Entropy", "nats; of the training samples"],
  distinct_right: ["Distinct right answers", "probability that two right samples of a prompt differ"],
  kl: ["KL to the start", "nats a completion, over all held-out samples"],
  pass_at_k: ["pass@k", "of the largest k that was evaluated"],
};
const SHARES = ["distinct_right", "pass_at_k"];

class Study {
  constructor(data) {
    this.data = data;
    this.told = data.study;
    this.share = this.told.metric === "accuracy";
    this.scale = this.share ? 100 : 1;
    this.unit = this.share ? "points" : "of the reward";
    this.charts = new Charts($("charts"));
    this.look = Object.fromEntries(this.told.variants.map((name, i) =>
      [name, { name, colour: COLOURS[i % COLOURS.length], dash: i < COLOURS.length ? undefined : "6 3" }]));
    $("theme").addEventListener("click", () => this.theme(SHOW[(SHOW.indexOf(this.chosen) + 1) % 3]));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.theme(this.chosen));
    $("bands").addEventListener("change", () => this.curves());
    $("bands").checked = this.told.variants.length <= 8;
    let kept = "auto";
    try { kept = localStorage.getItem("winnow-theme") ?? "auto"; } catch { /* a page without storage */ }
    this.theme(SHOW.includes(kept) ? kept : "auto");
    let width = 0;
    new ResizeObserver(() => {
      const now = $("forest").clientWidth;
      if (now !== width) { width = now; this.figures(); }
    }).observe($("forest"));
  }

  theme(chosen) {
    this.chosen = chosen;
    const dark = chosen === "dark" || (chosen === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.dark = String(dark);
    $("theme").textContent = "Theme: " + chosen;
    try { localStorage.setItem("winnow-theme", chosen); } catch { /* it is asked for again then */ }
    this.charts.repaint();
  }

  value(x) { return formatted(x, this.share); }

  ranged(d, show = (x) => number(x)) {
    if (!d || !has(d.value)) return "–";
    return has(d.low) ? `${show(d.value)} [${show(d.low)}, ${show(d.high)}]` : show(d.value);
  }

  difference(d) {
    const own = (x) => (has(x) ? (this.scale * x).toFixed(this.share ? 1 : 3) : null);
    const sign = d.estimate > 0 ? "+" : "";
    return has(d.low) ? `${sign}${own(d.estimate)} [${own(d.low)}, ${own(d.high)}]` : `${sign}${own(d.estimate)}`;
  }

  show() {
    const { data, told } = this;
    $("title").replaceChildren(shown(told.name));
    document.title = `${told.name} - Winnow`;
    $("made").textContent = `Made by Winnow ${data.version}.`;
    this.tiles();
    this.sentences();
    this.pairs();
    this.curves();
    this.variants();
    this.equal();
    $("sharing").append(...data.sharing.map((one) => {
      const all = ["held_out", "order", "samples"].every((key) => one[key] === one.seeds);
      return make("li", { class: all ? "good" : "warn" }, shown(one.said));
    }));
    $("how").append(...this.method().map((line) => make("li", {}, shown(line))));
  }

  tiles() {
    const { told } = this;
    const budget = Object.entries(told.budget).map(([kind, limit]) => `${number(limit)} ${kind}`)[0] ?? "steps";
    const counted = this.data.variants.map((one) => one.seeds.length);
    const tile = (value, label) => make("div", { class: "tile" }, make("b", {}, value), make("span", {}, label));
    $("tiles").append(tile(number(told.variants.length), "variants"), tile(number(Math.max(...counted)), "seeds each"),
      tile(number(counted.reduce((a, b) => a + b, 0)), "runs"), tile(budget, "budget of a run"),
      tile(`${this.data.differences.filter((one) => one.told).length} of ${this.data.differences.length}`, "pairs told apart"));
  }

  sentences() {
    const kind = (one) => (one.told ? "good" : one.verdict.startsWith("cannot tell") ? "warn" : "");
    const own = this.data.differences.filter((one) => one.a === this.told.reference);
    $("sentences").append(make("ul", { class: "verdict" },
      ...own.map((one) => make("li", { class: kind(one) }, shown(one.verdict))),
      ...this.data.notes.map((note) => make("li", { class: "bad" }, shown(note)))));
  }

  pairs() {
    const level = `${number(100 * this.told.level)} %`;
    $("differences-help").replaceChildren(shown(`${this.told.metric} of each variant minus that of ${this.told.reference}, ${level} intervals over seeds: paired by seed (above, green or red where told), unpaired (below, grey).`));
    const pairsOf = (all) => all.map((one) => make("tr", {}, make("td", {}, shown(one.b)), make("td", {}, shown(one.a)),
      make("td", {}, this.difference(one.paired)), make("td", {}, this.difference(one.unpaired)), make("td", {}, this.difference(one.sign_flip)),
      make("td", {}, number(one.paired.p)), make("td", {}, number(one.adjusted_p)), make("td", {}, this.ranged(one.improvement, (x) => percent(x))),
      make("td", {}, one.told ? "yes" : "no"), make("td", {}, number(one.seeds_needed))));
    const heads = ["variant", "minus", "paired", "unpaired", "sign flips", "p", "p, corrected", "P(better), by seed", "told", "seeds needed"];
    for (const [key, title] of [["differences", "At the end"], ["on_the_way", "On the way (area under the curve over its length)"]])
      if (this.data[key].length) $("pairs").append(make("h3", {}, title), table(heads, pairsOf(this.data[key])));
  }

  figures() {
    const own = this.data.differences.filter((one) => one.a === this.told.reference);
    const rows = own.map((one) => ({ name: one.b, told: one.told, paired: one.paired, unpaired: one.unpaired }));
    $("forest").replaceChildren(rows.length ? forest(rows, Math.max(280, Math.min($("forest").clientWidth, 1000)), this.scale, `${this.unit} above ${this.told.reference}`) : "There is one variant alone.");
    this.paths();
  }

  curves() {
    const axis = this.told.axis;
    $("curves-help").replaceChildren(shown(`Mean over seeds, with ${number(100 * this.told.level)} % intervals over seeds, by ${axis}.`));
    const all = Object.values(this.data.curves).flatMap((own) => Object.values(own.metric.x));
    this.charts.heads = { length: 2 };
    this.charts.last = Math.max(1, ...all);
    for (const plot of this.charts.plots) plot.u.destroy();
    this.charts.plots = [];
    this.charts.place.replaceChildren();
    const metric = this.share ? "Held-out accuracy" : "Held-out reward";
    this.chart("metric", { title: metric, says: "of the policy on the way", share: this.share });
    for (const [key, [title, says]] of Object.entries(QUANTITIES)) this.chart(key, { title, says, share: SHARES.includes(key) });
  }

  /** One chart: the mean of each variant, and its interval. */
  chart(key, chart) {
    const names = this.told.variants.filter((name) => this.data.curves[name]?.[key]?.x.length);
    if (!names.length) return;
    const xs = [...new Set(names.flatMap((name) => this.data.curves[name][key].x))].sort((a, b) => a - b);
    const data = [xs], series = [], bands = [], words = [];
    const aligned = (x, y) => {
      const known = new Map(x.map((own, i) => [own, y[i]]));
      return xs.map((own) => known.get(own) ?? null);
    };
    const line = (name, extra) => ({ label: name, scale: "y", spanGaps: true, points: { show: false }, value: (_, x) => formatted(x, chart.share), ...extra });
    for (const name of names) {
      const own = this.data.curves[name][key], { colour, dash } = this.look[name];
      data.push(aligned(own.x, own.mean));
      series.push(line(name, { stroke: () => colourOf(colour), width: 2, dash: dash && [6, 3], points: { show: xs.length < 40, size: 5 } }));
      words.push(`${name} ends at ${formatted(own.mean[own.mean.length - 1], chart.share)}`);
    }
    if ($("bands").checked) for (const name of names) {
      const own = this.data.curves[name][key], { colour } = this.look[name];
      if (!own.low.some(has)) continue;
      data.push(aligned(own.x, own.low), aligned(own.x, own.high));
      for (const edge of ["low", "high"]) series.push(line(`${name} ${edge}`, { stroke: () => colourOf(colour) + "55", width: 1, class: "edge" }));
      bands.push({ series: [data.length - 1, data.length - 2], fill: () => colourOf(colour) + "22" });
    }
    this.charts.add(chart, { data, series, bands, words: words.join("; "), right: false, x: this.told.axis });
  }

  variants() {
    const quantities = Object.keys(QUANTITIES).filter((key) => this.data.variants.some((one) => one.quantities?.[key]));
    const rows = this.data.variants.map((one) => make("tr", {}, make("td", {}, shown(one.name)), make("td", {}, number(one.seeds.length)),
      make("td", {}, this.ranged(one.mean, (x) => this.value(x))), make("td", {}, this.ranged(one.iqm, (x) => this.value(x))),
      make("td", {}, this.ranged(one.area, (x) => this.value(x))), make("td", {}, this.reached(one)),
      ...quantities.map((key) => make("td", {}, this.ranged(one.quantities?.[key], (x) => formatted(x, SHARES.includes(key)))))));
    const level = has(this.told.reach) ? `${this.told.axis} to ${this.value(this.told.reach)}` : "reach";
    $("variants-table").append(table(["variant", "seeds", this.told.metric, "interquartile mean", "mean on the way", level,
      ...quantities.map((key) => QUANTITIES[key][0] + " at the end")], rows));
  }

  reached(one) {
    const own = one.reach;
    if (!own || !own.each.length) return "–";
    const median = has(own.median) ? number(Math.round(own.median)) : "never";
    return `${median} (${own.reached} of ${own.each.length})`;
  }

  paths() {
    $("paths").replaceChildren();
    for (const [key, [title]] of Object.entries(QUANTITIES)) {
      const names = this.told.variants.filter((name) => this.data.curves[name]?.["metric_by_" + key]?.x.length);
      if (!names.length) continue;
      const lines = names.map((name) => ({ ...this.look[name], ...this.data.curves[name]["metric_by_" + key] }));
      const place = make("div", { class: "plot" });
      $("paths").append(make("figure", { class: "chart" }, make("figcaption", {}, make("b", {}, `${this.told.metric} by ${title}`), " ",
        make("span", {}, "mean over seeds, from the start to the dot")), place, keyOf(lines)));
      place.append(paths(lines, Math.max(240, place.clientWidth || 380), this.share));
    }
  }

  equal() {
    const own = this.data.quantities;
    $("beside-help").replaceChildren(shown(own.length
      ? `Compared where the ${this.told.metric} is the same: at the highest that all runs of both reach. Entropy is compared at temperature 1 alone, pass@k where k is the same.`
      : "Nothing is compared at equal metric: it needs evaluations on the way (eval.every) and runs that rise."));
    if (!own.length) return;
    const rows = own.map((one) => {
      const share = SHARES.includes(one.quantity), show = (x) => formatted(x, share);
      const d = { value: one.paired.estimate, low: one.paired.low, high: one.paired.high };
      return make("tr", {}, make("td", {}, QUANTITIES[one.quantity][0]), make("td", {}, shown(one.b)), make("td", {}, this.value(one.metric)),
        make("td", {}, this.ranged(one.of_a, show)), make("td", {}, this.ranged(one.of_b, show)), make("td", {}, this.ranged(d, show)),
        make("td", {}, number(one.adjusted_p)), make("td", {}, one.told ? "yes" : "no"));
    });
    $("equal").append(table(["quantity", "variant", `at ${this.told.metric}`, `of ${this.told.reference}`, "of the variant", "difference", "p, corrected", "told"], rows));
  }

  method() {
    const { told } = this, level = `${number(100 * told.level)} %`;
    return [
      `Intervals are over seeds, not over prompts: Student's t, ${level}. A run is one outcome.`,
      `${told.comparisons} pairs are compared, and p is corrected for all of them (Holm). A difference is told where the corrected p of the paired t and p of exact sign flips are at most ${number(1 - told.level)}, with ${told.least_seeds} seeds or more.`,
      `Seeds needed: to find a difference of the size measured in ${number(100 * told.power)} % of studies, corrected for ${told.comparisons} comparisons.`,
      "Mean on the way: the area under the curve over its length. To reach a level: median over seeds; a seed that never does counts as more than all others.",
    ];
  }
}

function table(heads, rows) {
  return make("table", { class: "study" }, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))), make("tbody", {}, ...rows));
}

embedded.get("study").then((data) => {
  new Study(data).show();
  document.documentElement.dataset.ready = "true";
}).catch((error) => {
  $("broken").hidden = false;
  $("broken").textContent = `This page could not be shown: ${error.message}`;
  throw error;
});
