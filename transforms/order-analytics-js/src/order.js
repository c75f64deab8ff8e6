// `OrderCreated`, version 1, to the cells of a row of `orders_analytics`: the same as the Rust guest `order-analytics`.
//
// Read strictly: an unknown field is let through (producers add fields before readers know them); a missing one, one
// of another type, or figures that contradict each other reject the event.

import { add, decimal, isEqual, text as decimalText } from './decimal.js';
import { repeated } from './names.js';
import { microsOf } from './time.js';

const SCHEMA_VERSION = 1;
const U32_MAX = 2n ** 32n - 1n;
const DIGITS = /^\d+$/;

// The fields that are wanted, each with its type.
const ITEM = { quantity: u32, lineTotal: string };
const ORDER = {
  orderId: string,
  userId: string,
  status: string,
  totalAmount: string,
  itemCount: u32,
  quantity: u32,
  items: list,
  createdAt: string,
};
const NAMES = { __proto__: null, ...ORDER, items: { __proto__: null, ...ITEM } };

// `ignoreBOM` keeps the mark in the text, where JSON has no place for it.
const UTF_8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

// Why an event can't be mapped. Dead letters are grouped by the code.
export class Reject extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

const malformed = (message) => new Reject('malformed_payload', message);
const inconsistent = (message) => new Reject('inconsistent_order', message);

export function orderRow({ schemaVersion, aggregateId, payload }) {
  if (schemaVersion !== SCHEMA_VERSION) {
    throw new Reject(
      'unknown_schema_version',
      `OrderCreated has version ${schemaVersion}, this module reads ${SCHEMA_VERSION}`,
    );
  }
  const order = read(payload);
  if (order.orderId !== aggregateId) {
    throw new Reject('wrong_aggregate', `orderId is ${order.orderId}, the event's aggregate ${aggregateId}`);
  }
  const total = consistentTotal(order);
  const createdAt = microsOf(order.createdAt);
  if (createdAt === undefined) {
    throw malformed('createdAt: not a time such as 2026-11-23T07:11:32.123Z');
  }
  return [
    { tag: 'text', val: order.orderId },
    { tag: 'timestamp-us', val: createdAt },
    { tag: 'text', val: order.userId },
    { tag: 'text', val: order.status },
    { tag: 'decimal', val: decimalText(total) },
    { tag: 'uint', val: order.itemCount },
    { tag: 'uint', val: order.quantity },
    { tag: 'text', val: 'all' },
  ];
}

function read(payload) {
  let text, given;
  try {
    text = UTF_8.decode(payload);
    given = JSON.parse(text, exactly);
  } catch (error) {
    throw malformed(error.message);
  }
  const twice = repeated(text, NAMES);
  if (twice !== undefined) {
    throw malformed(`duplicate field '${twice}'`);
  }
  const order = fields(given, 'the payload', ORDER);
  order.items = order.items.map((item) => fields(item, 'an item', ITEM));
  return order;
}

// Numbers of digits alone become BigInt: exact, and apart from `1.0`, `1e0` and `-0`.
function exactly(_, value, { source }) {
  return typeof value === 'number' && DIGITS.test(source) ? BigInt(source) : value;
}

function fields(given, what, types) {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw malformed(`${what} is no object`);
  }
  const read = {};
  for (const name in types) {
    if (!Object.hasOwn(given, name)) {
      throw malformed(`missing field '${name}'`);
    }
    read[name] = types[name](given[name], name);
  }
  return read;
}

function string(value, name) {
  // Half a surrogate pair is no text: on its way to the host it would become another.
  if (typeof value !== 'string' || !value.isWellFormed()) {
    throw malformed(`${name} is no string`);
  }
  return value;
}

function u32(value, name) {
  if (typeof value !== 'bigint' || value > U32_MAX) {
    throw malformed(`${name} is no number from 0 to ${U32_MAX}`);
  }
  return value;
}

function list(value, name) {
  if (!Array.isArray(value)) {
    throw malformed(`${name} is no list`);
  }
  return value;
}

// The order's total, once its figures agree with its lines.
function consistentTotal({ totalAmount, itemCount, quantity, items }) {
  const total = money(totalAmount, 'totalAmount');
  if (itemCount !== BigInt(items.length)) {
    throw inconsistent(`itemCount is ${itemCount}, items has ${items.length}`);
  }
  const pieces = items.reduce((sum, item) => sum + item.quantity, 0n);
  if (quantity !== pieces) {
    throw inconsistent(`quantity is ${quantity}, the items add up to ${pieces}`);
  }
  const sum = items.map((item) => money(item.lineTotal, 'lineTotal')).reduce(add, { units: 0n, scale: 0 });
  if (!isEqual(sum, total)) {
    throw inconsistent(`totalAmount is ${decimalText(total)}, the line totals add up to ${decimalText(sum)}`);
  }
  return total;
}

// An amount of the payload, not below zero.
function money(text, field) {
  const amount = decimal(text);
  if (amount === undefined) {
    throw inconsistent(`${field}: not a plain decimal such as 59.97`);
  }
  if (amount.units < 0n) {
    throw inconsistent(`${field}: below zero`);
  }
  return amount;
}
