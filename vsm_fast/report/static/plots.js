// Distributions: a histogram of all scores, and a box plot with dots per group.

const BINS = 25;
const GROUPS_SHOWN = 8;
const DOTS = 150; // per group; a larger group shows as many, evenly spaced by rank

function quantile(sorted, share) {
  const place = (sorted.length - 1) * share;
  const first = Math.floor(place);
  const next = Math.min(first + 1, sorted.length - 1);
  return sorted[first] + (sorted[next] - sorted[first]) * (place - first);
}

function summaryOf(scores) {
  const sorted = scores.filter((score) => !Number.isNaN(score)).sort((a, b) => a - b);
  if (!sorted.length) return null;
  const mean = sorted.reduce((sum, score) => sum + score, 0) / sorted.length;
  const [low, first, median, third, high] = [0.05, 0.25, 0.5, 0.75, 0.95].map((share) =>
    quantile(sorted, share));
  return { count: sorted.length, mean, low, first, median, third, high };
}

function drawHistogram(svg, scores, rows) {
  const bins = new Array(BINS).fill(0);
  let scored = 0;
  for (const row of rows) {
    if (Number.isNaN(scores[row])) continue;
    bins[Math.min(BINS - 1, Math.floor(scores[row] * BINS))] += 1;
    scored += 1;
  }
  const [width, height, base] = [520, 190, 160];
  const tallest = Math.max(1, ...bins);
  const step = (width - 44) / BINS;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const parts = [];
  for (const count of new Set([Math.ceil(tallest / 2), tallest])) {
    const y = base - (count / tallest) * (base - 14);
    parts.push(make("svg:line", { x1: 34, x2: width - 10, y1: y, y2: y, class: "rule" }),
      make("svg:text", { x: 28, y: y + 4, class: "tick", "text-anchor": "end" }, String(count)));
  }
  bins.forEach((count, bin) => {
    const tall = (count / tallest) * (base - 14);
    const range = `${(bin / BINS).toFixed(2)} to ${((bin + 1) / BINS).toFixed(2)}`;
    parts.push(make("svg:rect", {
      x: 34 + bin * step + 1, y: base - tall, width: step - 2, height: tall, rx: 1.5, class: "bar",
    }, make("svg:title", {}, `${counted(count, "pair")} from ${range}`)));
  });
  parts.push(make("svg:line", { x1: 34, x2: width - 10, y1: base, y2: base, class: "axis" }));
  for (let tick = 0; tick <= 5; tick += 1) {
    parts.push(make("svg:text", {
      x: 34 + (tick / 5) * (width - 44), y: base + 18, class: "tick", "text-anchor": "middle",
    }, (tick / 5).toFixed(1)));
  }
  svg.replaceChildren(...parts);
  const all = summaryOf(Array.from(rows, (row) => scores[row]));
  svg.setAttribute("aria-label", all
    ? `Histogram of ${counted(scored, "score")}: mean ${all.mean.toFixed(3)}, median `
      + `${all.median.toFixed(3)}, 25th to 75th percentile ${all.first.toFixed(3)} to ${all.third.toFixed(3)}.`
    : "No scores to show.");
  return all;
}

function spread(rows, scores) {
  if (rows.length <= DOTS) return rows;
  const sorted = rows.sort((a, b) => scores[a] - scores[b]);
  return Array.from({ length: DOTS }, (_, i) => sorted[Math.floor(((i + 0.5) / DOTS) * rows.length)]);
}

