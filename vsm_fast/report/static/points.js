// Matched points over the pictures of a pair: the match of each point in the reference, and the
// points below the visual threshold.

const REACH = 18; // pixels around a point that select it
const DOT = [2.2, 4.6]; // smallest and largest mark in pixels; between them, half a cell

class PointLayer {
  // frames: elements around the pictures of both sides, inside panels, which svg covers.
  constructor(svg, panels, frames, say) {
    Object.assign(this, { svg, panels, frames, say, shown: "all", lines: "chosen", chosen: -1 });
    for (const side of ["reference", "generation"]) {
      frames[side].addEventListener("click", (event) => this.click(side, event));
    }
    frames.generation.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(panels);
  }

  show(dataset, row, threshold) {
    if (row !== this.row || dataset !== this.dataset) this.chosen = -1;
    Object.assign(this, { dataset, row, threshold });
    this.limit = Math.fround(threshold);
    this.draw();
    this.tell();
  }

  fails(point) {
    return !(this.dataset.visual[point] > this.limit);
  }

  // Returns the visible points of the row, by position among the points of all rows.
  points() {
    const { dataset, row } = this;
    if (!dataset?.hasPoints || row < 0) return [];
    const all = Array.from({ length: dataset.matched[row] }, (_, i) => dataset.offsets[row] + i);
    if (this.shown === "all") return all;
    return this.shown === "none" ? [] : all.filter((point) => this.fails(point));
  }

  // Returns a function cell -> {x, y} in the layer, or null if the grid position is unknown.
  placer(side) {
    const frame = this.dataset.frame(side, this.row);
    const picture = this.frames[side].querySelector("img, .blank");
    if (!frame || !picture) return null;
    const [rows, columns] = this.dataset.header.grid;
    const outer = this.panels.getBoundingClientRect();
    const inner = picture.getBoundingClientRect();
    return (cell) => {
      const column = cell % columns;
      const line = (cell - column) / columns;
      const x = frame.left + ((column + 0.5) * (frame.right - frame.left)) / columns;
      const y = frame.top + ((line + 0.5) * (frame.bottom - frame.top)) / rows;
      return {
        x: inner.left - outer.left + (x / frame.width) * inner.width,
        y: inner.top - outer.top + (y / frame.height) * inner.height,
      };
    };
  }

  draw() {
    this.places = new Map();
    const points = this.points();
    const [from, to] = points.length
      ? [this.placer("generation"), this.placer("reference")] : [null, null];
    if (!from) {
      this.svg.replaceChildren();
      return;
    }
    const box = this.panels.getBoundingClientRect();
    const cell = Math.abs(from(1).x - from(0).x);
    const dot = Math.min(DOT[1], Math.max(DOT[0], 0.5 * cell));
    this.svg.style.setProperty("--dot", `${dot}px`);
    this.svg.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
    const paths = { dots: "", crosses: "", matched: "", mismatched: "" };
    for (const point of points) {
      const ends = { generation: from(this.dataset.cells[point]),
        reference: to ? to(this.dataset.targets[point]) : null };
      this.places.set(point, ends);
      const failing = this.fails(point);
      for (const end of [ends.generation, ends.reference]) {
        if (end) paths[failing ? "crosses" : "dots"] += failing ? cross(end, 0.75 * dot) : `M${at(end)}h0`;
      }
      if (this.lines === "all" && ends.reference) {
        paths[failing ? "mismatched" : "matched"] += `M${at(ends.reference)}L${at(ends.generation)}`;
      }
    }
    const parts = ["matched", "mismatched", "dots", "crosses"].flatMap((name) =>
      (paths[name] ? ["under", "over"].map((layer) =>
        make("svg:path", { d: paths[name], class: `${name} ${layer}` })) : []));
    this.svg.replaceChildren(...parts, ...this.chosenMarks());
  }

