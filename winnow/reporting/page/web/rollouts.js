// The browser of samples: filters, groups side by side, tokens in colour.

const PAGE = 8; // groups
const FILTERS = ["run", "step", "split", "prompt", "kept", "reason", "right", "low", "high", "finish", "error", "text", "sort", "shade"];
const MOST_SHADED = 4000; // tokens of a sample

/** "3", "2-5", "1, 7-9": whether a step is among them; null where that says nothing. */
function stepsOf(text) {
  if (!text.trim()) return null;
  const parts = text.split(",").map((part) => part.trim().match(/^(\d+)(?:\s*[-–]\s*(\d+))?$/));
  if (parts.some((part) => !part)) return () => false;
  return (step) => parts.some((part) => Number(part[1]) <= step && step <= Number(part[2] ?? part[1]));
}

const numberIn = (id) => {
  const text = $(id).value.trim().replace(",", ".");
  return text && !Number.isNaN(Number(text)) ? Number(text) : null;
};

class Rollouts {
  constructor() {
    this.page = 0;
    this.exact = null; // the prompt whose samples are shown, where one was opened
    this.turn = 0; // of searching: an older one that is still waiting is dropped
    $("filters").addEventListener("submit", (event) => event.preventDefault());
    const anew = soon(() => this.filter());
    for (const name of FILTERS) {
      $("f-" + name).addEventListener(name === "shade" ? "change" : "input", name === "shade" ? () => this.render() : anew);
    }
    $("f-prompt").addEventListener("input", () => (this.exact = null));
    $("f-run").addEventListener("change", () => { this.exact = null; this.labels(); });
    $("f-clear").addEventListener("click", () => this.only({}));
    $("back").addEventListener("click", () => this.turned(-1));
    $("next").addEventListener("click", () => this.turned(1));
  }

  runs(all) {
    this.all = all;
    choices($("f-run"), all.map((samples, i) => [String(i), samples.name]));
    $("f-run").parentElement.hidden = all.length < 2;
    const first = !this.begun && all.some((samples) => samples.length);
    this.labels();
    if (first && $("f-split").querySelector('[value="train"]')) $("f-split").value = "train";
    this.begun ||= first;
    return this.filter();
  }

  get samples() {
    return this.all[Number($("f-run").value) || 0];
  }

  labels() {
    const found = (column) => [...new Set(this.samples.blocks.flatMap((block) => block[column].values))].sort();
    const short = (text) => (text.length > 60 ? text.slice(0, 60) + "…" : text);
    for (const [id, column] of [["f-split", "split"], ["f-reason", "reason"], ["f-finish", "finish_reason"]]) {
      choices($(id), [["", "any"], ...found(column).map((one) => [one, SPLITS[one] ?? short(one)])]);
    }
    choices($("f-error"), [["", "any or none"], ["*", "any error"], ...found("error").slice(0, 200).map((one) => ["=" + one, short(one)])]);
  }

  /** Show what these filters let through and no other. */
  only(filters, exact = null) {
    for (const name of FILTERS) if (!["run", "sort", "shade"].includes(name)) $("f-" + name).value = filters[name] ?? "";
    if (has(filters.run)) $("f-run").value = filters.run;
    this.labels();
    for (const name of ["split", "reason", "finish", "error"]) $("f-" + name).value = filters[name] ?? "";
    this.exact = exact;
    return this.filter();
  }

