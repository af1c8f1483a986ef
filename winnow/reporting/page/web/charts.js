// The curves: what is drawn of the metrics, on shared steps.

const COLOURS = ["--blue", "--orange", "--green", "--purple", "--red", "--sky", "--brown", "--pink", "--olive", "--grey"];

// Of each chart: its title, what it says, and its series: a key of metrics.jsonl (or of evaluations), its name,
// a colour. `right`: on the axis at the right. `share`: as percentages. `stack`: one upon another. `band`: lower and
// upper edge. Where several runs are compared, each is one line: that of the first series.
const CHARTS = [
  { title: "Held-out accuracy", says: "with its 95 % interval; the dashed line is the mean reward", share: true, evaluations: true,
    series: [{ key: "accuracy", name: "accuracy", colour: "--blue" },
             { key: "reward", name: "mean reward", colour: "--orange", dash: [4, 4] }],
    band: ["low", "high"] },
  { title: "Reward while training", says: "mean over the samples of a step, before selection",
    series: [{ key: "reward_mean", name: "mean reward", colour: "--orange" },
             { key: "right_rate", name: "share right", colour: "--blue" }] },
  { title: "Prompts by their samples", says: "only mixed ones tell good from bad in a group", stack: true,
    series: [{ key: "prompts_mixed", name: "mixed", colour: "--blue" },
             { key: "prompts_all_right", name: "all right", colour: "--green" },
             { key: "prompts_all_wrong", name: "all wrong", colour: "--red" },
             { key: "prompts_no_score", name: "no score", colour: "--grey" }] },
  { title: "Samples kept", says: "of those sampled: which survive selection, which weigh in the update",
    series: [{ key: "survivors", name: "kept", colour: "--green" },
             { key: "samples_trained", name: "trained on", colour: "--blue" },
             { key: "samples", name: "sampled", colour: "--grey" }] },
  { title: "Who decides the update", says: "effective number of survivors; largest share of one prompt",
    series: [{ key: "effective_survivors", name: "effective survivors", colour: "--blue" },
             { key: "largest_prompt_share", name: "largest share", colour: "--red", right: true }] },
  { title: "Entropy", says: "of the next token, nats; of all samples and of the right ones",
    series: [{ key: "entropy", name: "all", colour: "--blue" },
             { key: "entropy_right", name: "right", colour: "--green" }] },
  { title: "Distinct right answers", says: "probability that two right samples of a prompt differ in their path", share: true,
    series: [{ key: "distinct_right", name: "distinct", colour: "--purple" }] },
  { title: "Identical samples", says: "share of pairs of a prompt's samples that are equal; what their log-probs say it should be", share: true,
    series: [{ key: "identical_pairs", name: "equal", colour: "--red" },
             { key: "identical_expected", name: "expected", colour: "--grey", dash: [4, 4] }] },
  { title: "Length", says: "mean tokens of a completion; share cut off at max_tokens",
    series: [{ key: "completion_tokens_mean", name: "tokens", colour: "--blue" },
             { key: "cut_off_rate", name: "cut off", colour: "--red", right: true }] },
  { title: "Ratio to the sampling policy", says: "median of its tokens, from the 1 % to the 99 % quantile",
    series: [{ key: "ratio_quantiles/50%", name: "median", colour: "--blue" },
             { key: "ratio_quantiles/1%", name: "1 %", colour: "--sky", dash: [2, 3] },
             { key: "ratio_quantiles/99%", name: "99 %", colour: "--sky", dash: [2, 3] }],
    between: [1, 2] },
  { title: "Log-probs of sampler and learner", says: "mean distance, nats a token, while the weights are the same: rounding, or a fault",
    series: [{ key: "logprob_gap", name: "distance", colour: "--red" }] },
  { title: "Clipped tokens, effective sample size", says: "shares", share: true,
    series: [{ key: "clip_fraction", name: "clipped", colour: "--red" },
             { key: "ess", name: "effective sample size", colour: "--blue" }] },
  { title: "KL", says: "nats: to the start (a completion, with its interval), to the reference, to the sampling policy (a token)",
    series: [{ key: "kl_to_start", name: "to the start", colour: "--blue" },
             { key: "kl_to_reference", name: "to the reference", colour: "--purple" },
             { key: "kl_to_sampling_policy", name: "to the sampling policy", colour: "--orange", right: true }],
    band: ["kl_to_start_low", "kl_to_start_high"] },
  { title: "Tokens", says: "sampled and trained on: what is rejected costs nothing more",
    series: [{ key: "tokens_trained", name: "trained on", colour: "--blue" },
             { key: "tokens_sampled", name: "sampled", colour: "--grey" }] },
  { title: "Gradient", says: "norm before clipping; learning rate",
    series: [{ key: "grad_norm", name: "norm", colour: "--blue" },
             { key: "lr", name: "learning rate", colour: "--orange", right: true }] },
  { title: "Loss", says: "of a policy gradient it means little: only its gradient is used",
    series: [{ key: "loss", name: "loss", colour: "--blue" }, { key: "anchor_loss", name: "anchor", colour: "--orange" }] },
  { title: "Preference pairs", says: "share in the right order; margin of the implicit reward",
    series: [{ key: "preference_accuracy", name: "right order", colour: "--blue" },
             { key: "preference_margin", name: "margin", colour: "--orange", right: true }] },
  { title: "Critic", says: "squared error of its values; how much of the returns it explains",
    series: [{ key: "value_error", name: "error", colour: "--red" },
             { key: "explained_variance", name: "explained", colour: "--blue", right: true }] },
  { title: "Success by difficulty", says: "share of right samples", share: true, prefix: "success_by_difficulty/", least: 2 },
  { title: "Parts of the reward", says: "mean of each", prefix: "reward_parts/" },
  { title: "Seconds of a step", says: "by stage", stack: true, prefix: "seconds/", dropZero: true },
  { title: "Memory", says: "GiB: of the process, of the device",
    series: [{ key: "memory_host_gib", name: "host", colour: "--blue" },
             { key: "memory_device_gib", name: "device", colour: "--orange" }] },
];

const colourOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** The columns that a chart takes of a run: steps, and a list for each series that has any value. */
function columnsOf(chart, head) {
  let columns = head.metrics;
  if (chart.evaluations) {
    const rows = head.evaluations.filter((row) => (row.split ?? "eval") === "eval" || row.split === "final");
    const keys = ["step", "accuracy", "reward", "low", "high"];
    columns = Object.fromEntries(keys.map((key) => [key, rows.map((row) => row[key] ?? null)]));
    if (columns.reward.every((x, i) => x === columns.accuracy[i])) columns.reward = columns.reward.map(() => null);
  }
  let series = chart.series;
  if (chart.prefix) {
    series = Object.keys(columns).filter((key) => key.startsWith(chart.prefix))
      .map((key, i) => ({ key, name: key.slice(chart.prefix.length), colour: COLOURS[i % COLOURS.length] }));
  }
  const told = (key) => columns[key]?.some((x) => has(x) && !(chart.dropZero && x === 0));
  series = series.filter((one) => told(one.key));
  if (series.some((one) => one.key === "right_rate")
      && columns.right_rate.every((x, i) => x === columns.reward_mean?.[i])) series = series.filter((one) => one.key !== "right_rate");
  return { steps: columns.step ?? [], columns, series: series.length >= (chart.least ?? 1) ? series : [] };
}

/** What is drawn where there is one run: data for uPlot and its options. */
function single(chart, head) {
  const { steps, columns, series } = columnsOf(chart, head);
  if (!series.length || !steps.length) return null;
  const raw = series.map((one) => columns[one.key].map((x) => x ?? null));
  const drawn = chart.stack ? stacked(raw) : raw;
  const data = [steps, ...drawn];
  const made = series.map((one, i) => ({
    label: one.name, scale: one.right ? "right" : "y", stroke: () => colourOf(one.colour), width: 2, dash: one.dash,
    fill: chart.stack ? () => colourOf(one.colour) : undefined, raw: raw[i], spanGaps: true,
    points: { show: steps.length < (chart.stack ? 2 : 40), size: 5 }, // of one step there is no area
    value: (_, __, ___, at) => (has(at) ? formatted(raw[i][at], chart.share) : "–"),
  }));
  const bands = [];
  if (chart.stack) { // the uppermost first, the others painted over it
    made.reverse();
    data.splice(1, data.length - 1, ...drawn.slice().reverse());
  }
  const edges = chart.band && columns[chart.band[0]]?.some(has) ? chart.band : null;
  const at = chart.between && series.length === 3 ? chart.between.map((i) => i + 1) : null;
  if (edges) {
    for (const key of edges) {
      data.push(columns[key].map((x) => x ?? null));
      made.push({ label: key.replace("kl_to_start_", ""), scale: "y", stroke: () => colourOf(series[0].colour) + "55", width: 1,
                  spanGaps: true, points: { show: false }, value: (_, x) => formatted(x, chart.share) });
    }
    bands.push({ series: [data.length - 1, data.length - 2], fill: () => colourOf(series[0].colour) + "2a" });
  } else if (at) bands.push({ series: [at[1], at[0]], fill: () => colourOf("--sky") + "2a" });
  const words = series.map((one, i) => `${one.name} ${ends(raw[i], steps, chart.share)}`).join("; ");
  return { data, series: made, bands, words, right: series.some((one) => one.right) };
}

