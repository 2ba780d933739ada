// Result columns: unpacked from the page, scored at any threshold.

const TYPES = {
  float32: Float32Array, int32: Int32Array, uint32: Uint32Array, uint16: Uint16Array,
  uint8: Uint8Array,
};
const UNREADABLE = -2; // in reference and generation: the image could not be read

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

// Inverts differences modulo 65,536.
function summed(steps) {
  const values = new Uint16Array(steps.length);
  let value = 0;
  for (let i = 0; i < steps.length; i += 1) values[i] = value = (value + steps[i]) & 0xffff;
  return values;
}

function together(bytes) {
  const count = bytes.length / 4;
  const mixed = new Uint8Array(bytes.length);
  for (let part = 0; part < 4; part += 1) {
    for (let i = 0; i < count; i += 1) mixed[4 * i + part] = bytes[part * count + i];
  }
  return new Float32Array(mixed.buffer); // little-endian, like every machine with a browser
}

function offsetsOf(counts) {
  const offsets = new Uint32Array(counts.length + 1);
  for (let i = 0; i < counts.length; i += 1) offsets[i + 1] = offsets[i] + counts[i];
  return offsets;
}

class Dataset {
  // base64: stream; imageOf(position): image file in base64.
  static async open(header, base64, imageOf) {
    return new Dataset(header, await inflated(bytesOf(base64)), imageOf);
  }

  constructor(header, buffer, imageOf) {
    this.header = header;
    this.count = header.count;
    this.imageOf = imageOf;
    this.pictures = new Map();
    this.codes = {};
    const blocks = {};
    let place = 0;
    for (const [name, type, length] of header.blocks) {
      blocks[name] = new TYPES[type](buffer, place, length);
      place += blocks[name].byteLength;
      if (name.startsWith("text:")) this.codes[name.slice(5)] = blocks[name];
    }
    this.texts = JSON.parse(new TextDecoder().decode(blocks.texts));
    Object.assign(this, {
      score: blocks.score, matched: blocks.matched, source: blocks.source,
      reference: blocks.reference, generation: blocks.generation,
    });
    this.defaultThreshold = Number.parseFloat(header.settings.visual_threshold ?? "NaN");
    this.hasPoints = header.grid !== null;
    if (this.hasPoints) this.unpackPoints(blocks);
  }

  unpackPoints(blocks) {
    this.visual = together(blocks.visual);
    this.semantic = blocks.semantic;
    this.cells = summed(blocks.cells);
    this.targets = summed(blocks.targets);
    this.offsets = offsetsOf(this.matched);
    this.subjectCells = summed(blocks.subjectCells);
    this.subjectOffsets = offsetsOf(blocks.subjectCounts);
    this.genFrame = blocks.genFrame;
    this.refFrame = blocks.refFrame;
  }

  has(column) {
    return Object.hasOwn(this.texts, column);
  }

  text(column, row) {
    return this.has(column) ? this.texts[column][this.codes[column][row]] : "";
  }

  // Rank of each row's text in a column; numbers in texts sort by value.
  ranks(column) {
    this.ranked ??= {};
    if (!this.ranked[column]) {
      const { compare } = new Intl.Collator("en", { numeric: true });
      const values = this.texts[column];
      const order = values.map((_, code) => code).sort((a, b) => compare(values[a], values[b]));
      const rank = new Uint32Array(order.length);
      order.forEach((code, position) => { rank[code] = position; });
      this.ranked[column] = Float64Array.from(this.codes[column], (code) => rank[code]);
    }
    return this.ranked[column];
  }

  // VSMScores.at: the share of matched points whose similarity is above the threshold, compared
  // and stored in float32; NaN where no point matched.
  scoresAt(threshold) {
    if (!this.hasPoints) return this.score;
    const limit = Math.fround(threshold);
    const { visual, offsets } = this;
    const scores = new Float32Array(this.count);
    for (let row = 0; row < this.count; row += 1) {
      let hits = 0;
      for (let i = offsets[row]; i < offsets[row + 1]; i += 1) if (visual[i] > limit) hits += 1;
      scores[row] = hits / (offsets[row + 1] - offsets[row]);
    }
    return scores;
  }

  passing(row, threshold) {
    const limit = Math.fround(threshold);
    let hits = 0;
    for (let i = this.offsets[row]; i < this.offsets[row + 1]; i += 1) {
      if (this.visual[i] > limit) hits += 1;
    }
    return hits;
  }

  frame(side, row) {
    const frames = side === "generation" ? this.genFrame : this.refFrame;
    const [left, top, right, bottom, height, width] = frames.subarray(6 * row, 6 * row + 6);
    return width && height ? { left, top, right, bottom, height, width } : null;
  }

  // Returns {url, blob} of one side of a row, cached per image; null without a picture.
  picture(side, row) {
    const place = this[side][row];
    if (place < 0) return null;
    if (!this.pictures.has(place)) {
      const blob = new Blob([bytesOf(this.imageOf(place))], { type: "image/webp" });
      this.pictures.set(place, { blob, url: URL.createObjectURL(blob) });
    }
    return this.pictures.get(place);
  }

  // Returns the decoded picture, for canvases.
  async bitmap(side, row) {
    const picture = this.picture(side, row);
    if (!picture) return null;
    picture.bitmap ??= createImageBitmap(picture.blob);
    return picture.bitmap;
  }

  close() {
    for (const { url } of this.pictures.values()) URL.revokeObjectURL(url);
  }

  noPictureReason(side, row) {
    return this[side][row] === UNREADABLE
      ? "The image file could not be read when this report was written."
      : "No picture in this report (--images N includes more).";
  }
}

// Creates an element without markup: text stays text.
function make(tag, attributes = {}, ...children) {
  const element = tag.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4))
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const byId = (id) => document.getElementById(id);
const shownScore = (score) => (Number.isNaN(score) ? "–" : score.toFixed(3));
const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
