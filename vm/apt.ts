/**
 * Debian packages without installing them: a private apt state resolves and downloads, dpkg-deb unpacks into a folder.
 * One rule: the machine's own apt lists, packages and dpkg status are never read nor changed, so no root is needed and
 * the result depends on the package names alone.
 */
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AptSource } from './apt-sources.ts';
import { exclusively } from './lock.ts';
import { CACHE, cachePath } from './paths.ts';
import { findProgram, run } from './process.ts';
import { progress } from './progress.ts';

const ATTEMPTS = 3;
/** Lists older than this may name packages that the mirror no longer has. */
const LIST_AGE_MS = 12 * 3600_000;

export interface PackageSet {
  /** Folder name in the cache. */
  name: string;
  sources: AptSource[];
  /** Each entry is a list of names for the same thing; the first that the archive knows is taken. */
  packages: string[][];
  /** Packages to treat as installed: dependencies whose files nobody will use. */
  pretend?: string[];
  /** Prefer this suite for the packages and what they need. */
  target?: string;
}

class AptState {
  readonly folder: string;
  readonly #target: string | undefined;

  constructor(set: PackageSet) {
    this.folder = join(CACHE, 'apt', set.name);
    this.#target = set.target;
    for (const sub of ['lists/partial', 'archives/partial', 'log', 'none']) {
      mkdirSync(join(this.folder, sub), { recursive: true });
    }
    const line = (s: AptSource) => `deb ${s.signedBy ? `[signed-by=${s.signedBy}] ` : ''}${s.uri} ${s.suite} main\n`;
    writeFileSync(join(this.folder, 'sources.list'), set.sources.map(line).join(''));
    const stanza = (name: string) =>
      `Package: ${name}\nStatus: install ok installed\nPriority: optional\nSection: misc\nMaintainer: none\n` +
      `Architecture: amd64\nMulti-Arch: allowed\nVersion: 999:1\nDescription: not wanted in a guest\n\n`;
    writeFileSync(join(this.folder, 'status'), (set.pretend ?? []).map(stanza).join(''));
  }

