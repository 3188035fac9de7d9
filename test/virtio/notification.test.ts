import { DeviceRing } from '../../src/virtio/device-ring.ts';
import { DriverRing } from '../../src/virtio/driver-ring.ts';
import { IoList } from '../../src/virtio/io-list.ts';
import { FakeGuest, FakeRing, readable } from '../support/fake-driver.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';

/** Who is notified when: flags, used_event and avail_event, on both halves (virtio 1.2 §2.7.7, §2.7.10). */
const test = suite('notifications');

function setup(eventIdx: boolean, base = 0, size = 16) {
  const guest = new FakeGuest();
  const driver = new FakeRing(guest, size, { eventIdx, base });
  const device = DeviceRing.create(driver.place, { guest: guest.memory, size, eventIdx, indirect: false, base });
  if (typeof device === 'string') throw new Error(device);
  const addr = guest.alloc(16);
  const serve = (count: number): boolean => {
    driver.offer(...Array.from({ length: count }, () => driver.chain([readable(addr, 1)])));
    for (let i = 0; i < count; i++) device.push(device.pop(), 0);
    return device.publish();
  };
  return { guest, driver, device, serve };
}

test('without EVENT_IDX the driver decides by NO_INTERRUPT', () => {
  const { driver, serve } = setup(false);
  assert.ok(serve(1));
  driver.noInterrupt = true;
  assert.not(serve(1));
  driver.noInterrupt = false;
  assert.ok(serve(3));
});

test('without EVENT_IDX used_event is not looked at', () => {
  const { driver, serve } = setup(false);
  driver.usedEvent = 1000;
  assert.ok(serve(1));
});

test('with EVENT_IDX the flag is not looked at', () => {
  const { driver, serve } = setup(true);
  driver.noInterrupt = true;
  driver.usedEvent = 0;
  assert.ok(serve(1));
});

test('the first publication always notifies: nobody knows what was signalled before', () => {
  const { driver, serve } = setup(true, 500);
  driver.usedEvent = 600; // far from reached
  assert.ok(serve(1));
  assert.not(serve(1));
});

// used.idx before, after, used_event, notify? The driver wants an interrupt once entry `used_event` is used.
const TABLE: readonly [number, number, number, boolean][] = [
  [10, 11, 10, true], // the very next one
  [10, 11, 11, false], // the one after
  [10, 11, 9, false], // passed already
  [10, 15, 10, true], // first of a batch
  [10, 15, 14, true], // last of a batch
  [10, 15, 15, false], // just beyond
  [10, 15, 9, false], // just before
  [65534, 2, 65533, false], // across the wrap
  [65534, 2, 65534, true],
  [65534, 2, 65535, true],
  [65534, 2, 0, true],
  [65534, 2, 1, true],
  [65534, 2, 2, false],
  [65535, 0, 65535, true], // the wrap itself
  [65535, 0, 0, false],
  [0, 1, 0, true],
  [0, 1, 65535, false],
  [0, 16, 32768, false], // far away on both sides
  [0, 16, 32767, false],
];
for (const [before, after, event, wanted] of TABLE) {
  test(`used ${before} -> ${after}, used_event ${event}: ${wanted ? 'notify' : 'do not'}`, () => {
    const { driver, serve } = setup(true, (before - 1) & 0xffff);
    serve(1); // settles what was signalled
    driver.usedEvent = event;
    assert.is(serve((after - before) & 0xffff), wanted);
  });
}

test('used_event: agrees with the set of entries used', () => {
  fc.assert(
    fc.property(fc.nat(0xffff), fc.integer({ min: 1, max: 16 }), fc.integer({ min: -20, max: 20 }), (old, n, d) => {
      const event = (old + d) & 0xffff;
      const { driver, serve } = setup(true, (old - 1) & 0xffff);
      serve(1);
      driver.usedEvent = event;
      assert.is(serve(n), Array.from({ length: n }, (_, i) => (old + i) & 0xffff).includes(event));
    }),
    budget(1000),
  );
});

test('arming without EVENT_IDX clears NO_NOTIFY, suppressing sets it', () => {
  const { driver, device } = setup(false);
  device.suppressNotifications();
  assert.is(driver.usedFlags, 1);
  assert.not(device.armNotifications());
  assert.is(driver.usedFlags, 0);
});

test('arming with EVENT_IDX names the next entry and leaves the flags alone', () => {
  const { driver, device, serve } = setup(true, 65533);
  serve(5);
  assert.not(device.armNotifications());
  assert.is(driver.availEvent, 2);
  device.suppressNotifications();
  assert.is(driver.usedFlags, 0);
  assert.is(driver.availEvent, 2);
});

for (const eventIdx of [false, true]) {
  test(`arming tells of work that came meanwhile (EVENT_IDX ${eventIdx})`, () => {
    const { guest, driver, device } = setup(eventIdx);
    driver.offer(driver.chain([readable(guest.alloc(1), 1)]));
    assert.ok(device.armNotifications());
    device.pop();
    assert.not(device.armNotifications());
  });

  test(`a broken ring is neither armed nor suppressed (EVENT_IDX ${eventIdx})`, () => {
    const { driver, device } = setup(eventIdx);
    driver.offer(99);
    device.pop();
    const used = driver.guest.read(driver.used, 6 + 8 * 16);
    assert.not(device.armNotifications());
    device.suppressNotifications();
    assert.equal(driver.guest.read(driver.used, 6 + 8 * 16), used);
  });
}

test('the two halves never both sleep: every sleep with work in between is notified', () => {
  const step = fc.constantFrom('add', 'serve', 'device sleeps', 'driver sleeps', 'reap');
  fc.assert(
    fc.property(fc.boolean(), fc.array(step, { maxLength: 60 }), (eventIdx, steps) => {
      const guest = new FakeGuest();
      const { place } = new FakeRing(guest, 4, { eventIdx });
      const driver = DriverRing.create(place, { size: 4, eventIdx });
      const device = DeviceRing.create(place, { guest: guest.memory, size: 4, eventIdx, indirect: false, base: 0 });
      if (typeof driver === 'string' || typeof device === 'string') throw new Error('no ring');
      const out = new IoList(1);
      out.push(guest.alloc(1), 0, 1);
      const none = new IoList(1);
      let deviceAsleep = false;
      let driverAsleep = false;
      for (const what of steps) {
        if (what === 'add' && !driverAsleep && driver.add(out, none, false) >= 0) {
          const kick = driver.publish();
          if (deviceAsleep) {
            assert.ok(kick);
            deviceAsleep = false;
            device.suppressNotifications();
          }
        } else if (what === 'serve' && !deviceAsleep) {
          let n = 0;
          for (let head = device.pop(); head >= 0; head = device.pop(), n++) device.push(head, 0);
          const call = device.publish();
          if (driverAsleep && n > 0) {
            assert.ok(call);
            driverAsleep = false;
            driver.suppress();
          }
        } else if (what === 'device sleeps' && !deviceAsleep) {
          deviceAsleep = !device.armNotifications();
        } else if (what === 'driver sleeps' && !driverAsleep) {
          driverAsleep = !driver.arm();
        } else if (what === 'reap' && !driverAsleep) {
          while (driver.poll() >= 0);
        }
      }
    }),
    budget(1000),
  );
});

test.run();
