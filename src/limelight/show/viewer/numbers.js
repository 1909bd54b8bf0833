// Numbers as Python sent them, as people read them, and as files keep them.

// Base64 of little-endian float16, times `scale`, as a Float32Array. NaN marks what lies outside a map.
export function decodeHalf(base64, scale) {
  const text = atob(base64);
  const values = new Float32Array(text.length / 2);
  for (let i = 0; i < values.length; i += 1) {
    const bits = text.charCodeAt(2 * i) | (text.charCodeAt(2 * i + 1) << 8);
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    let size = (1 + fraction / 1024) * 2 ** (exponent - 15);
    if (exponent === 0) size = fraction * 2 ** -24;
    if (exponent === 31) size = fraction ? NaN : Infinity;
    values[i] = (bits >> 15 ? -size : size) * scale;
  }
  return values;
}

// Three significant digits, written as Python's `.3g` writes them, so that page and tensor can be compared as text.
export function threeDigits(value) {
  if (value === 0) return "0";
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
  const [mantissa, power] = value.toExponential(2).split("e");
  const exponent = Number(power);
  const bare = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
  if (exponent >= -4 && exponent < 3) return bare(value.toFixed(2 - exponent));
  const size = String(Math.abs(exponent)).padStart(2, "0");
  return `${bare(mantissa)}e${exponent < 0 ? "-" : "+"}${size}`;
}

export function percent(share) {
  return share > 0 && share < 0.0005 ? "<0.1%" : `${(100 * share).toFixed(1)}%`;
}

// One float32 tensor as the bytes of a safetensors file: header length, JSON header, data.
export function safetensors(name, shape, values, metadata) {
  const tensor = { dtype: "F32", shape, data_offsets: [0, 4 * values.length] };
  let header = JSON.stringify({ __metadata__: metadata, [name]: tensor });
  let encoded = new TextEncoder().encode(header);
  header += " ".repeat((8 - (encoded.length % 8)) % 8);
  encoded = new TextEncoder().encode(header);
  const length = new DataView(new ArrayBuffer(8));
  length.setBigUint64(0, BigInt(encoded.length), true);
  return new Blob([length.buffer, encoded, values]);
}

// A name for a file, without what a file system trips over.
export function fileName(text) {
  return text.replace(/[^\w.()+@ -]/g, "_").slice(0, 100) || "map";
}

// Give the reader a file.
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
