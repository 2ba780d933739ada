// Page state: threshold, filters and selected pair, and the views that show them.

const CARDS = 8;
const DELAY = 120; // ms from the last slider move to the slow views
const THEMES = ["auto", "light", "dark"];
const GROUPINGS = ["subject", "generator"];

class Report {
  constructor() {
    this.pair = new PairView();
    byId("threshold").addEventListener("input", (event) => this.setThreshold(event.target.value));
    byId("threshold-number").addEventListener("change", (event) => this.typedThreshold(event.target));
    byId("threshold-reset").addEventListener("click", () =>
      this.setThreshold(this.dataset.defaultThreshold));
    byId("search").addEventListener("input", () => this.filter());
    for (const column of [...GROUPINGS, "status"]) {
      byId(`filter-${column}`).addEventListener("change", () => this.filter());
    }
    byId("clear").addEventListener("click", () => this.clear());
    byId("previous").addEventListener("click", () => this.table.step(-1));
    byId("next").addEventListener("click", () => this.table.step(1));
  }

  setDataset(dataset) {
    this.dataset = dataset;
    this.heat = dataset.hasPoints ? new HeatMap(dataset) : null;
    this.sort = { key: "score", down: false };
    this.selected = -1;
    this.filters = {};
    byId("results").hidden = dataset.count === 0;
    byId("nothing").hidden = dataset.count > 0;
    if (!dataset.count) return;
    this.pair.setDataset(dataset);
    const empty = byId("table").cloneNode(false); // drops the listeners of the previous table
    byId("table").replaceWith(empty);
    this.table = new PairTable(empty, dataset, {
      select: (row) => this.select(row), sortBy: (key) => this.sortBy(key),
    });
    this.groups = {};
    for (const column of GROUPINGS) this.makeGrouping(column);
    this.fillSelect("status");
    byId("search").value = "";
    this.searched = null;
    this.prepareThreshold();
    this.filter();
    this.select(this.rows[0]);
    byId("table").scrollTop = 0;
  }

  makeGrouping(column) {
    const { dataset } = this;
    const several = dataset.has(column) && dataset.texts[column].length > 1;
    byId(`by-${column}`).hidden = !several;
    this.fillSelect(column);
    if (several) {
      this.groups[column] = new GroupPlot(byId(`groups-${column}`), dataset, column, (code) => {
        byId(`filter-${column}`).value = code === null ? "" : String(code);
        this.filter();
      });
    }
  }

  fillSelect(column) {
    const { dataset } = this;
    const names = dataset.has(column) ? dataset.texts[column] : [];
    const ranks = names.map((name, code) => [name, code]).sort((a, b) => (a[0] < b[0] ? -1 : 1));
    byId(`filter-${column}`).replaceChildren(make("option", { value: "" }, "all"),
      ...ranks.map(([name, code]) => make("option", { value: code }, name || "(none)")));
    byId(`filter-${column}`).closest("label").hidden = names.length < 2;
  }

  prepareThreshold() {
    const { dataset } = this;
    const slider = byId("threshold");
    let lowest = 0;
    if (dataset.hasPoints) {
      for (const similarity of dataset.visual) if (similarity < lowest) lowest = similarity;
    }
    slider.min = lowest < 0 ? "-1" : "0";
    for (const id of ["threshold", "threshold-number", "threshold-reset"]) {
      byId(id).disabled = !dataset.hasPoints;
    }
    byId("without-points").textContent = dataset.header.withoutPoints;
    byId("without-points").hidden = dataset.hasPoints;
    byId("threshold-reset").hidden = Number.isNaN(dataset.defaultThreshold);
    byId("threshold-reset").textContent = `Reset to ${dataset.defaultThreshold}`;
    this.threshold = Number.isNaN(dataset.defaultThreshold) ? 0.5 : dataset.defaultThreshold;
    this.count();
    this.showThreshold();
  }

  typedThreshold(input) {
    const value = Number.parseFloat(input.value);
    if (value >= -1 && value <= 1) this.setThreshold(value);
    else this.showThreshold();
  }

