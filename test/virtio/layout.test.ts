import {
  featureMask,
  featureNames,
  featuresOfWords,
  featureWords,
  hasFeature,
  VirtioFeature,
} from '../../src/virtio/features.ts';
import {
  availBytes,
  availEventOffset,
  descBytes,
  descFlagNames,
  describeDesc,
  dumpDescs,
  usedBytes,
  usedEventOffset,
} from '../../src/virtio/layout.ts';
import { ringPlaceError, ringSizeError } from '../../src/virtio/ring-place.ts';
import { FakeGuest, FakeRing } from '../support/fake-driver.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('split ring layout');

test('sizes and places of a ring of 256 (virtio 1.2 §2.7)', () => {
  assert.is(descBytes(256), 4096);
  assert.is(availBytes(256, false), 4 + 512);
  assert.is(availBytes(256, true), 6 + 512);
  assert.is(usedBytes(256, false), 4 + 2048);
  assert.is(usedBytes(256, true), 6 + 2048);
  assert.is(usedEventOffset(256), 516);
  assert.is(availEventOffset(256), 2052);
});

test('flags print by name', () => {
  assert.is(descFlagNames(0), '0');
  assert.is(descFlagNames(3), 'NEXT|WRITE');
  assert.is(descFlagNames(0x8004), 'INDIRECT|0x8000');
});

test('descriptors print with their full address', () => {
  assert.is(
    describeDesc(-1, 0x8000_0001 | 0, -1, 5, 7),
    'addr 0x80000001ffffffff len 4294967295 flags NEXT|INDIRECT next 7',
  );
  const guest = new FakeGuest();
  const ring = new FakeRing(guest, 4);
  ring.raw(1, { addr: 0x1_2345_6789, len: 512, flags: 2, next: 3 });
  const copy = guest.read(ring.desc, 64);
  assert.equal(
    dumpDescs(new DataView(copy.buffer), 1, 9)[0],
    '[1] virtq_desc{addr=0x123456789 len=0x200 flags=0x2 next=0x3} WRITE',
  );
  assert.is(dumpDescs(new DataView(copy.buffer), 1, 9).length, 3); // ends with the table
});

test('feature words', () => {
  const features = featureMask(VirtioFeature.VERSION_1, VirtioFeature.EVENT_IDX, VirtioFeature.RING_RESET, 2);
  assert.is(features, 0x101_2000_0004n);
  assert.ok(hasFeature(features, 32));
  assert.not(hasFeature(features, 28));
  assert.equal(featureWords(features), { lo: 0x2000_0004, hi: 0x101 });
  assert.is(featuresOfWords(-1, -1), 0xffff_ffff_ffff_ffffn);
  assert.is(featuresOfWords(0x2000_0004, 0x101), features);
  assert.equal(featureNames(features, { CHANGE: 2 }), ['CHANGE', 'EVENT_IDX', 'VERSION_1', 'RING_RESET']);
  assert.equal(featureNames(1n << 63n), ['bit 63']);
});

test('ring sizes: powers of two to 1024', () => {
  for (const size of [1, 2, 4, 128, 256, 1024]) assert.is(ringSizeError(size), null);
  for (const size of [0, -1, 3, 1023, 65536, 1.5, Number.NaN, 2 ** 40])
    assert.match(ringSizeError(size) ?? '', /power of two/);
  for (const size of [2048, 32768]) assert.match(ringSizeError(size) ?? '', /more than the 1024/);
});

test('a ring must lie aligned in its memory, and its used ring by itself', () => {
  const guest = new FakeGuest();
  const { memory } = guest.part(0);
  const at = (desc: number, avail: number, used: number) => ({
    desc: { memory, offset: desc },
    avail: { memory, offset: avail },
    used: { memory, offset: used },
  });
  const end = memory.length;
  assert.is(ringPlaceError(at(0, 64, 80), 4, true), null);
  assert.is(ringPlaceError(at(end - 64, 64, 80), 4, true), null); // the last bytes of the memory
  assert.is(ringPlaceError(at(0, 64, end - 36), 4, false), null);
  const bad: [number, number, number, RegExp][] = [
    [8, 128, 256, /desc: offset 8 .* 16/],
    [0, 129, 256, /avail: offset 129 .* 2/],
    [0, 128, 258, /used: offset 258 .* 4/],
    [end - 48, 64, 80, /desc: 64 bytes at offset/],
    [0, end - 12, 80, /avail: 14 bytes at offset/],
    [0, 64, end - 36, /used: 38 bytes at offset/],
    [-16, 64, 80, /desc/],
    [0.5, 64, 80, /desc/],
    [0, 0, 0, /overlaps desc.*not set up/],
    [0, 64, 60, /used .*overlaps desc/],
    [0, 112, 80, /used .*overlaps avail/],
  ];
  for (const [desc, avail, used, reason] of bad) {
    assert.match(ringPlaceError(at(desc, avail, used), 4, true) ?? 'accepted', reason);
  }
});

test.run();
