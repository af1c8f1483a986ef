// What is read rather than looked at: tiles, sentences, numbers, errors, settings, environment.

function tiles(place, heads) {
  const made = [];
  for (const head of heads) {
    const [first, last] = [head.before, head.after]; // what the verdict compares
    const steps = head.metrics.step?.length ?? 0;
    const sum = (key) => (head.metrics[key] ?? []).reduce((total, x) => total + (x ?? 0), 0);
    const own = [];
    if (head.graded && has(first?.reward) && has(last?.reward)) own.push(["held-out mean reward", `${number(first.reward)} → ${number(last.reward)}`]);
    if (has(last?.accuracy) && has(first?.accuracy)) own.push(["held-out accuracy", `${percent(first.accuracy)} → ${percent(last.accuracy)}`]);
    else if (has(last?.accuracy)) own.push(["held-out accuracy", percent(last.accuracy)]);
    if (steps) own.push(["steps", number(steps)], ["time of the steps", head.time]);
    const samples = head.blocks.reduce((total, block) => total + block.rows, 0);
    own.push(["samples, held-out ones included", number(samples)]);
    if (sum("tokens_sampled")) own.push(["tokens trained of those sampled", percent(sum("tokens_trained") / sum("tokens_sampled"))]);
    if (steps) own.push(["alarms", number(head.alarms.filter((alarm) => !alarm.cleared).length)]);
    if (heads.length > 1) made.push(make("h3", {}, head.name));
    made.push(...own.map(([label, value]) => make("div", { class: "tile" }, make("b", {}, value), make("span", {}, label))));
  }
  place.replaceChildren(...made);
}

function sentences(place, heads) {
  place.replaceChildren();
  for (const head of heads) {
    if (heads.length > 1) place.append(make("h3", {}, shown(head.name)));
    place.append(make("ul", { class: "verdict" }, ...head.verdict.map((one) => make("li", { class: one.tone }, shown(one.text)))));
    const changed = head.settings.filter((setting) => setting.changed);
    if (changed.length) {
      place.append(make("p", {}, `Other than the defaults: `, ...changed.slice(0, 12).flatMap((setting, i) =>
        [i ? ", " : "", make("code", {}, shown(`${setting.key} = ${short(setting.value)}`))]),
        changed.length > 12 ? ` and ${changed.length - 12} more (see Settings)` : ""));
    }
    if (head.again) {
      const button = make("button", { type: "button" }, "Copy");
      button.addEventListener("click", () => copy(button, head.again));
      place.append(make("p", {}, "To repeat it: ", make("code", {}, shown(head.again)), " ", button));
    }
  }
}

const short = (value) => {
  const text = JSON.stringify(value) ?? "";
  return text.length > 80 ? text.slice(0, 80) + "…" : text;
};

/** Every number of every step, and the same as a file. */
function numbersTable(place, heads) {
  place.replaceChildren();
  for (const head of heads) {
    const keys = Object.keys(head.metrics).filter((key) => head.metrics[key].some(has));
    const steps = head.metrics.step?.length ?? 0;
    if (!steps) continue;
    const rows = Array.from({ length: steps }, (_, i) => keys.map((key) => head.metrics[key][i]));
    const save = make("button", { type: "button" }, "Save as CSV");
    save.addEventListener("click", () => {
      const text = [keys, ...rows].map((row) => row.map((x) => (has(x) ? `"${String(x).replaceAll('"', '""')}"` : "")).join(",")).join("\n");
      const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: head.name + ".csv" });
      link.click();
      URL.revokeObjectURL(link.href);
    });
    const most = 300;
    place.append(make("p", { class: "help" }, heads.length > 1 ? head.name + ": " : "", steps > most ? `the last ${most} of ${number(steps)} steps ` : "", save),
      make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "all numbers" }, make("table", {},
        make("thead", {}, make("tr", {}, ...keys.map((key) => make("th", { scope: "col" }, shown(key))))),
        make("tbody", {}, ...rows.slice(-most).map((row) => make("tr", {}, ...row.map((x) => make("td", {}, number(x)))))))));
  }
}

/** Errors of the verifier: how often each, and since when. */
function errorsTable(place, all, open) {
  place.replaceChildren();
  let any = false;
  all.forEach((samples, run) => {
    const found = new Map();
    for (const block of samples.blocks) {
      for (let i = 0; i < block.rows; i++) {
        if (block.error.of[i] < 0) continue;
        const text = block.error.values[block.error.of[i]];
        const own = found.get(text) ?? { count: 0, first: block.step[i] };
        own.count += 1;
        found.set(text, own);
      }
    }
    if (!found.size) return;
    any = true;
    const most = 50;
    const rows = [...found].sort((a, b) => b[1].count - a[1].count);
    place.append(make("table", {}, make("thead", {}, make("tr", {}, ...["samples", "first at step", "error", ""].map((one) => make("th", { scope: "col" }, one)))),
      make("tbody", {}, ...rows.slice(0, most).map(([text, own]) => make("tr", {}, make("td", {}, number(own.count)), make("td", {}, number(own.first)),
        make("td", { class: "text" }, clipped(text, 0, 300)),
        make("td", {}, make("button", { type: "button", onclick: () => open({ run: String(run), error: "=" + text }) }, "Show")))))));
    if (rows.length > most) place.append(make("p", { class: "help" }, `and ${rows.length - most} further messages`));
  });
  if (!any) place.append(make("p", { class: "help" }, "The verifier did not fail on any sample."));
}

function settingsTable(place, heads, all) {
  const keys = [...new Set(heads.flatMap((head) => head.settings.map((setting) => setting.key)))];
  const of = heads.map((head) => new Map(head.settings.map((setting) => [setting.key, setting])));
  const rows = keys.filter((key) => {
    const own = of.map((settings) => settings.get(key));
    if (all) return true;
    if (heads.length > 1) return new Set(own.map((setting) => JSON.stringify(setting?.value))).size > 1;
    return own[0]?.changed;
  });
  if (!rows.length) {
    const told = heads.length > 1 ? "The runs have the same settings." : keys.length ? "Every setting has its default." : "There is no config.toml.";
    place.replaceChildren(make("p", { class: "help" }, told));
    return;
  }
  place.replaceChildren(make("table", {},
    make("thead", {}, make("tr", {}, ...["setting", ...(heads.length > 1 ? heads.map((head) => head.name) : ["value"]), "default", "what it is"].map((one) => make("th", { scope: "col" }, one)))),
    make("tbody", {}, ...rows.map((key) => {
      const some = of.map((settings) => settings.get(key)).find(has);
      return make("tr", {}, make("th", { scope: "row" }, shown(key)), ...of.map((settings) => make("td", { class: "text" }, clipped(short(settings.get(key)?.value ?? null), 0, 200))),
        make("td", {}, shown(short(some.default))), make("td", {}, shown(some.help)));
    }))));
}

function environmentTable(place, heads) {
  const keys = [...new Set(heads.flatMap((head) => Object.keys(head.environment)))];
  place.replaceChildren(make("table", {},
    heads.length > 1 ? make("thead", {}, make("tr", {}, make("th"), ...heads.map((head) => make("th", { scope: "col" }, head.name)))) : null,
    make("tbody", {}, ...keys.map((key) => make("tr", {}, make("th", { scope: "row" }, key), ...heads.map((head) => make("td", {}, shown(String(head.environment[key] ?? "–")))))))));
}
