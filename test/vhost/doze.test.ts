/** A front end that was idle for long while others were not: its next request is kicked, and answered. */
import { IoList } from '../../src/virtio/io-list.ts';
import { LINUX_FEATURES } from '../support/front-end.ts';
import { read10 } from '../support/front-end-scsi.ts';
import { assert, suite } from '../support/suite.ts';
import { Rig } from './rig.ts';

const test = suite('dozing sessions');

test('a session that dozes wants kicks, and takes what was made available before it dozed', () => {
  const rig = new Rig();
  rig.addMalloc(1);
  const { frontEnd } = rig.boot({}, LINUX_FEATURES);
  const { guest, loop } = frontEnd;
  const ring = frontEnd.ring(2);
  loop.addPoller({ poll: () => 1, arm: () => true, disarm: () => {} });
  const polls = { session: 0 };
  const { session } = rig;
  const poll = session.poll.bind(session);
  session.poll = () => {
    polls.session++;
    return poll();
  };
  const dozes = () => {
    const before = polls.session;
    loop.turn(1);
    loop.turn(1);
    return polls.session === before;
  };

  const header = guest.alloc(51, 4);
  guest.write(header, [1, 1, 0, 0, 0, 0, 0, 0, 7]);
  guest.write(header + 19, read10(0, 1));
  const out = new IoList(2);
  const into = new IoList(2);
  out.pushAddress(header, 51);
  into.pushAddress(guest.alloc(108, 4), 108);
  into.pushAddress(guest.alloc(512, 4), 512);
  let kicks = 0;
  const request = () => {
    assert.ok(ring.driver.add(out, into, false) >= 0);
    if (ring.driver.publish()) {
      kicks++;
      ring.kick.signal();
    }
    const until = performance.now() + 10_000;
    while (ring.driver.poll() < 0) {
      loop.turn(1);
      if (performance.now() > until) throw new Error('no answer');
    }
  };
  for (let round = 0; round < 3; round++) {
    request();
    const until = performance.now() + 10_000;
    while (!dozes() && performance.now() < until);
    assert.ok(dozes());
    const before = kicks;
    request();
    assert.is(kicks, before + 1);
    assert.not(dozes());
  }
  rig.close();
});

test.run();
