// The heat map: a row a prompt, a column a step, how many of its samples are right.

const ROW = 22; // pixels
const MOST_COLUMNS = 160;
const SPLITS = { train: "to train on", eval: "held out", test: "to test with", final: "held out, final model", sample: "sampled" };

/** Of each prompt of a split: for each of its steps how many samples are right and have a score. */
function tallied(samples, split) {
  const steps = new Set();
  const of = new Map(); // prompt -> step -> [right, valid]
  for (const block of samples.blocks) {
    const wanted = block.split.values.indexOf(split);
    if (wanted < 0) continue;
    for (let i = 0; i < block.rows; i++) {
      if (block.split.of[i] !== wanted) continue;
      const step = block.step[i];
      steps.add(step);
      let own = of.get(block.prompt[i]);
      if (!own) of.set(block.prompt[i], (own = new Map()));
      let cell = own.get(step);
      if (!cell) own.set(step, (cell = [0, 0]));
      if (block.right[i] >= 0) {
        cell[0] += block.right[i];
        cell[1] += 1;
      }
    }
  }
  return { steps: [...steps].sort((a, b) => a - b), of };
}

/** What rows are sorted by: when a prompt was first solved, whether it was forgotten, its mean. */
function judged(prompt, cells, steps) {
  let right = 0, valid = 0, solved = null, best = 0, last = null, first = null;
  for (const step of steps) {
    const cell = cells.get(step);
    if (!cell || !cell[1]) continue;
    const rate = cell[0] / cell[1];
    first ??= step;
    right += cell[0];
    valid += cell[1];
    if (cell[0] && solved === null) solved = step;
    best = Math.max(best, rate);
    last = rate;
  }
  return { prompt, cells, mean: valid ? right / valid : null, valid, right, solved, first, dropped: last === null ? 0 : best - last };
}

const ORDERS = {
  never: (a, b) => (a.right > 0) - (b.right > 0) || b.valid - a.valid || a.first - b.first,
  late: (a, b) => (b.solved ?? -1) - (a.solved ?? -1),
  forgotten: (a, b) => b.dropped - a.dropped,
  hardest: (a, b) => (a.mean ?? 2) - (b.mean ?? 2),
  order: (a, b) => a.first - b.first,
};

class Heat {
  constructor(open) {
    this.open = open; // told a prompt when its row is opened
    this.place = $("heat");
    this.rows = [];
    this.steps = [];
    this.at = 0;
    this.place.addEventListener("scroll", () => this.draw());
    this.place.addEventListener("keydown", (event) => this.moved(event));
    this.place.addEventListener("focus", () => this.draw());
    for (const id of ["prompts-sort", "prompts-split", "prompts-run"]) $(id).addEventListener("change", () => this.show());
    new ResizeObserver(() => this.draw()).observe(this.place);
  }

  runs(all) {
    this.all = all;
    choices($("prompts-run"), all.map((samples, i) => [String(i), samples.name]));
    $("prompts-run").parentElement.hidden = all.length < 2;
    this.show();
  }

  get samples() {
    return this.all[Number($("prompts-run").value) || 0];
  }

  show() {
    const splits = new Set(this.samples.blocks.flatMap((block) => block.split.values));
    choices($("prompts-split"), ["eval", "train", "test", "final", "sample"].filter((one) => splits.has(one)).map((one) => [one, SPLITS[one]]));
    const { steps, of } = tallied(this.samples, $("prompts-split").value);
    this.steps = steps;
    this.rows = [...of].map(([prompt, cells]) => judged(prompt, cells, steps)).filter((row) => row.valid);
    const sort = $("prompts-sort").value;
    if (sort === "difficulty") {
      const label = (row) => this.samples.prompts[row.prompt].difficulty ?? "";
      this.rows.sort((a, b) => label(a).localeCompare(label(b)) || ORDERS.hardest(a, b));
    } else this.rows.sort(ORDERS[sort]);
    this.common = shared(this.rows.slice(0, 200).map((row) => this.samples.prompts[row.prompt].prompt ?? ""));
    const never = this.rows.filter((row) => !row.right).length;
    const forgotten = this.rows.filter((row) => row.dropped >= 0.5).length;
    $("prompts-summary").textContent = this.rows.length
      ? `${number(this.rows.length)} prompts in ${number(steps.length)} ${steps.length === 1 ? "step" : "steps"}: ` +
        `${number(never)} never solved, ${number(forgotten)} forgotten (at least half of the samples right once, and that many fewer at the end).`
      : "There is no prompt with a score yet.";
    $("heat-first").textContent = steps.length ? `step ${steps[0]}` : "";
    $("heat-last").textContent = steps.length > 1 ? `step ${steps[steps.length - 1]}` : "";
    this.at = 0;
    this.place.firstElementChild.style.height = this.rows.length * ROW + "px";
    this.place.style.height = Math.min(this.rows.length * ROW, 22 * ROW) + "px";
    this.place.scrollTop = 0;
    this.draw();
  }

  label(row) {
    const prompt = this.samples.prompts[row.prompt];
    const text = (prompt.prompt ?? "").slice(this.common).trim().replace(/\s+/g, " ");
    return (this.common ? "…" : "") + (text || prompt.prompt_id || "");
  }

