// What the world `plugin` of ../../wit/transform.wit exports: the wire around `order.js`.

import log from 'log';
import { Reject, orderRow } from './order.js';

const ERROR = 1;

// Without the host's columns: a module that declares one of them is refused.
const COLUMNS = [
  ['order_id', 'UUID'],
  ['order_date', "DateTime64(3, 'UTC')"],
  ['user_id', 'String'],
  ['status', 'LowCardinality(String)'],
  ['total_amount', 'Decimal(18, 2)'],
  ['item_count', 'UInt32'],
  ['quantity', 'UInt32'],
  ['order_band', 'LowCardinality(String)'],
];

function outcome(event) {
  try {
    return { tag: 'rows', val: [{ table: 0, values: orderRow(event) }] };
  } catch (error) {
    if (error instanceof Reject) {
      return { tag: 'reject', val: { code: error.code, message: error.message } };
    }
    // A mistake of this module ends in a trap, which carries no words.
    log(ERROR, `${error}`);
    throw error;
  }
}

export const transformer = {
  describe() {
    const columns = COLUMNS.map(([name, chType]) => ({ name, chType }));
    return {
      name: 'order-analytics-js',
      version: '1.0.0',
      eventTypes: ['OrderCreated'],
      tables: [{ name: 'orders_analytics', columns }],
    };
  },

  // Refuses any, so that a misspelt deployment is noticed. What is thrown is the `err` of the interface.
  configure(settings) {
    if (settings.length > 0) {
      throw `unknown setting '${settings[0][0]}': this transform has none`;
    }
  },

  transform: (batch) => batch.map(outcome),
};