/** What is drawn where several runs are compared: the first series of each. */
function compared(chart, heads) {
  const runs = heads.map((head) => columnsOf(chart, head));
  const graded = chart.evaluations && heads.some((head) => head.graded);
  const key = graded ? "reward" : runs.flatMap((run) => run.series)[0]?.key;
  if (!key) return null;
  const steps = [...new Set(runs.flatMap((run) => run.steps))].sort((a, b) => a - b);
  const data = [steps];
  const made = [];
  const words = [];
  runs.forEach((run, i) => {
    const values = new Map(run.steps.map((step, at) => [step, run.columns[key]?.[at] ?? null]));
    const line = steps.map((step) => values.get(step) ?? null);
    data.push(line);
    words.push(`${heads[i].name} ${ends(line, steps, chart.share)}`);
    made.push({ label: heads[i].name, scale: "y", stroke: () => colourOf(COLOURS[i % COLOURS.length]), width: 2, spanGaps: true,
                raw: line, dash: i < COLOURS.length ? undefined : [6, 3], points: { show: steps.length < 40, size: 5 },
                value: (_, x) => formatted(x, chart.share) });
  });
  const says = (chart.series ?? []).find((one) => one.key === key)?.name ?? key;
  return { data, series: made, bands: [], words: words.join("; "), right: false, says };
}

const stacked = (columns) => {
  const below = columns[0].map(() => 0);
  return columns.map((column) => column.map((x, i) => (below[i] += x ?? 0)));
};

/** A series in words, for those who cannot see it. */
function ends(values, steps, share) {
  const told = values.flatMap((x, i) => (has(x) ? [i] : []));
  if (!told.length) return "none";
  const first = told[0], last = told[told.length - 1];
  return `${formatted(values[first], share)} at step ${steps[first]}, ${formatted(values[last], share)} at step ${steps[last]}`;
}