function drawGroup(scores, rows, summary) {
  const [width, height, middle] = [400, 30, 15];
  const x = (score) => (6 + score * (width - 12)).toFixed(1);
  let dots = "";
  for (const row of spread(rows.filter((one) => !Number.isNaN(scores[one])), scores)) {
    const jitter = (((row * 2654435761) >>> 16) & 255) / 255 - 0.5; // deterministic
    dots += `M${x(scores[row])} ${(middle + jitter * 18).toFixed(1)}h0`;
  }
  const svg = make("svg:svg", {
    viewBox: `0 0 ${width} ${height}`, class: "strip", "aria-hidden": "true",
    preserveAspectRatio: "none",
  });
  for (let tick = 0; tick <= 4; tick += 1) {
    svg.append(make("svg:line", { x1: x(tick / 4), x2: x(tick / 4), y1: 0, y2: height, class: "rule" }));
  }
  if (!summary) return svg;
  svg.append(
    make("svg:path", {
      d: dots, class: "dots", "stroke-width": rows.length > 100 ? 3.5 : 4.5, opacity: rows.length > 50 ? 0.45 : 0.7,
    }),
    make("svg:line", { x1: x(summary.low), x2: x(summary.high), y1: middle, y2: middle, class: "whisker" }),
    make("svg:rect", {
      x: x(summary.first), y: middle - 7, height: 14, rx: 2, class: "box",
      width: Math.max(2, x(summary.third) - x(summary.first)),
    }),
    make("svg:line", { x1: x(summary.median), x2: x(summary.median), y1: middle - 9, y2: middle + 9, class: "median" }),
  );
  return svg;
}

// Table with one row per group; a click filters by the group.
class GroupPlot {
  constructor(element, dataset, column, choose) {
    Object.assign(this, { element, dataset, column, choose, all: false });
    this.rowsOf = dataset.texts[column].map(() => []);
    dataset.codes[column].forEach((code, row) => this.rowsOf[code].push(row));
    const some = this.rowsOf.some((rows) => rows.length > DOTS);
    byId(`dots-${column}`).textContent = some ? `pair (at most ${DOTS} per group)` : "pair";
  }

  draw(scores, chosen) {
    const names = this.dataset.texts[this.column];
    const groups = names.map((name, code) => ({
      name, code, rows: this.rowsOf[code],
      summary: summaryOf(this.rowsOf[code].map((row) => scores[row])),
    }));
    groups.sort((a, b) => (a.summary?.mean ?? 2) - (b.summary?.mean ?? 2));
    const shown = this.all ? groups : groups.slice(0, GROUPS_SHOWN);
    const focused = this.element.contains(document.activeElement)
      ? document.activeElement.dataset.name : null;
    const body = make("tbody", {}, ...shown.map((group) => this.row(group, scores, chosen)));
    const heads = [this.column, "pairs", "mean", "median"].map((head, i) =>
      make("th", { scope: "col", class: i ? "number" : null }, head));
    const axis = make("th", { scope: "col", class: "axis-head" },
      make("span", {}, "0"), make("span", {}, "score"), make("span", {}, "1"));
    const table = make("table", { class: "groups" },
      make("caption", { class: "hidden" }, `Scores by ${this.column}, lowest mean first`),
      make("thead", {}, make("tr", {}, ...heads, axis)), body);
    const more = groups.length > GROUPS_SHOWN ? make("button", {
      type: "button", class: "quiet",
      onclick: () => { this.all = !this.all; this.draw(scores, chosen); },
    }, this.all ? "Show fewer" : `Show all ${groups.length}`) : null;
    this.element.replaceChildren(table, ...(more ? [more] : []));
    if (focused !== null) {
      [...this.element.querySelectorAll("button")].find((b) => b.dataset.name === focused)?.focus();
    }
  }

  row(group, scores, chosen) {
    const { name, code, rows, summary } = group;
    const pressed = chosen === code;
    const button = make("button", {
      type: "button", class: "group", "aria-pressed": String(pressed), "data-name": name, title: name,
      onclick: () => this.choose(pressed ? null : code),
    }, name || "(none)");
    const numbers = [rows.length.toLocaleString("en"), summary ? summary.mean.toFixed(3) : "–",
      summary ? summary.median.toFixed(3) : "–"];
    return make("tr", { class: pressed ? "chosen" : null },
      make("th", { scope: "row" }, button),
      ...numbers.map((number) => make("td", { class: "number" }, number)),
      make("td", {}, drawGroup(scores, rows, summary), make("span", { class: "hidden" }, summary
        ? `25th to 75th percentile ${summary.first.toFixed(3)} to ${summary.third.toFixed(3)}, `
          + `5th to 95th percentile ${summary.low.toFixed(3)} to ${summary.high.toFixed(3)}`
        : "no scores")));
  }
}
