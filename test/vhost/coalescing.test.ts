/** Interrupt coalescing: only above the threshold, never for ever. */
import { Coalescer } from '../../src/vhost/coalescing.ts';
import { pump, settle } from '../support/front-end.ts';
import { read10 } from '../support/front-end-scsi.ts';
import { assert, suite } from '../support/suite.ts';
import { withRig } from './rig.ts';

const test = suite('vhost coalescing');
const MS = 1e6;

test('off: every notification is given at once', () => {
  const c = new Coalescer({ delayUs: 0, iopsThreshold: 0 });
  for (let t = 0; t < 100; t++) assert.ok(c.wants(t, 1000));
  assert.not(c.pending);
});

test('below the threshold nothing waits; above it a notification waits in proportion, and is then given', () => {
  const c = new Coalescer({ delayUs: 100, iopsThreshold: 1000 }); // 10 requests an interval of 10 ms
  for (let t = 0; t < 50; t++) assert.ok(c.wants(t * MS, 1), 'a thousand a second is allowed');
  let now = 50 * MS;
  for (; now < 61 * MS; now += MS) c.wants(now, 3); // thirty in an interval: twenty too many
  assert.ok(c.due(now + MS) || !c.pending);
  now += 2 * MS;
  assert.ok(c.wants(now, 1), 'the last was long ago');
  assert.not(c.wants(now + 1000, 1));
  assert.ok(c.pending);
  assert.not(c.due(now + 100_000));
  assert.ok(c.due(now + 250_000), '100 us, times two');
  assert.not(c.due(now + 900_000), 'it is given once');
});

test('a pause ends the delay; so does turning it off', () => {
  const settings = { delayUs: 1000, iopsThreshold: 100 };
  const c = new Coalescer(settings);
  for (let t = 0; t < 40; t++) c.wants(t * MS, 100);
  assert.ok(c.wants(1e9, 1));
  assert.ok(c.wants(1e9 + 1000, 1), 'that interval was not a busy one');
  for (let t = 0; t < 40; t++) c.wants(2e9 + t * MS, 100);
  const pending = c.pending;
  settings.delayUs = 0;
  assert.is(c.due(2e9 + 40 * MS), pending);
});

test(
  'with a guest: fewer interrupts, and the last one always comes',
  withRig((rig) => {
    rig.server.coalescing.delayUs = 2000;
    rig.server.coalescing.iopsThreshold = 1;
    const { frontEnd, driver } = rig.boot();
    const ring = frontEnd.ring(2);
    driver.ready(0, [0, 0, 0, 0, 0, 0]);
    let requests = 0;
    ring.interrupts = 0;
    // A clock of the test's own, 5 us a look: on a busy machine requests were slower than the interval in which they are counted.
    let now = performance.now();
    performance.now = () => (now += 0.005);
    try {
      for (const end = now + 100; now < end; requests++) {
        frontEnd.guest.reset();
        ring.driver.arm();
        driver.run(0, [0, 0, 0, 0, 0, 0]);
      }
    } finally {
      Reflect.deleteProperty(performance, 'now');
    }
    assert.ok(requests > 200);
    assert.ok(ring.interrupts < requests / 2, `${ring.interrupts} interrupts for ${requests} requests`);
    settle(rig.loop);
    ring.call.drain();
    ring.driver.arm();
    const last = driver.submit(0, read10(0, 1), { inLength: 512 });
    pump(rig.loop, () => ring.call.drain(), 'the last interrupt');
    driver.collect();
    assert.is(last.answer?.status, 0);
  }),
);

test.run();
