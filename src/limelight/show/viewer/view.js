// How a map is read at the scale it is drawn at: the same rules as limelight.base.view, run where the reader can
// change them. `view` is { reduce, smooth, blocks }.
import { decodeHalf } from "./numbers.js";

const REACH = 4; // standard deviations at which the Gaussian is cut

export const READINGS = [["own", "as the method's"], ["signed", "signed"], ["magnitude", "magnitude"], ["positive", "positive part"], ["negative", "negative part"]];
export const SCALES = [["own", "as the method's"], ["pixels", "single pixels"], ["smooth 0.015", "smoothed by 1.5% of the side"], ["smooth 0.03", "smoothed by 3% of the side"], ["blocks 4", "blocks of 4"], ["blocks 8", "blocks of 8"], ["blocks 16", "blocks of 16"], ["blocks 32", "blocks of 32"]];

// The values of a map, summed over channels with their sign and by magnitude.
export function sumsOf(map) {
  const signed = decodeHalf(map.values, map.scale);
  return { signed, magnitude: map.magnitude ? decodeHalf(map.magnitude.values, map.magnitude.scale) : signed.map(Math.abs) };
}

export function viewOf(map, look) {
  const own = map.view ?? { reduce: "signed", smooth: 0, blocks: 1 };
  const reduce = look.reading === "own" ? own.reduce : look.reading;
  const [kind, size] = look.scale.split(" ");
  if (kind === "own" || map.space.length < 2) return { reduce, smooth: own.smooth, blocks: own.blocks };
  return { reduce, smooth: kind === "smooth" ? Number(size) : 0, blocks: kind === "blocks" ? Number(size) : 1 };
}

export function isOwn(map, view) {
  const own = map.view ?? { reduce: "signed", smooth: 0, blocks: 1 };
  return ["reduce", "smooth", "blocks"].every((name) => own[name] === view[name]);
}

// The map as the view has it, a value for each pixel; a block's pixels have its sum. The rounding of
// 16-bit values must not give a part the other sign.
export function viewed(sums, space, view) {
  const { signed, magnitude } = sums;
  const read = { signed: () => signed, magnitude: () => magnitude, positive: () => signed.map((value, i) => Math.max((magnitude[i] + value) / 2, 0)), negative: () => signed.map((value, i) => Math.min((value - magnitude[i]) / 2, 0)) }[view.reduce]();
  if (space.length < 2) return read;
  if (view.blocks > 1) return inBlocks(read, space, view.blocks);
  return view.smooth ? smoothed(read, space, view.smooth * Math.min(...space)) : read;
}

function smoothed(read, space, sigma) {
  const reach = Math.ceil(REACH * sigma);
  const weights = Array.from({ length: 2 * reach + 1 }, (_, k) => Math.exp(-0.5 * ((k - reach) / sigma) ** 2));
  const total = weights.reduce((sum, each) => sum + each, 0);
  let seen = Float64Array.from(read, (value) => (Number.isFinite(value) ? value : 0));
  let stride = 1;
  for (const size of [...space].reverse()) {
    // Where each place and each weight look: beyond the border the map is mirrored.
    const at = Int32Array.from({ length: size * weights.length }, (_, i) => {
      const place = (((Math.floor(i / weights.length) + (i % weights.length) - reach) % (2 * size)) + 2 * size) % (2 * size);
      return Math.min(place, 2 * size - 1 - place);
    });
    const next = new Float64Array(seen.length);
    for (let i = 0; i < seen.length; i += 1) {
      const place = Math.floor(i / stride) % size;
      const start = i - place * stride;
      let sum = 0;
      for (let k = 0; k < weights.length; k += 1) sum += weights[k] * seen[start + stride * at[place * weights.length + k]];
      next[i] = sum / total;
    }
    seen = next;
    stride *= size;
  }
  return Float32Array.from(read, (value, i) => (Number.isFinite(value) ? seen[i] : value));
}

function inBlocks(read, space, side) {
  const block = new Int32Array(read.length);
  let count = 1;
  let stride = 1;
  for (const size of [...space].reverse()) {
    for (let i = 0; i < read.length; i += 1) block[i] += count * Math.floor((Math.floor(i / stride) % size) / side);
    count *= Math.ceil(size / side);
    stride *= size;
  }
  const sums = new Float64Array(count);
  for (let i = 0; i < read.length; i += 1) sums[block[i]] += read[i];
  return Float32Array.from(read, (_, i) => sums[block[i]]);
}

// Where colours end: the percentile of the finite sizes, or their largest if that is zero; NaN where there is none.
export function limitOf(values, percentile) {
  const sizes = Float32Array.from(values.filter(Number.isFinite), Math.abs).sort();
  if (!sizes.length) return NaN;
  const place = (percentile / 100) * (sizes.length - 1);
  const low = Math.floor(place);
  const limit = sizes[low] + (place - low) * ((sizes[low + 1] ?? sizes[low]) - sizes[low]);
  return limit || sizes[sizes.length - 1];
}

// The view in words, as Python writes them.
export function wordsOf(map, view) {
  const { space, channels } = map;
  const parts = { signed: ["signed sum of channels", "signed"], magnitude: ["magnitude summed over channels", "magnitude"], positive: ["positive part summed over channels", "positive part"], negative: ["negative part summed over channels", "negative part"] };
  const read = parts[view.reduce][channels === 1 ? 1 : 0];
  if (space.length < 2) return read;
  const unit = space.length > 2 ? "voxels" : "pixels";
  if (view.blocks > 1) return `${read}, in blocks of ${Array(space.length).fill(view.blocks).join(" x ")} ${unit}`;
  return view.smooth ? `${read}, smoothed by ${(view.smooth * Math.min(...space)).toFixed(1)} ${unit}` : `${read}, at single ${unit}`;
}

export function endWords(percentile) {
  return percentile === 100 ? "colours end at the largest value" : `colours end at percentile ${percentile}`;
}
