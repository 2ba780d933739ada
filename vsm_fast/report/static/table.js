// Virtual table of pairs: only visible rows exist as elements.

const ROW_HEIGHT = 34;
const SPARE_ROWS = 8;

class PairTable {
  constructor(element, dataset, { select, sortBy }) {
    Object.assign(this, { element, dataset, select, sortBy });
    this.rows = new Uint32Array(0);
    this.selected = -1;
    this.pool = [];
    this.columns = this.chosenColumns();
    this.build();
  }

  chosenColumns() {
    const { dataset } = this;
    const text = (column, name, least, share) => ({
      key: column, name, least, share, of: (row) => dataset.text(column, row),
    });
    const optional = (column, name, least, share) =>
      (dataset.has(column) && (dataset.texts[column].length > 1 || dataset.texts[column][0])
        ? [text(column, name, least, share)] : []);
    const masks = {
      key: "ref_mask_origin", name: "masks", least: 9.5, share: 1,
      of: (row) => ["ref_mask_origin", "gen_mask_origin"].map((side) =>
        dataset.text(side, row) || "–").join(" / "),
    };
    return [
      { key: "score", name: "score", least: 6.8, share: 0, kind: "score" },
      text("id", "id", 12, 3),
      ...optional("subject", "subject", 8, 1.4),
      ...optional("generator", "generator", 8, 1.2),
      { key: "matched", name: "matched", least: 6.8, share: 0,
        of: (row) => `${dataset.matched[row]} of ${dataset.source[row]}` },
      text("status", "status", 7, 1),
      ...(dataset.has("ref_mask_origin") ? [masks] : []),
      ...optional("flags", "flags", 7, 1),
      ...optional("notes", "notes", 9, 1.5),
      ...optional("reason", "reason", 12, 2),
    ];
  }

  build() {
    const { element } = this;
    element.setAttribute("aria-colcount", this.columns.length);
    this.head = make("div", { role: "row", class: "head", "aria-rowindex": "1" });
    this.columns.forEach((column, i) => {
      const button = make("button", {
        type: "button", tabindex: "0", onclick: () => this.sortBy(column.key),
      }, column.name, make("span", { class: "arrow", "aria-hidden": "true" }));
      this.head.append(make("div", { role: "columnheader", "aria-colindex": i + 1, "data-key": column.key }, button));
    });
    this.body = make("div", { role: "rowgroup", class: "rows" });
    this.empty = make("p", { class: "nothing", hidden: true }, "No pair matches these filters.");
    element.replaceChildren(make("div", { role: "rowgroup" }, this.head), this.body, this.empty);
    const widths = this.columns.map(({ least, share }) => `minmax(${least}rem, ${share || 0.01}fr)`);
    element.style.setProperty("--columns", widths.join(" "));
    element.style.setProperty("--least", `${this.columns.reduce((sum, { least }) => sum + least, 0)}rem`);
    element.addEventListener("scroll", () => this.paintSoon(), { passive: true });
    new ResizeObserver(() => this.paintSoon()).observe(element);
    element.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("click", (event) => {
      const line = event.target.closest("[role=row]");
      if (line) this.select(Number(line.dataset.row));
    });
  }

  show(rows, scores, sort) {
    Object.assign(this, { rows, scores });
    this.element.setAttribute("aria-rowcount", rows.length + 1);
    this.body.style.height = `${rows.length * ROW_HEIGHT}px`;
    this.empty.hidden = rows.length > 0;
    for (const cell of this.head.children) {
      const mine = cell.dataset.key === sort.key;
      const direction = sort.down ? "descending" : "ascending";
      cell.setAttribute("aria-sort", mine ? direction : "none");
      cell.querySelector(".arrow").textContent = mine ? (sort.down ? "▼" : "▲") : "";
    }
    this.paint();
  }

  paintSoon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.paint();
    });
  }

  paint() {
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / ROW_HEIGHT) - SPARE_ROWS);
    const last = Math.min(this.rows.length, Math.ceil((scrollTop + clientHeight) / ROW_HEIGHT) + SPARE_ROWS);
    while (this.pool.length < last - first) this.pool.push(this.line());
    this.pool.forEach((line, i) => {
      const position = first + i;
      line.hidden = position >= last;
      if (line.hidden) line.removeAttribute("id");
      else this.fill(line, position);
    });
    const active = this.selected >= 0 ? this.rows.indexOf(this.selected) : -1;
    if (active >= first && active < last) {
      this.element.setAttribute("aria-activedescendant", `pair-${this.selected}`);
    } else this.element.removeAttribute("aria-activedescendant");
  }

  line() {
    const line = make("div", { role: "row" });
    this.columns.forEach((column, i) => {
      const cell = make("div", { role: "gridcell", "aria-colindex": i + 1 });
      if (column.kind === "score") cell.append(make("span", { class: "value" }), make("span", { class: "meter", "aria-hidden": "true" }, make("span")));
      line.append(cell);
    });
    this.body.append(line);
    return line;
  }

  fill(line, position) {
    const row = this.rows[position];
    line.style.transform = `translateY(${position * ROW_HEIGHT}px)`;
    line.dataset.row = row;
    line.id = `pair-${row}`;
    line.setAttribute("aria-rowindex", position + 2);
    line.setAttribute("aria-selected", String(row === this.selected));
    line.classList.toggle("odd", position % 2 === 1);
    line.classList.toggle("unscored", Number.isNaN(this.scores[row]));
    this.columns.forEach((column, i) => {
      const cell = line.children[i];
      if (column.kind === "score") {
        const score = this.scores[row];
        cell.firstChild.textContent = shownScore(score);
        cell.lastChild.firstChild.style.width = `${Number.isNaN(score) ? 0 : 100 * score}%`;
      } else {
        const text = column.of(row);
        cell.textContent = text;
        cell.title = text;
      }
    });
  }

  mark(row) {
    this.selected = row;
    const position = this.rows.indexOf(row);
    if (position >= 0) this.reveal(position);
    this.paint();
  }

  reveal(position) {
    const { element } = this;
    const room = element.clientHeight - this.head.offsetHeight;
    const top = position * ROW_HEIGHT;
    if (top < element.scrollTop) element.scrollTop = top;
    else if (top + ROW_HEIGHT > element.scrollTop + room) element.scrollTop = top + ROW_HEIGHT - room;
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.element.clientHeight / ROW_HEIGHT) - 2);
    const steps = {
      ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity,
    };
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.step(steps[event.key]);
  }

  step(by) {
    if (!this.rows.length) return;
    const now = this.rows.indexOf(this.selected);
    const target = now < 0 && Number.isFinite(by) ? 0 : now + by;
    this.select(this.rows[Math.min(this.rows.length - 1, Math.max(0, target))]);
  }
}
