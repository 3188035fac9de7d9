/**
 * Finds where one JSON document ends and the next begins: SPDK's wire format has no framing, so a read may hold half a
 * document or several. It looks at brackets and strings only; JSON.parse judges the rest.
 *
 * Rule: whatever the peer sends, memory stays below the byte limit, and work is linear in the bytes received.
 */

export interface SplitterLimits {
  /** Largest document, bytes. */
  readonly bytes: number;
  /** Deepest nesting of arrays and objects. */
  readonly depth: number;
}

export const REQUEST_LIMITS: SplitterLimits = { bytes: 1024 * 1024, depth: 64 };
export const RESPONSE_LIMITS: SplitterLimits = { bytes: 64 * 1024 * 1024, depth: 64 };

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPEN_ARRAY = 0x5b;
const CLOSE_ARRAY = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

function isSpace(byte: number): boolean {
  return byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;
}

export class DocumentSplitter {
  private readonly limits: SplitterLimits;
  private readonly onDocument: (document: Uint8Array) => void;
  private parts: Uint8Array[] = [];
  private held = 0;
  private depth = 0;
  private inString = false;
  private escaped = false;
  private failure: string | undefined;

  /** @param onDocument gets the bytes of each object or array, from its opening to its closing bracket. */
  constructor(limits: SplitterLimits, onDocument: (document: Uint8Array) => void) {
    this.limits = limits;
    this.onDocument = onDocument;
  }

  /** True between documents: nothing of an unfinished one is held. */
  get idle(): boolean {
    return this.depth === 0;
  }

  /**
   * Take the next bytes of the stream. The splitter keeps no reference to a chunk beyond an unfinished document.
   * @returns undefined, or what is wrong with the stream; after that nothing more is taken.
   */
  push(chunk: Uint8Array): string | undefined {
    if (this.failure !== undefined) return this.failure;
    let start = this.depth > 0 ? 0 : -1;
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i];
      if (this.inString) {
        if (this.escaped) this.escaped = false;
        else if (byte === BACKSLASH) this.escaped = true;
        else if (byte === QUOTE) this.inString = false;
      } else if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
        if (this.depth === 0) start = i;
        this.depth++;
        if (this.depth > this.limits.depth)
          return this.fail(`more than ${this.limits.depth} nested arrays and objects`);
      } else if (this.depth === 0) {
        if (!isSpace(byte)) return this.fail(`a request starts with { or [, not with ${describe(byte)}`);
      } else if (byte === QUOTE) {
        this.inString = true;
      } else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) {
        this.depth--;
        if (this.depth === 0) {
          if (this.held + i + 1 - start > this.limits.bytes) return this.tooLong();
          this.finish(chunk.subarray(start, i + 1));
          start = -1;
        }
      }
    }
    if (start >= 0) {
      this.held += chunk.length - start;
      if (this.held > this.limits.bytes) return this.tooLong();
      this.parts.push(chunk.slice(start));
    }
    return undefined;
  }

  private finish(last: Uint8Array): void {
    const document = this.parts.length === 0 ? last : Buffer.concat([...this.parts, last]);
    this.parts = [];
    this.held = 0;
    this.onDocument(document);
  }

  private tooLong(): string {
    return this.fail(`a document of more than ${this.limits.bytes} bytes`);
  }

  private fail(why: string): string {
    this.parts = [];
    this.held = 0;
    this.failure = why;
    return why;
  }
}

function describe(byte: number): string {
  return byte > 0x20 && byte < 0x7f ? `"${String.fromCharCode(byte)}"` : `byte 0x${byte.toString(16).padStart(2, '0')}`;
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

/** @throws SyntaxError or TypeError when the bytes are no UTF-8 or no JSON. */
export function parseDocument(document: Uint8Array): unknown {
  return JSON.parse(utf8.decode(document));
}
