// Money without floats: an integer of units, and how many digits of it stand behind the point.

const PLAIN = /^(-?)(\d+)(?:\.(\d+))?$/;
// The longest text that is looked at: more digits than any `Decimal(38, S)` can hold.
const MAX_LENGTH = 48;
// As the Rust guests' decimals: 96 bits, and at most 28 digits behind the point.
const MAX_UNITS = 2n ** 96n - 1n;
const MAX_SCALE = 28;

// Reads a plain decimal such as `59.97` or `-3`: digits, at most one point, no exponent, no spaces. Undefined where it
// is none, or more than a decimal holds.
export function decimal(text) {
  const parts = text.length <= MAX_LENGTH ? PLAIN.exec(text) : null;
  if (parts === null) {
    return undefined;
  }
  const [, sign, whole, behind = ''] = parts;
  const digits = BigInt(whole + behind);
  if (digits > MAX_UNITS || behind.length > MAX_SCALE) {
    return undefined;
  }
  return { units: sign === '-' ? -digits : digits, scale: behind.length };
}

export function add(a, b) {
  const scale = Math.max(a.scale, b.scale);
  return { units: at(a, scale) + at(b, scale), scale };
}

export function isEqual(a, b) {
  const scale = Math.max(a.scale, b.scale);
  return at(a, scale) === at(b, scale);
}

export function text({ units, scale }) {
  if (scale === 0) {
    return `${units}`;
  }
  const [sign, digits] = units < 0n ? ['-', -units] : ['', units];
  const padded = `${digits}`.padStart(scale + 1, '0');
  return `${sign}${padded.slice(0, -scale)}.${padded.slice(-scale)}`;
}

// The units that the same amount has with more digits behind the point.
function at({ units, scale }, wanted) {
  return scale === wanted ? units : units * 10n ** BigInt(wanted - scale);
}