  /** Draw the rows that can be seen; the others are only room. */
  draw() {
    const inner = this.place.firstElementChild;
    const first = Math.floor(this.place.scrollTop / ROW);
    const last = Math.min(this.rows.length, first + Math.ceil(this.place.clientHeight / ROW) + 1);
    inner.replaceChildren();
    for (let i = first; i < last; i++) inner.append(this.row(i));
    this.place.setAttribute("aria-activedescendant", this.rows.length ? "heat-" + this.at : "");
  }

  row(i) {
    const row = this.rows[i];
    const canvas = make("canvas", { "aria-hidden": "true" });
    const rate = row.solved === null ? "never solved" : `first solved at step ${row.solved}`;
    const made = make("div", { class: i === this.at ? "row current" : "row", id: "heat-" + i, role: "option", "aria-selected": String(i === this.at),
      style: `top:${i * ROW}px`, "aria-label": `${this.label(row).slice(0, 200)}: ${row.right} of ${row.valid} right, ${rate}`,
      onclick: () => { this.at = i; this.open(this.samples, row.prompt, $("prompts-split").value); },
      onmousemove: (event) => this.hovered(event, row, canvas) },
    make("span", { class: "label" }, shown(this.label(row).slice(0, 120))), make("span", { class: "mean" }, percent(row.mean)), canvas);
    requestAnimationFrame(() => this.paint(canvas, row));
    return made;
  }

  /** Columns: a step each, or several where there are many. */
  columns() {
    const each = Math.ceil(this.steps.length / MOST_COLUMNS) || 1;
    const made = [];
    for (let i = 0; i < this.steps.length; i += each) made.push(this.steps.slice(i, i + each));
    return made;
  }

  paint(canvas, row) {
    const width = canvas.clientWidth, ratio = devicePixelRatio;
    if (!width) return;
    canvas.width = width * ratio;
    canvas.height = (ROW - 4) * ratio;
    const context = canvas.getContext("2d");
    const columns = this.columns();
    const wide = canvas.width / columns.length;
    columns.forEach((steps, i) => {
      const [right, valid] = summed(row, steps);
      if (!valid) return;
      context.fillStyle = heatColour(right / valid);
      context.fillRect(Math.floor(i * wide), 0, Math.max(1, Math.ceil(wide) - (wide > 6 ? 1 : 0)), canvas.height);
    });
  }

  hovered(event, row, canvas) {
    const box = canvas.getBoundingClientRect();
    const columns = this.columns();
    const i = Math.floor(((event.clientX - box.left) / box.width) * columns.length);
    const prompt = this.samples.prompts[row.prompt];
    if (i < 0 || i >= columns.length) return void ($("heat-told").textContent = `${prompt.prompt_id}: ${row.right} of ${row.valid} right`);
    const [right, valid] = summed(row, columns[i]);
    const steps = columns[i].length === 1 ? `step ${columns[i][0]}` : `steps ${columns[i][0]} to ${columns[i][columns[i].length - 1]}`;
    $("heat-told").textContent = `${prompt.prompt_id}, ${steps}: ${valid ? `${right} of ${valid} right` : "not sampled"}`;
  }

  moved(event) {
    const page = Math.floor(this.place.clientHeight / ROW);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.rows.length, End: this.rows.length };
    if (event.key === "Enter" && this.rows.length) return this.open(this.samples, this.rows[this.at].prompt, $("prompts-split").value);
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.at = Math.min(Math.max(this.at + moves[event.key], 0), this.rows.length - 1);
    const top = this.at * ROW;
    if (top < this.place.scrollTop) this.place.scrollTop = top;
    if (top + ROW > this.place.scrollTop + this.place.clientHeight) this.place.scrollTop = top + ROW - this.place.clientHeight;
    this.draw();
  }
}

const summed = (row, steps) => steps.reduce(([right, valid], step) => {
  const cell = row.cells.get(step) ?? [0, 0];
  return [right + cell[0], valid + cell[1]];
}, [0, 0]);

/** From the paper's colour to blue: lightness alone tells it, so colour-blind eyes read it too. */
function heatColour(rate) {
  const dark = document.documentElement.dataset.dark === "true";
  return dark ? `hsl(205 75% ${18 + 52 * rate}%)` : `hsl(205 85% ${93 - 58 * rate}%)`;
}

/** How many characters all texts begin with, up to the end of a line; 0 where that is few. */
function shared(texts) {
  if (texts.length < 2) return 0;
  let most = texts[0].length;
  for (const text of texts) {
    let i = 0;
    while (i < most && text[i] === texts[0][i]) i++;
    most = i;
  }
  const line = texts[0].lastIndexOf("\n", most - 1) + 1;
  return line > 12 ? line : 0;
}

/** pass@k of the last evaluation that has several samples a prompt. */
function passes(place, heads) {
  place.replaceChildren();
  for (const head of heads) {
    const last = [...head.evaluations, head.after].filter((row) => row?.pass_at_k?.length).pop();
    if (!last) continue;
    place.append(make("table", {}, make("caption", {}, `pass@k at step ${last.step}${heads.length > 1 ? ", " + head.name : ""}`),
      make("thead", {}, make("tr", {}, ...last.pass_at_k.map((one) => make("th", { scope: "col" }, "k = " + one.k)))),
      make("tbody", {}, make("tr", {}, ...last.pass_at_k.map((one) => make("td", {},
        percent(one.value) + (has(one.low) ? ` [${percent(one.low)}, ${percent(one.high)}]` : "")))))));
  }
}