  chosenMarks() {
    const ends = this.places.get(this.chosen);
    if (!ends) return [];
    const kind = this.fails(this.chosen) ? "mismatched" : "matched";
    const marks = [];
    if (ends.reference) {
      const d = `M${at(ends.reference)}L${at(ends.generation)}`;
      for (const layer of ["under", "over"]) {
        marks.push(make("svg:path", { d, class: `link ${kind} ${layer}` }));
      }
    }
    for (const end of [ends.generation, ends.reference]) {
      if (end) {
        for (const layer of ["under", "over"]) {
          marks.push(make("svg:circle", { cx: end.x, cy: end.y, r: 8, class: `ring ${kind} ${layer}` }));
        }
      }
    }
    return marks;
  }

  choose(point) {
    this.chosen = point;
    this.draw();
    this.tell();
  }

  tell() {
    const { dataset, chosen } = this;
    if (chosen < 0 || !this.places.has(chosen)) {
      this.say("", "");
      return;
    }
    const failing = this.fails(chosen);
    const visual = dataset.visual[chosen].toFixed(3);
    const semantic = (dataset.semantic[chosen] / 127.5 - 1).toFixed(2);
    const number = chosen - dataset.offsets[this.row] + 1;
    const where = dataset.frame("reference", this.row) ? ""
      : " Its position in the reference was not stored.";
    this.say(failing ? "mismatched" : "matched",
      `Point ${number} of ${dataset.matched[this.row]}: ${failing ? "mismatched" : "matched"}. `
      + `Visual similarity ${visual}, ${failing ? "not above" : "above"} the threshold; semantic `
      + `similarity ${semantic}.${where}`);
  }

  click(side, event) {
    const outer = this.panels.getBoundingClientRect();
    const [x, y] = [event.clientX - outer.left, event.clientY - outer.top];
    let best = -1;
    let shortest = REACH;
    for (const [point, ends] of this.places) {
      const end = ends[side];
      const distance = end ? Math.hypot(end.x - x, end.y - y) : Infinity;
      if (distance < shortest) [best, shortest] = [point, distance];
    }
    this.choose(best);
  }

  key(event) {
    const directions = {
      ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
    };
    const points = [...this.places.keys()];
    if (event.ctrlKey || event.metaKey || event.altKey || !points.length) return;
    if (event.key === "Escape") this.choose(-1);
    else if (event.key === "Home") this.choose(points[0]);
    else if (event.key === "End") this.choose(points[points.length - 1]);
    else if (event.key === "Enter" || event.key === " ") this.nextFailing(points);
    else if (event.key in directions) this.move(points, ...directions[event.key]);
    else return;
    event.preventDefault();
  }

  nextFailing(points) {
    const failing = points.filter((point) => this.fails(point));
    if (failing.length) this.choose(failing.find((point) => point > this.chosen) ?? failing[0]);
  }

  // Moves to the nearest point in a direction; sideways distance counts double.
  move(points, dx, dy) {
    const from = this.places.get(this.chosen)?.generation;
    if (!from) {
      this.choose(points[0]);
      return;
    }
    let best = this.chosen;
    let shortest = Infinity;
    for (const [point, { generation: to }] of this.places) {
      const ahead = (to.x - from.x) * dx + (to.y - from.y) * dy;
      const aside = Math.abs((to.x - from.x) * dy) + Math.abs((to.y - from.y) * dx);
      const distance = ahead + 2 * aside;
      if (ahead > 0.5 && aside <= 2 * ahead && distance < shortest) [best, shortest] = [point, distance];
    }
    this.choose(best);
  }
}

function at({ x, y }) {
  return `${x.toFixed(1)} ${y.toFixed(1)}`;
}

function cross({ x, y }, arm) {
  const [left, right] = [(x - arm).toFixed(1), (x + arm).toFixed(1)];
  const [top, bottom] = [(y - arm).toFixed(1), (y + arm).toFixed(1)];
  return `M${left} ${top}L${right} ${bottom}M${left} ${bottom}L${right} ${top}`;
}
