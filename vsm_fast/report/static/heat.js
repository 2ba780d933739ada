// Heat maps from cells, as in vsm_fast/results/heatmap.py and overlay.py. The page has the cells of
// the subject but not its mask, so the edge of the subject is the smoothed edge of its cells.

class HeatMap {
  constructor(dataset) {
    this.dataset = dataset;
    const { heat, grid } = dataset.header;
    this.heat = heat;
    [this.rows, this.columns] = grid;
    const side = 2 * heat.reach + 1;
    this.weights = Array.from({ length: side }, (_, i) =>
      Math.exp(-0.5 * ((i - heat.reach) / heat.sigma) ** 2));
  }

  // 0 at similarity 1, 0.5 at the threshold, clipped to [0, 1].
  static inconsistency(similarity, threshold) {
    const value = 0.5 * ((1 - similarity) / (1 - Math.fround(threshold)));
    return Math.fround(Math.min(1, Math.max(0, value)));
  }

  // Returns the values of all cells of a row, or null if no heat map exists.
  grid(row, threshold) {
    const { dataset, rows, columns } = this;
    const first = dataset.offsets[row];
    const last = dataset.offsets[row + 1];
    if (first === last || Math.fround(threshold) >= 1) return null;
    const values = new Float32Array(rows * columns);
    const matched = new Uint8Array(rows * columns);
    for (let i = first; i < last; i += 1) {
      values[dataset.cells[i]] = HeatMap.inconsistency(dataset.visual[i], threshold);
      matched[dataset.cells[i]] = 1;
    }
    return this.filled(values, matched);
  }

  // Fills cells without a match: Gaussian average of matched cells in reach, else the nearest.
  filled(values, matched) {
    const { rows, columns } = this;
    const { reach } = this.heat;
    const cells = [];
    matched.forEach((is, cell) => { if (is) cells.push(cell); });
    const filled = values.slice();
    for (let y = 0; y < rows; y += 1) {
      for (let x = 0; x < columns; x += 1) {
        if (matched[y * columns + x]) continue;
        let total = 0;
        let weight = 0;
        for (let v = Math.max(0, y - reach); v <= Math.min(rows - 1, y + reach); v += 1) {
          for (let u = Math.max(0, x - reach); u <= Math.min(columns - 1, x + reach); u += 1) {
            if (!matched[v * columns + u]) continue;
            const share = this.weights[v - y + reach] * this.weights[u - x + reach];
            total += share * values[v * columns + u];
            weight += share;
          }
        }
        filled[y * columns + x] = weight > 0 ? total / weight : values[this.nearest(cells, x, y)];
      }
    }
    return filled;
  }

  nearest(cells, x, y) {
    let best = cells[0];
    let shortest = Infinity;
    for (const cell of cells) {
      const u = cell % this.columns;
      const distance = (u - x) ** 2 + ((cell - u) / this.columns - y) ** 2;
      if (distance < shortest) [best, shortest] = [cell, distance];
    }
    return best;
  }

  subject(row) {
    const { subjectCells, subjectOffsets } = this.dataset;
    const inside = new Float32Array(this.rows * this.columns);
    for (let i = subjectOffsets[row]; i < subjectOffsets[row + 1]; i += 1) {
      inside[subjectCells[i]] = 1;
    }
    return inside;
  }

  colour(value) {
    const { anchors } = this.heat;
    const place = Math.min(1, Math.max(0, value)) * (anchors.length - 1);
    const first = Math.min(Math.floor(place), anchors.length - 2);
    const part = place - first;
    return anchors[first].map((low, i) => Math.round(low * (1 - part) + anchors[first + 1][i] * part));
  }

  // Draws the overlay of a row on a canvas, over its generated image or plain grey.
  // Returns whether a heat map exists.
  draw(canvas, bitmap, row, threshold, longest) {
    const frame = this.dataset.frame("generation", row);
    const full = bitmap ?? frame ?? { width: this.columns, height: this.rows };
    const scale = longest / Math.max(full.width, full.height);
    canvas.width = Math.max(1, Math.round(full.width * scale));
    canvas.height = Math.max(1, Math.round(full.height * scale));
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (bitmap) context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const image = context.getImageData(0, 0, canvas.width, canvas.height);
    if (!bitmap) image.data.fill(150);
    const values = this.grid(row, threshold);
    this.paint(image, values, row, frame);
    context.putImageData(image, 0, 0);
    return values !== null;
  }

  paint(image, values, row, frame) {
    const { width, height, data } = image;
    const { blend, dimmed, dimmedTowards } = this.heat;
    const inside = values && frame ? this.subject(row) : null;
    this.table ??= Array.from({ length: 1021 }, (_, i) => this.colour(i / 1020));
    const across = frame ? neighbours(this.columns, width, frame.left, frame.right, frame.width) : [];
    const down = frame ? neighbours(this.rows, height, frame.top, frame.bottom, frame.height) : [];
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        const at = 4 * (y * width + x);
        const grey = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
        const [v, u] = [down[y], across[x]];
        const on = inside && v && u && between(inside, this.columns, v, u) >= 0.5;
        const colour = on ? this.table[Math.round(1020 * between(values, this.columns, v, u))] : null;
        for (let c = 0; c < 3; c += 1) {
          data[at + c] = colour
            ? grey * (1 - blend) + colour[c] * blend
            : grey * dimmed + dimmedTowards * (1 - dimmed);
        }
        data[at + 3] = 255;
      }
    }
  }
}

// Returns per pixel along one axis the two cells around its centre and the weight of the second;
// null outside the box.
function neighbours(cells, pixels, low, high, size) {
  return Array.from({ length: pixels }, (_, i) => {
    const place = ((i + 0.5) * size) / pixels;
    if (place < low || place > high) return null;
    const centre = ((place - low) * cells) / (high - low) - 0.5;
    const clipped = Math.min(cells - 1, Math.max(0, centre));
    const first = Math.floor(clipped);
    return { first, second: Math.min(first + 1, cells - 1), part: clipped - first };
  });
}

function between(values, columns, down, across) {
  const upper = down.first * columns;
  const lower = down.second * columns;
  const left = values[upper + across.first]
    + (values[lower + across.first] - values[upper + across.first]) * down.part;
  const right = values[upper + across.second]
    + (values[lower + across.second] - values[upper + across.second]) * down.part;
  return left + (right - left) * across.part;
}
