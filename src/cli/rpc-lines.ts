/** Calls written down one a line, as rpc.py reads them from its standard input: words as a shell would split them. */

export interface RpcLine {
  /** From 1, as editors count. */
  readonly number: number;
  readonly words: readonly string[];
}

/** One word's next piece: blanks, a comment, a quoted or an escaped part, plain text. */
const PIECES = /(\s+)|(#.*$)|'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)|([^\s'"\\]+)|(.)/gs;

/** @throws Error for a quotation that does not end */
export function splitWords(line: string): string[] {
  const words: string[] = [];
  let word: string | null = null;
  for (const [all, blank, comment, single, double, escaped, plain] of line.matchAll(PIECES)) {
    // In the midst of a word # is a character like others.
    if (comment !== undefined && word === null) break;
    if (blank !== undefined) {
      if (word !== null) words.push(word);
      word = null;
      continue;
    }
    const text = single ?? double?.replace(/\\(["\\$`])/g, '$1') ?? escaped ?? plain ?? comment;
    if (text === undefined) throw new Error(`${all} begins a quotation that does not end`);
    word = (word ?? '') + text;
  }
  if (word !== null) words.push(word);
  return words;
}

/** Lines with calls; empty ones and comments are passed over. @throws Error that names the line */
export function rpcLines(text: string): RpcLine[] {
  const lines: RpcLine[] = [];
  for (const [i, line] of text.split('\n').entries()) {
    try {
      const words = splitWords(line);
      if (words.length > 0) lines.push({ number: i + 1, words });
    } catch (error) {
      throw new Error(`line ${i + 1}: ${(error as Error).message}`);
    }
  }
  return lines;
}
