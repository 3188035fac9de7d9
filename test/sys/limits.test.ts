import { readdirSync, readFileSync } from 'node:fs';
import { allowedCpus, pinThread } from '../../src/sys/affinity.ts';
import { O } from '../../src/sys/constants.ts';
import { SysError } from '../../src/sys/errno.ts';
import { blockDeviceSize, type Fd, open } from '../../src/sys/fd.ts';
import { getLimit, raiseLimit, setLimit } from '../../src/sys/limits.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('limits');

test('limits are what /proc says, and can be raised to the hard one', () => {
  const line = /^Max open files +(\S+) +(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))!;
  const number = (s: string) => (s === 'unlimited' ? Number.POSITIVE_INFINITY : Number(s));
  const limit = getLimit('NOFILE');
  assert.equal(limit, { soft: number(line[1]), hard: number(line[2]) });
  setLimit('NOFILE', { soft: limit.soft - 100, hard: limit.hard });
  assert.is(raiseLimit('NOFILE', limit.soft - 150), limit.soft - 100); // never lowers
  assert.is(raiseLimit('NOFILE', limit.soft - 50), limit.soft - 50);
  assert.is(raiseLimit('NOFILE', limit.hard + 1), limit.hard); // as far as it goes
  setLimit('NOFILE', limit);
  assert.equal(getLimit('NOFILE'), limit);
  assert.throws(
    () => setLimit('NOFILE', { soft: 10, hard: 5 }),
    (e: unknown) => e instanceof SysError && e.code === 'EINVAL',
  );
});

test('unlimited is Infinity, there and back', () => {
  const limit = getLimit('CORE');
  setLimit('CORE', { soft: 0, hard: limit.hard });
  assert.is(getLimit('CORE').soft, 0);
  setLimit('CORE', limit);
  assert.equal(getLimit('CORE'), limit);
});

test('a thread is pinned to CPUs that exist', () => {
  const all = allowedCpus();
  assert.ok(all.length > 0);
  pinThread(all[0]);
  assert.equal(allowedCpus(), [all[0]]);
  pinThread(...all);
  assert.equal(allowedCpus(), all);
  assert.throws(() => pinThread(1023), /CPU 1023 \(offline, or not allowed here\?\).*EINVAL/);
  for (const wrong of [-1, 1024, 0.5]) assert.throws(() => pinThread(wrong), RangeError);
});

test('the size of a block device', () => {
  for (const name of readdirSync('/sys/class/block')) {
    let fd: Fd;
    try {
      fd = open(`/dev/${name}`, O.RDONLY);
    } catch {
      continue; // not ours to read
    }
    const size = Number(readFileSync(`/sys/class/block/${name}/size`, 'utf8')) * 512;
    assert.is(blockDeviceSize(fd), size);
    fd.close();
  }
});

test.run();
