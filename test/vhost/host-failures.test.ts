/** The host refuses what a session needs: the front end is hung up on, nothing is left behind, and the next one is served. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { connectUnix, recvWithFds } from '../../src/sys/socket.ts';
import { VhostServer } from '../../src/vhost/server.ts';
import { ID, openFds, pump, settle } from '../support/front-end.ts';
import { assert, suite } from '../support/suite.ts';
import { type Rig, withRig } from './rig.ts';

const test = suite('failures of the host');
const INQUIRY = [0x12, 0, 0, 0, 36, 0];

/** Calls of `watch` fail from now on, as with too many watches (fs.epoll.max_user_watches). @returns mends it */
function refuseWatches(rig: Rig): () => void {
  const own = Object.getPrototypeOf(rig.loop).watch;
  rig.loop.watch = () => {
    throw new Error('no watch is left');
  };
  return () => {
    rig.loop.watch = own;
  };
}

function hangsUp(rig: Rig, fd: ReturnType<typeof connectUnix>): void {
  const buffer = new Uint8Array(16);
  pump(rig.loop, () => recvWithFds(fd, buffer, 0).bytes === 0, 'the connection to be closed');
}

function serves(rig: Rig): void {
  const { driver } = rig.boot();
  assert.is(driver.ready(0, INQUIRY, { inLength: 36 }).status, 0);
}

test(
  'a device that cannot be made: its caller is hung up on',
  withRig((rig) => {
    const options = (rig.server as unknown as { options: { model: () => unknown } }).options;
    const { model } = options;
    options.model = () => {
      throw new Error('no more devices');
    };
    const before = openFds();
    const caller = connectUnix(rig.path);
    hangsUp(rig, caller);
    caller.close();
    assert.is(openFds(), before);
    options.model = model;
    serves(rig);
  }),
);

test(
  'a connection that cannot be watched ends',
  withRig((rig) => {
    const mend = refuseWatches(rig);
    const caller = connectUnix(rig.path);
    hangsUp(rig, caller);
    mend();
    caller.close();
    rig.waitClosed();
    assert.match(String(rig.server.ends.at(-1)?.reason), /no watch is left/);
    serves(rig);
  }),
);

test(
  'a connection that cannot be watched again after a pause ends',
  withRig((rig) => {
    const { frontEnd, driver } = rig.boot();
    driver.ready(0, INQUIRY, { inLength: 36 });
    frontEnd.send(ID.GET_VRING_BASE, new Uint8Array([2, 0, 0, 0, 0, 0, 0, 0]));
    pump(rig.loop, () => rig.session.describe()['state'] === 'draining', 'the pause');
    const mend = refuseWatches(rig);
    assert.match(rig.waitEnd(), /no watch is left/);
    mend();
    serves(rig);
  }),
);

test(
  'a socket that cannot be watched is taken away again',
  withRig((rig) => {
    const path = join(rig.folder, 'other');
    const before = openFds();
    const mend = refuseWatches(rig);
    assert.throws(
      () => new VhostServer({ loop: rig.loop, path, model: () => assert.unreachable('nobody called') as never }),
      /no watch is left/,
    );
    mend();
    assert.is(existsSync(path), false);
    assert.is(openFds(), before);
    settle(rig.loop);
  }),
);

test.run();
