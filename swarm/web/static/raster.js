// Pixels by hand: a hundred thousand marks in a few milliseconds, where canvas paths take seconds.

export class Raster {
  constructor() {
    this.canvas = document.createElement("canvas");
    this.context = this.canvas.getContext("2d");
  }

  /** An empty picture of so many device pixels. */
  begin(width, height) {
    if (!this.image || this.image.width !== width || this.image.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
      this.image = new ImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    this.pixels.fill(0);
  }

  /** A box of one colour, as `packed` has it; edges are whole pixels. */
  box(x0, y0, x1, y1, colour) {
    const { width, height } = this.image;
    const left = Math.max(0, x0), right = Math.min(width, x1);
    if (left >= right) return;
    for (let y = Math.max(0, y0); y < Math.min(height, y1); y += 1) {
      this.pixels.fill(colour, y * width + left, y * width + right);
    }
  }

  /** Dots of one colour, more opaque where they overlap: `xs` and `ys` are their centres. */
  dots(xs, ys, count, radius, opacity, colour) {
    const { width, height, data } = this.image;
    this.pixels.fill(colour & 0x00ffffff); // the colour, invisible so far
    const size = Math.ceil(radius) * 2 + 1, half = (size - 1) / 2;
    const stamp = new Float32Array(size * size);
    for (let i = 0; i < stamp.length; i += 1) {
      const distance = Math.hypot((i % size) - half, Math.floor(i / size) - half);
      stamp[i] = opacity * Math.min(1, Math.max(0, radius + 0.5 - distance));
    }
    for (let n = 0; n < count; n += 1) {
      const x0 = Math.round(xs[n]) - half, y0 = Math.round(ys[n]) - half;
      if (x0 < 0 || y0 < 0 || x0 + size > width || y0 + size > height) continue;
      for (let i = 0, y = 0; y < size; y += 1) {
        let at = ((y0 + y) * width + x0) * 4 + 3;
        for (let x = 0; x < size; x += 1, i += 1, at += 4) {
          if (stamp[i] > 0) data[at] += (255 - data[at]) * stamp[i];
        }
      }
    }
  }

  drawOn(context, x, y) {
    this.context.putImageData(this.image, 0, 0);
    context.drawImage(this.canvas, x, y);
  }
}

const one = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

/** A CSS colour as the number that stands for it in a pixel. */
export function packed(colour) {
  one.clearRect(0, 0, 1, 1);
  one.fillStyle = colour;
  one.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = one.getImageData(0, 0, 1, 1).data;
  return ((a << 24) | (b << 16) | (g << 8) | r) >>> 0;
}