  setThreshold(value) {
    this.threshold = Number(value);
    this.count();
    this.showThreshold();
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.arrange({ moving: true });
      this.pair.setThreshold(this.threshold);
    });
  }

  count() {
    this.scores = this.dataset.scoresAt(this.threshold);
  }

  showThreshold() {
    byId("threshold").value = this.threshold;
    byId("threshold-number").value = this.threshold;
    for (const element of document.querySelectorAll(".threshold-value")) {
      element.textContent = String(this.threshold);
    }
  }

  sortBy(key) {
    this.sort = { key, down: this.sort.key === key ? !this.sort.down : false };
    byId("table").scrollTop = 0;
    this.arrange();
  }

  clear() {
    byId("search").value = "";
    for (const column of [...GROUPINGS, "status"]) byId(`filter-${column}`).value = "";
    this.filter();
  }

  filter() {
    for (const column of [...GROUPINGS, "status"]) {
      const { value } = byId(`filter-${column}`);
      this.filters[column] = value === "" ? null : Number(value);
    }
    byId("table").scrollTop = 0;
    this.arrange();
  }

  // Returns a predicate: whether a row contains all words of the search.
  searchFilter() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return () => true;
    this.searched ??= Array.from({ length: this.dataset.count }, (_, row) =>
      Object.keys(this.dataset.texts).map((column) => this.dataset.text(column, row)).join("\n").toLowerCase());
    return (row) => words.every((word) => this.searched[row].includes(word));
  }

  filtered() {
    const { dataset, filters } = this;
    const matches = this.searchFilter();
    const active = Object.entries(filters).filter(([column, code]) => code !== null && dataset.has(column));
    const rows = [];
    for (let row = 0; row < dataset.count; row += 1) {
      if (active.every(([column, code]) => dataset.codes[column][row] === code) && matches(row)) {
        rows.push(row);
      }
    }
    return Uint32Array.from(rows);
  }

  keys(key) {
    if (key === "score") return this.scores;
    if (key === "matched") {
      return Float64Array.from(this.dataset.matched, (count, row) => count / this.dataset.source[row]);
    }
    return this.dataset.ranks(key);
  }

  // Rows without a value come last in both directions; equal rows keep the order of the table.
  sorted(rows) {
    const values = this.keys(this.sort.key);
    const sign = this.sort.down ? -1 : 1;
    return rows.sort((a, b) => {
      const [left, right] = [values[a], values[b]];
      if (Number.isNaN(left) || Number.isNaN(right)) {
        return Number.isNaN(left) - Number.isNaN(right) || a - b;
      }
      return sign * (left - right) || a - b;
    });
  }

  arrange({ moving = false } = {}) {
    this.rows = this.sorted(this.filtered());
    this.table.show(this.rows, this.scores, this.sort);
    const all = drawHistogram(byId("histogram"), this.scores, this.rows);
    byId("mean").textContent = all ? all.mean.toFixed(3) : "–";
    byId("median").textContent = all ? all.median.toFixed(3) : "–";
    byId("shown").textContent = this.rows.length === this.dataset.count
      ? counted(this.dataset.count, "pair")
      : `${this.rows.length.toLocaleString("en")} of ${counted(this.dataset.count, "pair")}`;
    byId("clear").hidden = this.rows.length === this.dataset.count;
    if (!moving) this.drawGroups();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      if (moving) this.drawGroups();
      this.drawGallery();
    }, DELAY);
  }

  drawGroups() {
    for (const [column, plot] of Object.entries(this.groups)) {
      plot.draw(this.scores, this.filters[column]);
    }
  }

  drawGallery() {
    const scored = [...this.rows].filter((row) => !Number.isNaN(this.scores[row]))
      .sort((a, b) => this.scores[a] - this.scores[b] || a - b);
    const half = Math.min(CARDS, Math.ceil(scored.length / 2));
    const strips = { lowest: scored.slice(0, half), highest: scored.slice(half).reverse().slice(0, CARDS) };
    for (const [name, rows] of Object.entries(strips)) {
      const cards = rows.map((row) => pairCard(
        this.dataset, this.heat, row, this.scores[row], this.threshold, (selected) => {
          this.select(selected);
          byId("explorer").scrollIntoView({ block: "start" });
        }));
      byId(name).closest("section").hidden = !cards.length;
      byId(name).replaceChildren(...cards);
    }
    this.markCards();
  }

  markCards() {
    for (const card of document.querySelectorAll(".card")) {
      card.toggleAttribute("aria-current", Number(card.dataset.row) === this.selected);
    }
  }

  select(row) {
    if (row === undefined) return;
    this.selected = row;
    this.table.mark(row);
    this.markCards();
    this.showing = this.pair.show(row, this.threshold);
  }
}

function prepareTheme() {
  const stored = () => {
    try {
      return localStorage.getItem("vsm-theme");
    } catch {
      return null; // storage is forbidden, for example in a sandbox
    }
  };
  const button = byId("theme");
  const use = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    button.dataset.theme = theme;
  };
  use(THEMES.includes(stored()) ? stored() : "auto");
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(button.dataset.theme) + 1) % THEMES.length];
    use(next);
    try {
      localStorage.setItem("vsm-theme", next);
    } catch {
      // The theme lasts as long as the page.
    }
  });
}

async function start() {
  prepareTheme();
  const began = performance.now();
  const report = new Report();
  const header = JSON.parse(byId("header").textContent);
  const imageOf = (place) => byId(`image-${place}`).textContent;
  report.setDataset(await Dataset.open(header, byId("stream").textContent, imageOf));
  document.documentElement.dataset.ready = String(Math.round(performance.now() - began));
  globalThis.vsmReport = report; // for the console
  if (typeof prepareUpload === "function") prepareUpload(report);
}
