/** Source maps of one source: from a line that a person wrote to the place in the code that runs. */

export interface Place {
  /** Counted from 0, as V8 does. */
  line: number;
  column: number;
}

interface Segment {
  generated: Place;
  original: Place;
}

const DIGITS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';

/** Base64 VLQ: 5 bits a digit, the lowest first; the lowest bit of the number is its sign. */
function decodeFields(text: string): number[] {
  const fields: number[] = [];
  let value = 0;
  let shift = 0;
  for (const digit of text) {
    const bits = DIGITS.indexOf(digit);
    value |= (bits & 31) << shift;
    shift += 5;
    if ((bits & 32) !== 0) continue;
    fields.push((value & 1) !== 0 ? -(value >>> 1) : value >>> 1);
    value = 0;
    shift = 0;
  }
  return fields;
}

export class SourceMapOfOne {
  private readonly segments: Segment[] = [];

  /** @param url a "data:" URL with the map in base64, as loaders write it behind the code */
  constructor(url: string) {
    const map = JSON.parse(Buffer.from(url.slice(url.indexOf('base64,') + 7), 'base64').toString()) as {
      mappings: string;
    };
    let line = 0;
    let originalColumn = 0;
    map.mappings.split(';').forEach((segments, generatedLine) => {
      let column = 0;
      for (const segment of segments.split(',').filter((s) => s !== '')) {
        const [columnStep, , lineStep = 0, originalColumnStep = 0] = decodeFields(segment);
        column += columnStep;
        line += lineStep;
        originalColumn += originalColumnStep;
        this.segments.push({
          generated: { line: generatedLine, column },
          original: { line, column: originalColumn },
        });
      }
    });
  }

  /** Where the code of a line begins. */
  generated(originalLine: number): Place {
    const found = this.segments.find((s) => s.original.line === originalLine);
    if (found === undefined) throw new Error(`line ${originalLine + 1} has no code`);
    return found.generated;
  }

  /** Which line the code at a place comes from. */
  original(place: Place): Place {
    let best: Segment | undefined;
    for (const s of this.segments) {
      const { line, column } = s.generated;
      if (line < place.line || (line === place.line && column <= place.column)) best = s;
    }
    if (best === undefined) throw new Error('a place before all code');
    return best.original;
  }
}