  /** apt's whole configuration: of the machine's own, only how it reaches the net (proxies and such) is taken over. */
  async configure(): Promise<void> {
    const dump = (await run('apt-config', ['dump', 'Acquire'])).toString();
    const acquire = dump.split('\n').filter((line) => line !== '' && !/^Acquire::(IndexTargets|Languages)/.test(line));
    const settings = {
      Dir: '/',
      'Dir::Etc::main': join(this.folder, 'none'),
      'Dir::Etc::parts': join(this.folder, 'none'),
      'Dir::Etc::sourcelist': join(this.folder, 'sources.list'),
      'Dir::Etc::sourceparts': join(this.folder, 'none'),
      'Dir::Etc::preferences': join(this.folder, 'none'),
      'Dir::Etc::preferencesparts': join(this.folder, 'none'),
      'Dir::State': this.folder,
      'Dir::State::lists': join(this.folder, 'lists'),
      'Dir::State::status': join(this.folder, 'status'),
      'Dir::Cache': this.folder,
      'Dir::Cache::archives': join(this.folder, 'archives'),
      'Dir::Log': join(this.folder, 'log'),
      'APT::Architecture': 'amd64',
      'APT::Architectures': 'amd64',
      'Acquire::Languages': 'none',
      'Acquire::GzipIndexes': 'true',
      'Acquire::Retries': '3',
      // Locks of ours are held outside apt.
      'Debug::NoLocking': 'true',
      // apt's download user cannot reach a folder of ours below a home directory.
      'APT::Sandbox::User': 'root',
      ...(this.#target === undefined ? {} : { 'APT::Default-Release': this.#target }),
    };
    const lines = Object.entries(settings).map(([key, value]) => `${key} "${value}";`);
    writeFileSync(join(this.folder, 'apt.conf'), `${[...acquire, ...lines].join('\n')}\n`);
  }

  async #apt(program: string, args: string[]): Promise<string> {
    const env = { DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C', APT_CONFIG: join(this.folder, 'apt.conf') };
    return (await run(program, args, { env })).toString();
  }

  async update(): Promise<void> {
    const stamp = join(this.folder, 'updated');
    const sources = readFileSync(join(this.folder, 'sources.list'), 'utf8');
    if (existsSync(stamp)) {
      const [when, what] = readFileSync(stamp, 'utf8').split('\n\n');
      if (what === sources && Date.now() - Number(when) < LIST_AGE_MS) return;
    }
    progress(`apt: package lists for ${this.folder.slice(CACHE.length + 1)}`);
    await again(() => this.#apt('apt-get', ['-q', 'update', '--error-on=any']));
    writeFileSync(stamp, `${Date.now()}\n\n${sources}`);
  }

  async choose(alternatives: string[]): Promise<string> {
    for (const name of alternatives) {
      const answer = await this.#apt('apt-cache', ['show', '--no-all-versions', name]).catch(() => '');
      if (/^Filename: /m.test(answer)) return name;
    }
    throw new Error(`the Debian archive has none of these packages: ${alternatives.join(', ')}`);
  }

  /** Downloads the packages with all they depend on; returns the archives' paths. */
  async download(packages: string[]): Promise<string[]> {
    const archives = join(this.folder, 'archives');
    const args = ['-y', '-qq', '--no-install-recommends', '--download-only', 'install', ...packages];
    const planned = await this.#apt('apt-get', ['--print-uris', ...args]);
    // 'URI' FILE SIZE HASH
    const plan = [...planned.matchAll(/^'[^']*' (\S+) (\d+)/gm)].map((m) => ({ file: m[1], bytes: Number(m[2]) }));
    const wanted = plan.filter(({ file }) => !existsSync(join(archives, file)));
    const mebibytes = (wanted.reduce((n, { bytes }) => n + bytes, 0) / 2 ** 20).toFixed(0);
    if (wanted.length > 0) progress(`apt: downloading ${wanted.length} packages, ${mebibytes} MiB`);
    await again(() => this.#apt('apt-get', args));
    return plan.map(({ file }) => join(archives, file));
  }
}

async function again<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      if (attempt === ATTEMPTS) throw error;
      progress(`attempt ${attempt} of ${ATTEMPTS} failed, trying again: ${(error as Error).message.split('\n').pop()}`);
      await sleep(3000 * attempt);
    }
  }
}

/** Debian's merged layout: without these links a package with files in /lib and one in /usr/lib would be split. */
function makeRoot(root: string): void {
  for (const name of ['bin', 'sbin', 'lib', 'lib64']) {
    mkdirSync(join(root, 'usr', name), { recursive: true });
    symlinkSync(`usr/${name}`, join(root, name));
  }
}

/** Not `dpkg-deb -x`: that one puts a folder in place of such a link. */
async function unpack(archive: string, root: string): Promise<void> {
  const files = await run('dpkg-deb', ['--fsys-tarfile', archive]);
  const keep = ['--keep-directory-symlink', '--no-same-owner', '--delay-directory-restore'];
  await run('tar', ['-x', ...keep, '-C', root], { input: files });
}

/**
 * The packages of a set, with what they depend on, unpacked under one folder; returns that folder. The second call with
 * the same set costs nothing. Throws when the archive cannot be reached (after retries) or a package is unknown.
 */
export async function unpackedPackages(set: PackageSet): Promise<string> {
  const root = cachePath('root', set.name);
  const stamp = `${root}.stamp`;
  const recipe = createHash('sha256').update(JSON.stringify(set)).digest('hex');
  const fresh = () => existsSync(stamp) && readFileSync(stamp, 'utf8') === recipe;
  if (fresh()) return root;
  return exclusively(`packages-${set.name}`, async () => {
    if (fresh()) return root;
    if (findProgram('apt-get') === null || findProgram('dpkg-deb') === null) {
      throw new Error('the VM rig needs apt-get and dpkg-deb: run it on Debian');
    }
    const state = new AptState(set);
    await state.configure();
    await state.update();
    const names: string[] = [];
    for (const alternatives of set.packages) names.push(await state.choose(alternatives));
    const archives = await state.download(names);
    progress(`unpacking ${archives.length} packages for "${set.name}"`);
    const building = `${root}.new`;
    rmSync(building, { recursive: true, force: true });
    makeRoot(building);
    for (const archive of archives) await unpack(archive, building);
    rmSync(root, { recursive: true, force: true });
    renameSync(building, root);
    // The archives are as large as the unpacked tree and are not needed again.
    for (const name of readdirSync(join(state.folder, 'archives'))) {
      if (name.endsWith('.deb')) rmSync(join(state.folder, 'archives', name));
    }
    writeFileSync(stamp, recipe);
    return root;
  });
}