/** All charts of the page. */
class Charts {
  constructor(place) {
    this.place = place;
    this.plots = [];
    this.zoomed = null; // [first, last] step, or all
    this.resized = new ResizeObserver((entries) => {
      for (const entry of entries) {
        const plot = this.plots.find((one) => one.place === entry.target);
        if (plot && entry.contentRect.width) plot.u.setSize({ width: entry.contentRect.width, height: 200 });
      }
    });
    $("zoom-out").addEventListener("click", () => this.zoom(null));
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.zoomed && this.zoom(null));
  }

  show(heads) {
    for (const plot of this.plots) plot.u.destroy();
    this.resized.disconnect();
    this.plots = [];
    this.heads = heads;
    this.last = Math.max(1, ...heads.flatMap((head) => [...(head.metrics.step ?? []), ...head.evaluations.map((row) => row.step)]));
    this.place.replaceChildren();
    for (const chart of CHARTS) {
      const drawn = heads.length > 1 ? compared(chart, heads) : single(chart, heads[0]);
      if (drawn) this.add(chart, drawn);
    }
    if (!this.plots.length) this.place.append(make("p", { class: "help" }, "There is no step and no evaluation yet."));
    if (this.zoomed) this.zoom(this.zoomed);
  }

  add(chart, drawn) {
    const inner = make("div", { class: "plot" });
    const figure = make("figure", { class: "chart", tabindex: "0", role: "group", "aria-label": `${chart.title}: ${drawn.words}` },
      make("figcaption", {}, make("b", {}, chart.title), " ", make("span", {}, drawn.says ?? chart.says)), inner);
    this.place.append(figure);
    const axis = { stroke: () => colourOf("--muted"), grid: { stroke: () => colourOf("--line"), width: 1 },
                   ticks: { stroke: () => colourOf("--line"), width: 1 }, font: "11px system-ui", size: 58 };
    const labels = (share) => (_, values, __, ___, step) => values.map((x) => (has(x) ? (share ? tick(100 * x, 100 * step) + "%" : tick(x, step)) : ""));
    const axes = [{ ...axis, size: 28, values: (_, values) => values.map((x) => (Number.isInteger(x) ? x.toLocaleString("en") : "")) },
                  { ...axis, values: labels(chart.share) }];
    if (drawn.right) axes.push({ ...axis, scale: "right", side: 1, grid: { show: false }, values: labels(false) });
    const u = new uPlot({
      width: Math.max(inner.clientWidth, 200), height: 200, axes, bands: drawn.bands,
      scales: { x: { time: false, range: (_, low, high) => this.zoomed ?? [Math.min(0, low), Math.max(this.last, high)] },
                y: { range: (_, low, high) => rangeOf(low, high, chart) }, right: { range: (_, low, high) => rangeOf(low, high, {}) } },
      series: [{ label: drawn.x ?? "step", value: (_, x) => number(x) }, ...drawn.series],
      cursor: { sync: { key: "steps", scales: ["x", null] }, drag: { x: true, y: false }, points: { size: 7 }, bind: { dblclick: () => () => this.zoom(null) } },
      legend: { live: true },
      hooks: { setSelect: [(plot) => this.selected(plot)], draw: [(plot) => this.marks(plot)] },
    }, drawn.data, inner);
    figure.addEventListener("keydown", (event) => this.moved(event, u, drawn.data[0]));
    this.plots.push({ u, place: inner, chart });
    this.resized.observe(inner);
  }

  selected(plot) {
    const { left, width } = plot.select;
    if (width < 4) return;
    const range = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.zoom(range);
  }

  /** The same steps in all charts. */
  zoom(range) {
    this.zoomed = range;
    $("zoom-out").hidden = !range;
    for (const { u } of this.plots) u.setData(u.data, true);
  }

  /** Arrow keys move the cursor from step to step, Home and End to the first and the last. */
  moved(event, u, steps) {
    const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -steps.length, End: steps.length };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const at = u.cursor.idx ?? (event.key === "ArrowLeft" ? steps.length : -1);
    const next = Math.min(Math.max(at + moves[event.key], 0), steps.length - 1);
    u.setCursor({ left: u.valToPos(steps[next], "x"), top: u.over.clientHeight / 2 });
  }

  /** Where phases begin, and where alarms were raised. */
  marks(u) {
    if (this.heads.length > 1) return;
    const { ctx } = u;
    const { top, height, left, width } = u.bbox;
    const taken = new Map(); // labels at a step, each below the one before
    const line = (step, colour, label) => {
      const x = u.valToPos(step, "x", true);
      if (x < left || x > left + width) return;
      ctx.save();
      ctx.strokeStyle = ctx.fillStyle = colourOf(colour);
      ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(x, top);
      ctx.lineTo(x, top + height);
      ctx.stroke();
      ctx.font = `${10 * devicePixelRatio}px system-ui`;
      const row = taken.get(step) ?? 0;
      taken.set(step, row + 1);
      const fits = x + ctx.measureText(label).width + 4 * devicePixelRatio <= left + width;
      ctx.textAlign = fits ? "left" : "right";
      ctx.fillText(label, x + (fits ? 3 : -3) * devicePixelRatio, top + (10 + 12 * row) * devicePixelRatio);
      ctx.restore();
    };
    const phases = this.heads[0].phases;
    phases.slice(0, -1).forEach(([, last], i) => line(last + 0.5, "--muted", phases[i + 1][0] || `phase ${i + 2}`));
    for (const alarm of this.heads[0].alarms) {
      const name = alarm.name ?? "alarm";
      line(alarm.step, alarm.cleared ? "--muted" : "--red", alarm.cleared ? "✓ " + name : "⚠ " + name);
    }
  }

  repaint() {
    for (const { u } of this.plots) u.redraw(false);
  }
}

/** Shares from 0 to 1 where they fill that, else what is there with some air; counts from 0. */
function rangeOf(low, high, chart) {
  if (!has(low)) return [0, 1];
  if (chart.stack) return [0, high * 1.02 || 1];
  if (chart.share && high > 0.5) return [0, 1.02];
  const from = low >= 0 && low < 0.5 * high ? 0 : low;
  const air = 0.08 * (high - from) || Math.abs(high) * 0.1 || 1;
  return [from === 0 ? 0 : from - air, high + air];
}
