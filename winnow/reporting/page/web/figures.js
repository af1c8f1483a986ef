// Figures of a study that are no curves over a budget: intervals one below the other, and paths of points.

const SVG = "http://www.w3.org/2000/svg";

function drawn(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) if (has(value)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Round marks of an axis from low to high, about so many. */
function marksOf(low, high, about = 5) {
  const raw = (high - low || 1) / about;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((x) => x * power).find((x) => x >= raw);
  const made = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) made.push(i * step);
  return { marks: made, step };
}

/** A scale from values to pixels, a little wider than the values. */
function scaleOf(values, from, to, air = 0.06) {
  let low = Math.min(...values), high = Math.max(...values);
  const room = (high - low) * air || Math.abs(high) * 0.1 || 0.1;
  low -= room;
  high += room;
  return { low, high, at: (x) => from + ((x - low) / (high - low)) * (to - from) };
}

/** Intervals of differences, one row for each: the paired one above, the unpaired one below it in grey. */
function forest(rows, width, scale, unit) {
  const narrow = width < 620, left = narrow ? 8 : Math.min(220, width * 0.28), right = width - 16;
  const high = narrow ? 46 : 32, top = narrow ? 16 : 2;
  const ends = rows.flatMap(({ paired, unpaired }) => [paired, unpaired].flatMap((d) => [d.estimate, d.low, d.high])).filter(has);
  const x = scaleOf([0, ...ends.map((end) => end * scale)], left, right);
  const svg = drawn("svg", { width, height: rows.length * high + 44, role: "img", "aria-label": "differences with their intervals" });
  const bottom = rows.length * high + 6;
  const { marks, step } = marksOf(x.low, x.high, narrow ? 4 : 8);
  for (const mark of marks) {
    svg.append(drawn("line", { x1: x.at(mark), x2: x.at(mark), y1: 0, y2: bottom, class: mark === 0 ? "zero" : "grid" }),
      drawn("text", { x: x.at(mark), y: bottom + 15, "text-anchor": "middle" }, tick(mark, step)));
  }
  svg.append(drawn("text", { x: (left + right) / 2, y: bottom + 32, "text-anchor": "middle", class: "axis" }, unit));
  rows.forEach((row, i) => {
    const y = i * high + top + (narrow ? 14 : 14);
    svg.append(drawn("text", narrow ? { x: left, y: y - 12, class: "name" } : { x: left - 10, y: y + 4, "text-anchor": "end", class: "name" }, row.name));
    [[row.unpaired, y + 8, "unpaired"], [row.paired, y, row.told ? (row.paired.estimate > 0 ? "up" : "down") : "same"]].forEach(([d, at, kind]) => {
      if (has(d.low)) svg.append(drawn("line", { x1: x.at(d.low * scale), x2: x.at(d.high * scale), y1: at, y2: at, class: "interval " + kind }));
      svg.append(drawn("circle", { cx: x.at(d.estimate * scale), cy: at, r: kind === "unpaired" ? 2.5 : 4.5, class: "point " + kind },
        drawn("title", {}, `${row.name}: ${number(d.estimate * scale)}${has(d.low) ? ` [${number(d.low * scale)}, ${number(d.high * scale)}]` : ""}, ${d.method}`)));
    });
  });
  return svg;
}

/** Paths of points, one for each variant: how one thing goes with another; a dot where each ends. */
function paths(lines, width, share) {
  const high = 240, left = 54, right = width - 20, bottom = high - 26;
  const points = lines.flatMap((line) => line.x.map((x, i) => [x, line.mean[i]]));
  const x = scaleOf(points.map(([own]) => own), left, right), y = scaleOf(points.map(([, own]) => own), bottom, 8);
  const svg = drawn("svg", { width, height: high, role: "img", "aria-label": lines.map((line) => line.name).join(", ") });
  const across = marksOf(x.low, x.high), up = marksOf(y.low, y.high);
  for (const mark of across.marks) {
    svg.append(drawn("line", { x1: x.at(mark), x2: x.at(mark), y1: 8, y2: bottom, class: "grid" }),
      drawn("text", { x: x.at(mark), y: bottom + 16, "text-anchor": "middle" }, tick(mark, across.step)));
  }
  for (const mark of up.marks) {
    svg.append(drawn("line", { x1: left, x2: right, y1: y.at(mark), y2: y.at(mark), class: "grid" }),
      drawn("text", { x: left - 6, y: y.at(mark) + 4, "text-anchor": "end" }, share ? tick(100 * mark, 100 * up.step) + "%" : tick(mark, up.step)));
  }
  for (const line of lines) {
    const at = line.x.map((own, i) => `${x.at(own).toFixed(1)},${y.at(line.mean[i]).toFixed(1)}`);
    svg.append(drawn("polyline", { points: at.join(" "), fill: "none", "stroke-width": 2, "stroke-dasharray": line.dash, style: `stroke: var(${line.colour})` },
      drawn("title", {}, line.name)));
    const last = line.x.length - 1;
    svg.append(drawn("circle", { cx: x.at(line.x[last]), cy: y.at(line.mean[last]), r: 4, style: `fill: var(${line.colour})` },
      drawn("title", {}, `${line.name} ends at ${number(line.x[last])}, ${formatted(line.mean[last], share)}`)));
  }
  return svg;
}

/** Names with their colours. */
const keyOf = (lines) => make("p", { class: "key" }, ...lines.map((line) =>
  make("span", {}, make("i", { style: line.dash ? `border: 2px dashed var(${line.colour})` : `background: var(${line.colour})` }), line.name)));
