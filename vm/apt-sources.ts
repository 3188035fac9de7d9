/**
 * Which Debian mirror this machine uses. One rule: the mirror and its key come from the machine's own apt sources, in
 * either of their two formats (sources.list(5)); no address is written in this project.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface AptSource {
  uri: string;
  suite: string;
  components: string[];
  /** Path of the keyring, or null for apt's default trust. */
  signedBy: string | null;
}

/** `deb [signed-by=/k.gpg arch=amd64] URI SUITE COMPONENT...` lines. */
export function parseOneLine(text: string): AptSource[] {
  const sources: AptSource[] = [];
  for (const line of text.split('\n')) {
    const match = /^\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)/.exec(line);
    if (match === null) continue;
    const signedBy = /(?:^|\s)signed-by=(\S+)/i.exec(match[1] ?? '')?.[1] ?? null;
    sources.push({ uri: match[2], suite: match[3], components: match[4].trim().split(/\s+/), signedBy });
  }
  return sources;
}

/** Deb822 stanzas: one source for each pair of URI and suite. A key written into the stanza itself is not supported. */
export function parseDeb822(text: string): AptSource[] {
  const sources: AptSource[] = [];
  for (const stanza of text.split(/\n\s*\n/)) {
    const fields = new Map<string, string>();
    let name = '';
    for (const line of stanza.split('\n')) {
      if (line.startsWith('#')) continue;
      const field = /^([A-Za-z-]+):\s*(.*)$/.exec(line);
      if (field !== null) {
        name = field[1].toLowerCase();
        fields.set(name, field[2].trim());
      } else if (/^\s/.test(line)) fields.set(name, `${fields.get(name)} ${line.trim()}`);
    }
    const words = (key: string) => (fields.get(key) ?? '').split(/\s+/).filter((word) => word !== '');
    if (!words('types').includes('deb') || fields.get('enabled')?.toLowerCase() === 'no') continue;
    const signedBy = words('signed-by')[0];
    for (const uri of words('uris')) {
      for (const suite of words('suites')) {
        sources.push({
          uri,
          suite,
          components: words('components'),
          signedBy: signedBy?.startsWith('/') ? signedBy : null,
        });
      }
    }
  }
  return sources;
}

function readSources(etc: string): AptSource[] {
  const sources: AptSource[] = [];
  const list = join(etc, 'sources.list');
  if (existsSync(list)) sources.push(...parseOneLine(readFileSync(list, 'utf8')));
  const parts = join(etc, 'sources.list.d');
  for (const name of existsSync(parts) ? readdirSync(parts).sort() : []) {
    const text = () => readFileSync(join(parts, name), 'utf8');
    if (name.endsWith('.list')) sources.push(...parseOneLine(text()));
    else if (name.endsWith('.sources')) sources.push(...parseDeb822(text()));
  }
  return sources;
}

export interface DebianMirror {
  codename: string;
  /** This release with its security and point updates. */
  own: AptSource[];
  /** The main archive for a release of another name, e.g. a newer one. */
  suite(name: string): AptSource;
}

/** Finds the machine's Debian mirror. Throws with the next step when this is no Debian or has no main archive. */
export function debianMirror(etc = '/etc/apt', osRelease = '/etc/os-release'): DebianMirror {
  const release = readFileSync(osRelease, 'utf8');
  const value = (key: string) => new RegExp(`^${key}="?([^"\\n]*)"?$`, 'm').exec(release)?.[1] ?? '';
  const codename = value('VERSION_CODENAME') || 'sid';
  if (value('ID') !== 'debian') {
    throw new Error(`the VM rig takes its guests from Debian packages, but ${osRelease} says ID=${value('ID')}`);
  }
  // A machine may follow its release by name or by state ("stable"); other vendors' archives name neither.
  const ours = new RegExp(`^(${codename}|oldstable|stable|testing|unstable|sid)(/updates|-security|-updates)?$`);
  const own = readSources(etc).filter((s) => ours.test(s.suite) && s.components.includes('main'));
  const main = own.find((s) => !/security|updates/.test(s.suite));
  if (main === undefined) {
    throw new Error(`${etc} has no source for Debian's main archive of ${codename}: add one (sources.list(5))`);
  }
  return { codename, own, suite: (name) => ({ ...main, suite: name, components: ['main'] }) };
}