  async filter() {
    const turn = ++this.turn;
    const samples = this.samples;
    const hits = [];
    const step = stepsOf($("f-step").value);
    const [kept, right] = ["f-kept", "f-right"].map((id) => ($(id).value === "" ? null : Number($(id).value)));
    const [low, high] = ["f-low", "f-high"].map(numberIn);
    const [split, reason, finish, error] = ["f-split", "f-reason", "f-finish", "f-error"].map((id) => $(id).value);
    const text = $("f-text").value;
    const prompts = this.matching(samples);
    let searched = true;
    for (const block of samples.blocks) {
      const wanted = (column, value) => (value === "" ? null : block[column].values.indexOf(value));
      const [s, r, f] = [wanted("split", split), wanted("reason", reason), wanted("finish_reason", finish)];
      const e = error.startsWith("=") ? block.error.values.indexOf(error.slice(1)) : null;
      if ([s, r, f, e].includes(-1)) continue;
      let texts = null;
      if (text) {
        $("hits").textContent = `Searching: ${number(block.first)} of ${number(samples.length)} samples …`;
        texts = await samples.part(block, "texts");
        if (turn !== this.turn) return;
        if (!texts) { searched = false; continue; }
      }
      const pattern = text ? new RegExp(text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "iu") : null;
      for (let i = 0; i < block.rows; i++) {
        if (step && !step(block.step[i])) continue;
        if (s !== null && block.split.of[i] !== s) continue;
        if (prompts && !prompts.has(block.prompt[i])) continue;
        if (kept !== null && block.survived[i] !== kept) continue;
        if (right !== null && block.right[i] !== right) continue;
        if (r !== null && block.reason.of[i] !== r) continue;
        if (f !== null && block.finish_reason.of[i] !== f) continue;
        if (error && (e === null ? block.error.of[i] < 0 : block.error.of[i] !== e)) continue;
        if (low !== null && !(block.reward[i] !== null && block.reward[i] >= low)) continue;
        if (high !== null && !(block.reward[i] !== null && block.reward[i] <= high)) continue;
        if (pattern && !pattern.test(texts.text[i])) continue;
        hits.push(block.first + i);
      }
    }
    this.sort(hits);
    this.group(hits);
    const left = searched ? "" : " (texts that are not in this page were not searched)";
    $("hits").textContent = `${number(hits.length)} of ${number(samples.length)} samples, of ${number(this.groups.length)} ` +
      `${this.groups.length === 1 ? "group" : "groups"}${left}.`;
    this.page = 0;
    await this.render();
  }

  /** The prompts that the filter names; null: any. */
  matching(samples) {
    if (this.exact !== null) return new Set([this.exact]);
    const text = $("f-prompt").value.trim().toLowerCase();
    if (!text) return null;
    const found = new Set();
    samples.prompts.forEach((prompt, i) => {
      if (prompt.prompt_id === $("f-prompt").value.trim() || (prompt.prompt ?? "").toLowerCase().includes(text)
          || (prompt.prompt_id ?? "").toLowerCase() === text) found.add(i);
    });
    return found;
  }

  sort(hits) {
    const order = $("f-sort").value;
    if (order === "order") return;
    const keys = {
      newest: (block, i) => -block.step[i],
      best: (block, i) => -(block.reward[i] ?? -Infinity),
      worst: (block, i) => block.reward[i] ?? Infinity,
      long: (block, i) => -block.tokens[i],
    };
    const key = new Float64Array(this.samples.length);
    for (const block of this.samples.blocks) {
      for (let i = 0; i < block.rows; i++) key[block.first + i] = keys[order](block, i);
    }
    hits.sort((a, b) => key[a] - key[b] || a - b);
  }

  /** Hits of one prompt in one step belong together. */
  group(hits) {
    const groups = new Map();
    for (const row of hits) {
      const key = this.samples.groupOf(row);
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(row);
    }
    this.groups = [...groups.values()];
  }

  turned(by) {
    this.page += by;
    this.render().then(() => $("rollouts").scrollIntoView());
  }

  async render() {
    const turn = this.turn;
    const pages = Math.max(1, Math.ceil(this.groups.length / PAGE));
    const made = [];
    for (const rows of this.groups.slice(this.page * PAGE, (this.page + 1) * PAGE)) made.push(await this.card(rows));
    if (turn !== this.turn) return;
    $("groups").replaceChildren(...made);
    $("page-of").textContent = `page ${this.page + 1} of ${number(pages)}`;
    $("back").disabled = this.page === 0;
    $("next").disabled = this.page >= pages - 1;
  }

  /** A group: its prompt, and its samples beside each other. */
  async card(rows) {
    const samples = this.samples;
    const [block, at] = samples.at(rows[0]);
    const place = block.prompt[at];
    const first = await samples.whole(rows[0]);
    const all = samples.siblings(rows[0]);
    const valid = all.filter((row) => samples.at(row)[0].right[samples.at(row)[1]] >= 0);
    const right = valid.filter((row) => samples.at(row)[0].right[samples.at(row)[1]] === 1).length;
    const title = [`step ${first.step}`, first.split, first.prompt_id, first.difficulty,
                   first.right === null && !valid.length ? null : `${right} of ${valid.length} right`].filter(Boolean).join(" · ");
    const list = make("div", { class: "samples" });
    for (const row of rows) list.append(await this.sample(row));
    const buttons = make("div", { class: "buttons" });
    if (rows.length < all.length) {
      const whole = make("button", { type: "button" }, `All ${all.length} samples of this group`);
      whole.addEventListener("click", async () => {
        const nodes = [];
        for (const row of all) nodes.push(await this.sample(row, !rows.includes(row)));
        list.replaceChildren(...nodes);
        whole.remove();
      });
      buttons.append(whole);
    }
    buttons.append(make("button", { type: "button", onclick: () => this.only({ run: $("f-run").value, prompt: first.prompt_id }, place) }, "This prompt in all steps"));
    return make("article", { class: "group" },
      make("h3", {}, shown(title)), promptOf(first),
      has(first.answer) ? make("p", { class: "answer" }, "Answer: ", make("bdi", {}, clipped(first.answer, 0, 400))) : null,
      buttons, list);
  }

