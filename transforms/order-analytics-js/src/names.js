// Names that one object of a JSON text has twice: `JSON.parse` takes the last value, and its reviver sees no other.

const NONE = { __proto__: null };

// The first such name among those that are read; undefined where there is none. `text` is what `JSON.parse` takes. `read`
// has a key for each name that is read, its value an object like it where that name holds an object, or a list of them.
export function repeated(text, read) {
  // Without escaped quotes, every other piece is a string.
  const pieces = text.replaceAll('\\\\', '\\u005c').replaceAll('\\"', '\\u0022').split('"');
  const around = [];
  let inside = { isList: true, names: read, seen: NONE };
  let name;
  for (let at = 0; at < pieces.length; at += 2) {
    for (let i = 0; i < pieces[at].length; i += 1) {
      const mark = pieces[at][i];
      if (mark === ':') {
        name = unescaped(pieces[at - 1]);
        if (name in inside.seen) {
          return name;
        }
        if (name in inside.names) {
          inside.seen[name] = true;
        }
      } else if (mark === '{' || mark === '[') {
        around.push(inside);
        const names = inside.isList ? inside.names : below(inside.names, name);
        inside = { isList: mark === '[', names, seen: { __proto__: null } };
      } else if (mark === '}' || mark === ']') {
        inside = around.pop();
      }
    }
  }
  return undefined;
}

function below(names, name) {
  return typeof names[name] === 'object' ? names[name] : NONE;
}

function unescaped(string) {
  return string.includes('\\') ? JSON.parse(`"${string}"`) : string;
}
