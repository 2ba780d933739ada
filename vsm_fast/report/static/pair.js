// Pair view: reference, generated image and heat map side by side, matched points and columns.

const HEAT_PIXELS = 384;
const CARD_PIXELS = 96;
const FACTS = [
  ["subject", "Subject"], ["generator", "Generator"], ["ref_id", "Reference"], ["gen_id", "Generated image"],
  ["status", "Status"], ["reason", "Reason"], ["flags", "Flags"], ["notes", "Notes"],
  ["ref_mask_origin", "Reference mask"], ["gen_mask_origin", "Generated image mask"],
];

class PairView {
  constructor() {
    const frame = (side) => byId(`frame-${side}`);
    this.frames = { reference: frame("reference"), generation: frame("generation"), heat: frame("heat") };
    this.canvas = make("canvas", { class: "heat", "aria-hidden": "true" });
    this.divider = make("div", { class: "divider", "aria-hidden": "true" });
    this.layer = new PointLayer(byId("links"), byId("panels"), this.frames, (kind, text) => {
      byId("point-said").textContent = text;
      byId("point-said").dataset.kind = kind;
    });
    this.row = -1;
    byId("strength").addEventListener("input", () => this.mix());
    for (const input of document.querySelectorAll("input[name=mixing]")) {
      input.addEventListener("change", () => this.mix());
    }
    byId("shown-points").addEventListener("change", (event) => this.layerOption("shown", event));
    byId("shown-lines").addEventListener("change", (event) => this.layerOption("lines", event));
  }

  layerOption(name, event) {
    this.layer[name] = event.target.value;
    this.layer.choose(this.layer.chosen);
  }

  setDataset(dataset) {
    this.dataset = dataset;
    this.heat = dataset.hasPoints ? new HeatMap(dataset) : null;
    this.row = -1;
    for (const element of document.querySelectorAll(".needs-points")) {
      element.hidden = !dataset.hasPoints;
    }
    if (this.heat) {
      const stops = dataset.header.heat.anchors.map((rgb) => `rgb(${rgb.join(" ")})`);
      byId("ramp").style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
    }
  }

  async show(row, threshold) {
    const { dataset } = this;
    Object.assign(this, { row, threshold });
    byId("pair-name").textContent = dataset.text("id", row);
    this.fillFacts();
    this.fillFrame("reference", `Reference ${dataset.text("ref_id", row)}`);
    this.fillFrame("generation", `Generated image ${dataset.text("gen_id", row)}`);
    const under = this.fillFrame("heat", `Heat map of ${dataset.text("gen_id", row)}`);
    under.after(this.canvas, this.divider);
    this.canvas.hidden = true;
    this.frames.generation.setAttribute("aria-label",
      `Generated image ${dataset.text("gen_id", row)} with its matched points. Arrow keys move between `
      + "points, Enter selects the next mismatch, Escape clears the selection.");
    this.bitmap = undefined;
    this.bitmap = await dataset.bitmap("generation", row);
    if (this.row === row && this.dataset === dataset) this.setThreshold(this.threshold);
  }

  fillFrame(name, description) {
    const { dataset, row } = this;
    const side = name === "heat" ? "generation" : name;
    const picture = dataset.picture(side, row);
    const frame = dataset.hasPoints ? dataset.frame(side, row) : null;
    let shown;
    if (picture) {
      shown = make("img", { src: picture.url, alt: description, draggable: "false" });
      shown.addEventListener("load", () => this.layer.draw());
    } else {
      shown = make("div", { class: "blank", role: "img", "aria-label": description },
        name === "heat" && frame ? "" : dataset.noPictureReason(side, row));
      if (frame) shown.style.aspectRatio = `${frame.width} / ${frame.height}`;
    }
    this.frames[name].replaceChildren(shown);
    return shown;
  }

  setThreshold(threshold) {
    this.threshold = threshold;
    if (this.row < 0 || this.bitmap === undefined) return; // show() calls this again
    this.fillScore();
    if (this.heat) {
      const drawn = this.heat.draw(this.canvas, this.bitmap, this.row, threshold, HEAT_PIXELS);
      this.canvas.hidden = !drawn;
      byId("no-heat").textContent = drawn ? "" : this.noHeatReason();
    }
    this.mix();
    this.layer.show(this.dataset, this.row, threshold);
  }

  noHeatReason() {
    return this.dataset.matched[this.row]
      ? "A threshold of 1 leaves no scale for a heat map." : "No heat map: no point matched.";
  }

  fillScore() {
    const { dataset, row, threshold } = this;
    const [matched, source] = [dataset.matched[row], dataset.source[row]];
    let score = dataset.score[row];
    let detail = `${matched} of ${counted(source, "point")} matched`;
    if (dataset.hasPoints) {
      const hits = dataset.passing(row, threshold);
      score = Math.fround(hits / matched);
      if (matched) detail = `${hits} of ${matched} matched points are visual matches; ${detail}`;
    }
    byId("pair-score").textContent = Number.isNaN(score) ? "No score" : `VSM ${score.toFixed(3)}`;
    byId("pair-detail").textContent = Number.isNaN(score)
      ? dataset.text("reason", row) || dataset.text("status", row).replaceAll("_", " ") : detail;
  }

  fillFacts() {
    const { dataset, row } = this;
    const named = new Set(FACTS.map(([column]) => column));
    const more = Object.keys(dataset.texts).filter((column) => column !== "id" && !named.has(column));
    const facts = [...FACTS, ...more.map((column) => [column, column])].flatMap(([column, name]) => {
      const text = dataset.text(column, row);
      return text ? [make("div", {}, make("dt", {}, name), make("dd", {}, text))] : [];
    });
    byId("facts").replaceChildren(...facts);
  }

  // Blends the heat map with the image, or wipes it in from the left.
  mix() {
    const share = Number(byId("strength").value) / 100;
    const wipe = document.querySelector("input[name=mixing]:checked").value === "wipe";
    this.canvas.style.opacity = wipe ? "1" : String(share);
    this.canvas.style.clipPath = wipe ? `inset(0 ${100 - 100 * share}% 0 0)` : "none";
    this.divider.hidden = !wipe || this.canvas.hidden;
    this.divider.style.left = `${100 * share}%`;
    byId("strength").setAttribute("aria-valuetext",
      `${Math.round(100 * share)} percent ${wipe ? "of the width" : "heat map"}`);
  }
}

// Button with thumbnails of a pair.
function pairCard(dataset, heat, row, score, threshold, choose) {
  const small = (side) => {
    const picture = dataset.picture(side, row);
    return picture ? make("img", { src: picture.url, alt: "", loading: "lazy" }) : make("span", { class: "blank" });
  };
  const canvas = make("canvas");
  const name = dataset.text("id", row);
  const card = make("button", {
    type: "button", class: "card", title: name, "data-row": row, onclick: () => choose(row),
    "aria-label": `${name}, score ${shownScore(score)}`,
  },
  make("span", { class: "trio", "aria-hidden": "true" }, small("reference"), small("generation"),
    heat ? canvas : null),
  make("span", { class: "caption" }, make("b", {}, shownScore(score)), make("span", {}, name)));
  if (heat) {
    dataset.bitmap("generation", row).then((bitmap) => {
      heat.draw(canvas, bitmap, row, threshold, CARD_PIXELS);
    });
  }
  return card;
}
