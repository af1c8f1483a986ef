// The data of the page: heads at once, samples by blocks, each part unpacked when it is needed.

async function unpacked(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** Parts that are in the page itself. */
const embedded = {
  live: false,
  async get(key) {
    const element = document.querySelector(`script[data-part="${key}"]`);
    if (!element) return null;
    const binary = atob(element.textContent);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    return unpacked(bytes);
  },
};

/** Parts that are asked for, of the machine that serves the page. */
const served = {
  live: true,
  async get(key) {
    const answer = await fetch("data/" + key, { cache: "no-store" });
    if (answer.status === 204) return null;
    if (!answer.ok) throw new Error(`${answer.status} for ${key}`);
    return unpacked(await answer.arrayBuffer());
  },
};

const SOURCE = document.documentElement.dataset.live === "true" ? served : embedded;

/** The samples of one run: row i is one of them, in the order in which they were made. */
class Samples {
  constructor(run) {
    this.run = run; // its place among the runs of the page
    this.blocks = [];
    this.prompts = []; // every prompt once
    this.length = 0;
    this.places = new Map();
  }

  /** Read the blocks that are new; when one has changed, all from there on. */
  async read(heads) {
    let same = 0;
    while (same < this.blocks.length && same < heads.length && this.blocks[same].name === heads[same].name) same++;
    const cut = same < this.blocks.length;
    if (cut) {
      this.groups = null;
      this.blocks.length = same;
      this.length = this.blocks.reduce((sum, block) => sum + block.rows, 0);
    }
    if (same < heads.length) this.groups = null;
    for (const head of heads.slice(same)) {
      const rows = head.parts.includes("rows") ? await SOURCE.get(`${this.run}/${head.name}/rows`) : null;
      if (!rows) continue; // left out by the page's rule, or gone meanwhile
      const prompt = Int32Array.from(rows.prompt, (own) => this.placeOf(rows.prompts[own]));
      this.blocks.push({ ...head, ...rows, prompt, first: this.length });
      this.length += head.rows;
    }
    return cut || same < heads.length;
  }

  placeOf(prompt) {
    const key = JSON.stringify([prompt.prompt_id, prompt.prompt, prompt.messages]);
    if (!this.places.has(key)) {
      this.places.set(key, this.prompts.length);
      this.prompts.push(prompt);
    }
    return this.places.get(key);
  }

  /** What tells the group of a row from all others. */
  groupOf(row) {
    const [block, i] = this.at(row);
    return `${block.split.values[block.split.of[i]]}/${block.step[i]}/${block.group[i]}/${block.prompt[i]}`;
  }

  /** All rows of the group that a row is of. */
  siblings(row) {
    if (!this.groups) {
      this.groups = new Map();
      for (let other = 0; other < this.length; other++) {
        const key = this.groupOf(other);
        if (!this.groups.has(key)) this.groups.set(key, []);
        this.groups.get(key).push(other);
      }
    }
    return this.groups.get(this.groupOf(row));
  }

  /** The block of a row, and its place in it. */
  at(row) {
    let low = 0, high = this.blocks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.blocks[middle].first <= row) low = middle;
      else high = middle - 1;
    }
    return [this.blocks[low], row - this.blocks[low].first];
  }

  /** The texts or the marks of a block; null where the page does not hold them. */
  async part(block, name) {
    if (!block.parts.includes(name)) return null;
    block["_" + name] ??= SOURCE.get(`${this.run}/${block.name}/${name}`);
    return block["_" + name];
  }

  /** All that is known of a row. */
  async whole(row) {
    const [block, place] = this.at(row);
    const texts = await this.part(block, "texts");
    const label = (column) => block[column].values[block[column].of[place]] ?? null;
    const flag = (column) => [false, true][block[column][place]] ?? null;
    let file = 0, left = place;
    while (left >= block.files[file][1]) left -= block.files[file++][1];
    return {
      ...this.prompts[block.prompt[place]],
      step: block.step[place], split: label("split"), group: block.group[place], sample: block.sample[place],
      text: texts ? texts.text[place] : null, tokens: block.tokens[place], finish_reason: label("finish_reason"),
      policy_version: block.policy_version[place], reward: block.reward[place], error: label("error"),
      right: flag("right"), survived: flag("survived"), reason: label("reason"),
      advantage: block.advantage[place], reward_parts: block.reward_parts?.[place] ?? null, file: block.files[file][0],
    };
  }
}

/** Characters from # on as numbers. */
const numbers = (text) => Array.from(text, (character) => character.codePointAt(0) - 35);

/** Nats of a level of a mark. */
const nats = (level, top) => top * (level / 90) ** 2;
