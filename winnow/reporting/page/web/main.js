// Puts the page together, and keeps it up to date while its run goes on.

const THEMES = ["auto", "light", "dark"];

class Page {
  constructor() {
    this.charts = new Charts($("charts"));
    this.rollouts = new Rollouts();
    this.heat = new Heat((samples, prompt, split) => {
      this.rollouts.only({ run: String(samples.run), split, prompt: samples.prompts[prompt].prompt_id ?? "" }, prompt);
      $("rollouts").scrollIntoView();
    });
    this.samples = [];
    $("settings-all").addEventListener("change", () => settingsTable($("settings-list"), this.heads, $("settings-all").checked));
    $("numbers").addEventListener("toggle", () => this.numbers());
    $("theme").addEventListener("click", () => this.theme(THEMES[(THEMES.indexOf(this.chosen) + 1) % 3]));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.theme(this.chosen));
    let kept = "auto";
    try { kept = localStorage.getItem("winnow-theme") ?? "auto"; } catch { /* a page without storage */ }
    this.theme(THEMES.includes(kept) ? kept : "auto");
  }

  theme(chosen) {
    this.chosen = chosen;
    const dark = chosen === "dark" || (chosen === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.dark = String(dark);
    $("theme").textContent = "Theme: " + chosen;
    try { localStorage.setItem("winnow-theme", chosen); } catch { /* it is asked for again then */ }
    this.charts.repaint();
    if (this.heads) this.heat.draw();
  }

  /** Show heads, and what of the samples is new. */
  async show(data) {
    const heads = (this.heads = data.runs);
    TOPS = data.tops;
    const names = heads.map((head) => head.name).join(", ");
    $("title").replaceChildren(shown(names));
    document.title = `${names} - Winnow`;
    $("made").textContent = `Made by Winnow ${data.version}. The samples are in ${heads.map((head) => head.folder).join(", ")}.`;
    tiles($("tiles"), heads);
    sentences($("sentences"), heads);
    this.charts.show(heads);
    this.numbers();
    passes($("passes"), heads);
    settingsTable($("settings-list"), heads, $("settings-all").checked);
    environmentTable($("environment-list"), heads);
    const rules = heads.map((head) => head.rule).filter(Boolean);
    $("rule").hidden = !rules.length;
    $("rule").textContent = rules.join(" ");
    let changed = this.samples.length !== heads.length;
    if (changed) this.samples = heads.map((_, i) => new Samples(i));
    for (const [i, head] of heads.entries()) {
      this.samples[i].name = head.name;
      changed = (await this.samples[i].read(head.blocks)) || changed;
    }
    if (changed) {
      const reading = $("rollouts").contains(document.activeElement) || this.rollouts.page > 0;
      this.heat.runs(this.samples);
      if (reading) this.rollouts.labels(); // not under the eyes of who reads
      else await this.rollouts.runs(this.samples);
      this.rollouts.all = this.samples;
      errorsTable($("errors-list"), this.samples, (filters) => {
        this.rollouts.only(filters);
        $("rollouts").scrollIntoView();
      });
    }
  }

  numbers() {
    const place = $("numbers").lastElementChild;
    if ($("numbers").open) numbersTable(place, this.heads);
    else place.replaceChildren();
  }

  /** Ask again and again, also after the run or what serves it was gone for a while. */
  async follow() {
    let seen = "";
    for (;;) {
      try {
        const state = await (await fetch("state", { cache: "no-store" })).json();
        if (state.mark !== seen) {
          await this.show(await SOURCE.get("head"));
          seen = state.mark;
        }
        $("live").textContent = state.says;
        $("live").classList.remove("lost");
      } catch (error) {
        $("live").textContent = `winnow watch does not answer (${error.message}); trying again`;
        $("live").classList.add("lost");
      }
      $("live").hidden = false;
      await new Promise((done) => setTimeout(done, 1500));
    }
  }
}

async function begin() {
  if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old: it cannot unpack the data of this page (Chrome 80, Firefox 113, Safari 16.4 can)");
  const page = new Page();
  if (SOURCE.live) await page.follow();
  else await page.show(await SOURCE.get("head"));
  document.documentElement.dataset.ready = "true";
}

begin().catch((error) => {
  $("broken").hidden = false;
  $("broken").textContent = `This page could not be shown: ${error.message}`;
  throw error;
});
