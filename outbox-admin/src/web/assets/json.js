// Indentation of JSON. Tokens stay as they are written: parsing and serialising them again would turn
// 1.50 into 1.5 and lose digits of large numbers.

/** Maximum depth that is indented; the size of deeper indentation would grow without bound. */
const MAX_DEPTH = 64;

/** Returns `text` with one member a line, or unchanged if it is not JSON. */
export function indentJson(text) {
  try {
    JSON.parse(text);
  } catch {
    return text;
  }
  let depth = 0;
  const out = [];
  const line = () => out.push("\n", "  ".repeat(depth));
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[[\]{},:]|[^\s"[\]{},:]+/g)) {
    if (token === "{" || token === "[") {
      out.push(token);
      depth += 1;
      if (depth > MAX_DEPTH) return text;
      line();
    } else if (token === "}" || token === "]") {
      depth -= 1;
      // An empty object or array is closed on the same line.
      if (/^[[{]$/.test(out.at(-3) ?? "")) out.length -= 2;
      else line();
      out.push(token);
    } else if (token === ",") {
      out.push(token);
      line();
    } else {
      out.push(token === ":" ? ": " : token);
    }
  }
  return out.join("");
}
