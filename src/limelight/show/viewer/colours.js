// From values to pixels: the same rule as limelight.show.colour, run where the reader can change it.

const UNDEFINED = 128; // NaN: a grey that no colour table contains

// A colour table as [r, g, b] anchors at equal steps, from hexadecimal words.
export function anchorsOf(words) {
  return words.split(" ").map((word) => [0, 2, 4].map((at) => parseInt(word.slice(at, at + 2), 16)));
}

// The colour at `position` in [0, 1], interpolated between anchors, written to `out`.
export function colourAt(anchors, position, out) {
  const place = position * (anchors.length - 1);
  const low = Math.min(Math.floor(place), anchors.length - 2);
  const part = place - low;
  for (let k = 0; k < 3; k += 1) out[k] = anchors[low][k] + part * (anchors[low + 1][k] - anchors[low][k]);
  return out;
}

// Values in colour over the greyed picture, each pixel as opaque as it is strong: opacity * min(|A| / v, 1).
// `grey` and `values` have a number per pixel, `pixels` four bytes.
export function paint(pixels, grey, values, look) {
  const { limit, diverging, anchors, opacity } = look;
  const colour = [0, 0, 0];
  for (let i = 0; i < values.length; i += 1) {
    // The diverging tables' strong ends are dark and want a pale ground; the others are bright and want a dim one.
    const ground = diverging ? 80 + 0.65 * grey[i] : 0.8 * grey[i];
    let alpha = opacity;
    if (Number.isNaN(values[i])) {
      colour.fill(UNDEFINED);
    } else {
      const ratio = limit > 0 ? Math.min(Math.abs(values[i]) / limit, 1) : 0;
      colourAt(anchors, diverging ? (1 + Math.sign(values[i]) * ratio) / 2 : ratio, colour);
      alpha *= ratio;
    }
    for (let k = 0; k < 3; k += 1) pixels[4 * i + k] = Math.round(ground + alpha * (colour[k] - ground));
    pixels[4 * i + 3] = 255;
  }
}

// The brightness of each pixel of a canvas, as Pillow converts RGB to L.
export function greyOf(context, width, height) {
  const { data } = context.getImageData(0, 0, width, height);
  const grey = new Float32Array(width * height);
  for (let i = 0; i < grey.length; i += 1) {
    grey[i] = 0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2];
  }
  return grey;
}
