// Times as events carry them: RFC 3339 text to microseconds since 1970-01-01 UTC, by hand and without a float. `Date`
// takes years below 100 for others, and reads more than RFC 3339.

const RFC_3339 = /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:Z|([+-])(\d\d):(\d\d))$/;
const DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
// Days from 0000-03-01 to 1970-01-01.
const MARCH_OF_YEAR_0 = 719_468;

// Reads `2026-11-23T07:11:32.123Z` or one with an offset such as `+09:00`; up to six digits of a second. Undefined
// where it is none, a leap second (`:60`) included, as the store can't hold it.
export function microsOf(text) {
  const parts = RFC_3339.exec(text);
  if (parts === null) {
    return undefined;
  }
  const [year, month, day, hour, minute, second] = parts.slice(1, 7).map(Number);
  const [fraction = '', sign = '+', offsetHours = '0', offsetMinutes = '0'] = parts.slice(7);
  const isDate = month >= 1 && month <= 12 && day >= 1 && day <= daysInMonth(year, month);
  const isTime = hour <= 23 && minute <= 59 && second <= 59;
  if (!isDate || !isTime || Number(offsetHours) > 23 || Number(offsetMinutes) > 59) {
    return undefined;
  }
  const offset = (Number(offsetHours) * 3_600 + Number(offsetMinutes) * 60) * (sign === '-' ? -1 : 1);
  const seconds = daysSinceEpoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset;
  return BigInt(seconds) * 1_000_000n + BigInt(fraction.padEnd(6, '0'));
}

function daysInMonth(year, month) {
  const isLeap = year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
  return month === 2 && isLeap ? 29 : DAYS[month - 1];
}

// Years are counted from March, so that the leap day is a year's last.
function daysSinceEpoch(year, month, day) {
  const [marchYear, marchMonth] = month > 2 ? [year, month - 3] : [year - 1, month + 9];
  const leapDays = Math.floor(marchYear / 4) - Math.floor(marchYear / 100) + Math.floor(marchYear / 400);
  return marchYear * 365 + leapDays + Math.floor((marchMonth * 153 + 2) / 5) + day - 1 - MARCH_OF_YEAR_0;
}