  /** One sample. */
  async sample(row, other = false) {
    const whole = await this.samples.whole(row);
    const verdict = whole.error !== null ? "error" : whole.right === null ? "" : whole.right ? "right" : "wrong";
    const facts = [whole.finish_reason === "length" ? "cut off" : whole.finish_reason, `${number(whole.tokens)} tokens`,
                   ...Object.entries(whole.reward_parts ?? {}).map(([name, value]) => `${name} ${number(value)}`),
                   has(whole.advantage) ? `advantage ${number(whole.advantage)}` : null].filter(Boolean).join(" · ");
    const body = make("div", { class: "text", dir: "auto" });
    if (whole.text === null) body.append(make("i", {}, `not in this page: rollouts/${whole.file}`));
    else body.append(await this.shaded(row, whole.text) ?? clipped(whole.text));
    const button = make("button", { type: "button" }, "Copy as JSON");
    button.addEventListener("click", () => copy(button, JSON.stringify(whole, null, 2)));
    return make("section", { class: `sample ${verdict}${other ? " other" : ""}`, "aria-label": `sample ${whole.sample}` },
      make("header", {}, make("b", {}, `#${whole.sample}`), " ",
        has(whole.reward) ? make("span", { class: "reward" }, number(whole.reward)) : null, " ",
        verdict ? make("span", { class: "badge " + verdict }, { right: "✓ right", wrong: "✗ wrong", error: "! error" }[verdict]) : null, " ",
        whole.reason !== null && whole.error === null ? make("span", { class: "reason" }, whole.survived ? "kept: " : whole.survived === false ? "rejected: " : "", shown(whole.reason)) : null),
      whole.error !== null ? make("p", { class: "failure" }, clipped(whole.error, 0, 600)) : null,
      body, make("footer", {}, make("span", {}, shown(facts)), button));
  }

  /** The text with its tokens in colour, if that is asked for and known. */
  async shaded(row, text) {
    const by = $("f-shade").value;
    if (!by) return null;
    const [block, place] = this.samples.at(row);
    const marks = await this.samples.part(block, "marks");
    if (!marks) return null;
    const levels = numbers(marks[by][place]), lengths = numbers(marks.ends[place]);
    if (!levels.length || levels.length !== lengths.length) return null;
    const made = document.createDocumentFragment();
    const characters = Array.from(text);
    let at = 0;
    for (let i = 0; i < Math.min(levels.length, MOST_SHADED); i++) {
      const piece = characters.slice(at, at + lengths[i]).join("");
      at += lengths[i];
      const told = nats(levels[i], TOPS[by]);
      const said = by === "logprobs" ? `log-prob ${(-told).toFixed(2)}, probability ${percent(Math.exp(-told))}` : `entropy ${told.toFixed(2)} nats`;
      const empty = piece === "" ? (i === levels.length - 1 ? "end" : "") : null; // the last token adds no text
      if (empty === "") continue;
      made.append(make("span", { class: empty ? "token end" : "token", title: said, style: `--level:${(levels[i] / 90).toFixed(2)}` }, empty ? empty : shown(piece)));
    }
    if (at < characters.length) made.append(clipped(characters.slice(at).join("")));
    return made;
  }
}

let TOPS = { logprobs: 25, entropies: 12 };

/** A prompt: its text, or the messages of its conversation. */
function promptOf(sample) {
  let messages = null;
  if (sample.messages) {
    try { messages = JSON.parse(sample.messages); } catch { messages = null; }
  }
  const body = messages
    ? make("div", {}, ...messages.map((message) => make("div", { class: "message" }, make("b", {}, shown(String(message.role ?? ""))), " ",
        make("bdi", {}, clipped(typeof message.content === "string" ? message.content : JSON.stringify(message), 0, 1200)))))
    : make("bdi", { class: "text" }, clipped(sample.prompt ?? "", 0, 1200));
  return make("details", { open: (sample.prompt ?? "").length < 600, class: "prompt" }, make("summary", {}, "Prompt"), body);
}
