/**
 * A file tree in memory and its cpio archive in the "newc" format (kernel: initramfs buffer format), which the kernel
 * unpacks as its first root. One rule: owner, inode and time never come from the building machine, so the same tree
 * gives the same bytes. Needs no root, though it holds device nodes.
 */
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';

const S_IFDIR = 0o040000;
const S_IFCHR = 0o020000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const NOTHING = Buffer.alloc(0);

interface Entry {
  mode: number;
  data: Buffer;
  device: readonly [major: number, minor: number];
}

export class FileTree {
  readonly #entries = new Map<string, Entry>();

  has(path: string): boolean {
    return this.#entries.has(plain(path));
  }

  folder(path: string, mode = 0o755): void {
    const name = plain(path);
    if (name === '' || name === '.') return;
    const present = this.#entries.get(name);
    // A link to a folder stands for it: /lib -> usr/lib.
    if (present !== undefined && (present.mode & S_IFLNK) === S_IFLNK) return;
    this.#put(name, { mode: S_IFDIR | mode, data: NOTHING, device: [0, 0] });
  }

  file(path: string, content: Buffer | string, mode = 0o644): void {
    const data = typeof content === 'string' ? Buffer.from(content) : content;
    this.#put(plain(path), { mode: S_IFREG | mode, data, device: [0, 0] });
  }

  link(path: string, target: string): void {
    this.#put(plain(path), { mode: S_IFLNK | 0o777, data: Buffer.from(target), device: [0, 0] });
  }

  characterDevice(path: string, major: number, minor: number, mode = 0o600): void {
    this.#put(plain(path), { mode: S_IFCHR | mode, data: NOTHING, device: [major, minor] });
  }

  /** Copies a file or a whole folder of the machine, links as links; `skip` is asked with the source path. */
  copy(source: string, path: string, skip: (source: string) => boolean = () => false): void {
    if (skip(source)) return;
    if (!statSync(source).isDirectory()) {
      this.file(path, readFileSync(source), statSync(source).mode & 0o777);
      return;
    }
    this.folder(path);
    for (const entry of readdirSync(source, { withFileTypes: true })) {
      const from = join(source, entry.name);
      if (skip(from)) continue;
      if (entry.isSymbolicLink()) this.link(join(path, entry.name), readlinkSync(from));
      else if (entry.isDirectory() || entry.isFile()) this.copy(from, join(path, entry.name), skip);
    }
  }

  /** The archive. Folders come before what lies in them. */
  toCpio(): Buffer {
    const parts: Buffer[] = [];
    let inode = 1;
    const add = (name: string, entry: Entry) => {
      const words = [
        inode++,
        entry.mode,
        0, // uid
        0, // gid
        1, // links
        0, // mtime
        entry.data.length,
        0, // device of the archive, major and minor
        0,
        ...entry.device,
        name.length + 1,
        0, // checksum: unused in this format
      ];
      const hex = words.map((word) => word.toString(16).toUpperCase().padStart(8, '0')).join('');
      const head = Buffer.from(`070701${hex}${name}\0`);
      parts.push(head, padding(head.length), entry.data, padding(entry.data.length));
    };
    for (const name of [...this.#entries.keys()].sort()) add(name, this.#entries.get(name)!);
    inode = 0;
    add('TRAILER!!!', { mode: 0, data: NOTHING, device: [0, 0] });
    return Buffer.concat(parts);
  }

  #put(name: string, entry: Entry): void {
    if (/[^\x20-\x7e]/.test(name)) throw new Error(`file name is not ASCII: ${name}`);
    const parent = dirname(name);
    if (parent !== '.' && !this.#entries.has(parent)) this.folder(parent);
    this.#entries.set(name, entry);
  }
}

function plain(path: string): string {
  return path.replace(/^\/+|\/+$/g, '');
}

function padding(length: number): Buffer {
  return Buffer.alloc((4 - (length % 4)) % 4);
}
