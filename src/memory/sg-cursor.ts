import type { SgList } from './sg-list.ts';

/** A place in a segment list: which segment, and how many bytes into it. At the end `segment` is the list's count. */
export class SgCursor {
  segment = 0;
  offset = 0;

  /** Go to byte `from` of the list. */
  seek(sg: SgList, from: number): void {
    this.segment = 0;
    this.offset = 0;
    this.advance(sg, from);
  }

  /** Go on by so many bytes. */
  advance(sg: SgList, bytes: number): void {
    let skip = this.offset + bytes;
    let segment = this.segment;
    while (segment < sg.count && skip >= sg.length[segment]) skip -= sg.length[segment++];
    this.segment = segment;
    this.offset = skip;
  }
}
