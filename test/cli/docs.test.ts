/** The commands that README and the guide tell people to type are commands that there are, and those that the demo gives. */
import { readFileSync } from 'node:fs';
import { deviceArguments } from '../../src/cli/actions/relay.ts';
import { parseCall } from '../../src/cli/actions/rpc.ts';
import { createProgram } from '../../src/cli/program.ts';
import { splitWords } from '../../src/cli/rpc-lines.ts';
import { DISK_COMMANDS } from '../../vm/storage-appliance.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('commands in the docs');
const read = (name: string) => readFileSync(new URL(`../../${name}`, import.meta.url), 'utf8');
const DOCS = ['README.md', 'docs/guide.md', 'docs/rpc.md', 'docs/block.md'];

/** Lines of code blocks that run the program: what stands behind its name, without redirections. */
function commands(text: string): string[] {
  const blocks = [...text.matchAll(/^```\w*\n(.*?)^```/gms)].map((m) => m[1]).join('');
  return [...blocks.matchAll(/^(?:npx )?vvu-target (.*)$/gm)].map((m) => m[1].replace(/\s*(#|>|&$).*$/, ''));
}

test('every rpc line names a method and parameters that it has', () => {
  let n = 0;
  for (const name of DOCS) {
    for (const line of commands(read(name))) {
      const [command, method, ...words] = splitWords(line);
      if (command !== 'rpc' || method === undefined || method === 'METHOD' || method === '<') continue;
      const options = words[0] === '<' ? [] : words;
      if (method === 'load_config') continue; // it reads its file at once
      assert.not.throws(() => parseCall(method, options), undefined, `${name}: ${line}`);
      n++;
    }
  }
  assert.ok(n >= 14, `${n} lines`);
});

test('every other line has options that there are', () => {
  for (const name of DOCS) {
    for (const line of commands(read(name))) {
      const words = splitWords(line);
      if (words[0] === 'rpc') continue;
      const sub = createProgram().commands.find((c) => c.name() === words[0]);
      const known = [...(sub ?? createProgram()).options, ...(sub?.commands.flatMap((c) => [...c.options]) ?? [])];
      for (const word of words.filter((w) => w.startsWith('-'))) {
        assert.ok(
          known.some((o) => o.short === word || o.long === word),
          `${name}: ${word} in ${line}`,
        );
      }
    }
  }
});

test("the guide's disks are the demo's", () => {
  const guide = read('docs/guide.md');
  for (const line of DISK_COMMANDS) assert.ok(guide.includes(`\nvvu-target rpc ${line}\n`), line);
});

test("the guide's device is the one that the relay asks for", () => {
  const [chardev, device] = deviceArguments({ appliance: '/run/vvu/appliance.sock', vrings: 18 }).split(' -device ');
  const guide = read('docs/guide.md');
  assert.ok(guide.includes(chardev), chardev);
  assert.ok(guide.includes(`-device ${device}`), device);
});

test.run();
