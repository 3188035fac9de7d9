import { ioAddressOf } from '../memory/io-address.ts';
import type { DmaBuffer } from '../pci/dma.ts';
import type { AdminQueue } from './admin-queue.ts';
import { AdminOpcode, IdentifyCns, putAddress, SqeWord } from './commands.ts';
import {
  type ControllerInfo,
  IDENTIFY_BYTES,
  type NamespaceInfo,
  parseNamespace,
  parseNamespaceList,
} from './identify.ts';
import { NvmeStatus, statusText } from './status.ts';

/** Identify commands: one after the other through one page of DMA memory, each result copied before it is parsed. */

/** More namespaces than this are not opened: a controller that claims thousands is wrong or not ours to serve. */
export const MAX_NAMESPACES = 64;

export interface NamespaceScan {
  readonly found: NamespaceInfo[];
  /** Why namespaces that are there are not served. */
  readonly refused: string[];
}

export class Identifier {
  private readonly admin: AdminQueue;
  private readonly page: DmaBuffer;
  private readonly clock: () => number;
  private readonly name: string;

  constructor(admin: AdminQueue, page: DmaBuffer, clock: () => number, name: string) {
    this.admin = admin;
    this.page = page;
    this.clock = clock;
    this.name = name;
  }

  /** @param done status, and a private copy of the structure when the status is SUCCESS */
  identify(cns: number, nsid: number, done: (status: number, bytes: Uint8Array) => void): void {
    this.page.memory.u8.fill(0, 0, IDENTIFY_BYTES);
    const fill = (words: Uint32Array, base: number) => {
      putAddress(words, base + SqeWord.PRP1, ioAddressOf(this.page.memory, 0));
      words[base + SqeWord.CDW10] = cns;
    };
    const answer = (status: number) => done(status, this.page.memory.u8.slice(0, IDENTIFY_BYTES));
    this.admin.send(AdminOpcode.IDENTIFY, nsid, fill, answer, this.clock());
  }

  /**
   * All active namespaces. A namespace that can't be served is told in `refused`, and the others are.
   * @param done null with an error text when the controller did not answer as it must
   */
  scan(controller: ControllerInfo, modern: boolean, done: (scan: NamespaceScan | null, error: string) => void): void {
    const scan: NamespaceScan = { found: [], refused: [] };
    this.identify(IdentifyCns.ACTIVE_NAMESPACES, 0, (status, bytes) => {
      let ids: number[];
      if (status === NvmeStatus.SUCCESS) ids = parseNamespaceList(bytes);
      else if (status === NvmeStatus.INVALID_FIELD || status === NvmeStatus.INVALID_NAMESPACE_OR_FORMAT) {
        // NVMe 1.0 has no list: ids 1 to NN.
        ids = Array.from({ length: Math.min(controller.namespaces, MAX_NAMESPACES) }, (_, i) => i + 1);
      } else return done(null, `${this.name}: listing namespaces: ${statusText(status)}`);
      if (ids.length > MAX_NAMESPACES) {
        scan.refused.push(`${this.name}: ${ids.length} namespaces; the first ${MAX_NAMESPACES} are served`);
        ids.length = MAX_NAMESPACES;
      }
      this.next(ids, 0, controller, modern, scan, done);
    });
  }

  private next(
    ids: readonly number[],
    at: number,
    controller: ControllerInfo,
    modern: boolean,
    scan: NamespaceScan,
    done: (scan: NamespaceScan | null, error: string) => void,
  ): void {
    const nsid = ids[at];
    if (nsid === undefined) {
      done(scan, '');
      return;
    }
    const goOn = () => this.next(ids, at + 1, controller, modern, scan, done);
    this.identify(IdentifyCns.NAMESPACE, nsid, (status, bytes) => {
      if (status > 0x7ff) return done(null, `${this.name}: namespace ${nsid}: ${statusText(status)}`);
      if (status !== NvmeStatus.SUCCESS) {
        scan.refused.push(`${this.name}: namespace ${nsid}: identify: ${statusText(status)}`);
        return goOn();
      }
      const parse = (descriptors: Uint8Array | undefined) => {
        try {
          const found = parseNamespace(bytes, nsid, controller, descriptors, this.name);
          if (found !== undefined) scan.found.push(found);
        } catch (error) {
          scan.refused.push((error as Error).message);
        }
        goOn();
      };
      if (!modern) return parse(undefined);
      this.identify(IdentifyCns.DESCRIPTORS, nsid, (answer, list) =>
        parse(answer === NvmeStatus.SUCCESS ? list : undefined),
      );
    });
  }
}
