/**
 * `vvu-target relay` as a process: what a compute VM could do to it from outside. A relay that stands still would take the appliance
 * down with it.
 */
import { join } from 'node:path';
import { F, O } from '../../src/sys/constants.ts';
import { EventFd } from '../../src/sys/eventfd.ts';
import * as libc from '../../src/sys/libc.ts';
import { FAKE_WINDOW, FakeStockQemu } from '../support/fake-stock-qemu.ts';
import { ID, u64 } from '../support/front-end.ts';
import { endAll, Program } from '../support/program.ts';
import { assert, suite } from '../support/suite.ts';
import { VvuRig } from './rig.ts';

const test = suite('relay process');
test.after(endAll);
const INQUIRY = [0x12, 0, 0, 0, 36, 0];
const VRINGS = 4;

class ProcessRig extends VvuRig<FakeStockQemu> {
  device!: FakeStockQemu;
  relay!: Program;

  async begin(): Promise<this> {
    const appliance = join(this.folder, 'appliance.sock');
    const sockets = ['--compute', this.path, '--appliance', appliance];
    this.relay = new Program(['relay', ...sockets, '--vrings', String(VRINGS), '--window', String(FAKE_WINDOW)]);
    await this.relay.says(/relay: ready/);
    this.device = new FakeStockQemu(this.loop, appliance, VRINGS);
    return this;
  }
}

test('an eventfd that is made to block holds the relay up for a moment, then its VM is hung up on', async () => {
  const rig = await new ProcessRig().begin();
  try {
    rig.open();
    const { frontEnd, driver } = rig.boot();
    driver.ready(0, INQUIRY, { inLength: 36 });
    // Full, and the flag of the open file, which the relay has set, is taken back.
    const event = new EventFd();
    const call = event.fd.number;
    for (let left = 2047; left > 0; left--) libc.eventfd_write(call, 2 ** 53);
    for (let power = 52; power >= 0; power--) while (libc.eventfd_write(call, 2 ** power) === 0);
    frontEnd.send(ID.SET_VRING_CALL, u64(2), 1, [event.fd]);
    frontEnd.askU64(ID.GET_FEATURES);
    libc.fcntl(call, F.SETFL, libc.fcntl(call, F.GETFL, 0) & ~O.NONBLOCK);
    frontEnd.ring(2).driver.arm(); // it wants interrupts
    driver.submit(0, INQUIRY, { inLength: 36 });
    rig.until(() => frontEnd.hungUp, 'the relay to hang up');
    event.close();
    frontEnd.disconnect();
    await rig.relay.says(/it made an eventfd block/);
    const next = rig.boot();
    assert.is(next.driver.ready(0, INQUIRY, { inLength: 36 }).status, 0);
    assert.is(rig.relay.child.exitCode, null);
  } finally {
    rig.close();
    await rig.relay.end('SIGTERM');
  }
});

test.run();
