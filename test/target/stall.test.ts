/** A front end that makes its eventfds block: its neighbours on the same reactor go on. */
import { join } from 'node:path';
import { blockAndFill } from '../support/blocking-eventfd.ts';
import { connectGuest, type Guest, TEST_UNIT_READY } from '../support/guest.ts';
import { startService } from '../support/service.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('a reactor that is made to block');
const LONG = 15_000;

/** Let Node's loop run as well: the target's main thread is ours here. */
async function until(holds: () => boolean, what: string): Promise<void> {
  const end = performance.now() + LONG;
  while (!holds()) {
    if (performance.now() > end) throw new Error(`waited for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

async function answers(guest: Guest): Promise<void> {
  const pending = guest.scsi.submit(0, TEST_UNIT_READY);
  await until(() => {
    guest.scsi.collect();
    return pending.answer !== null;
  }, 'an answer');
}

test('a call eventfd that is full and blocks ends its own session only', async () => {
  const service = await startService({ singleThread: false, mask: '0x1' });
  await service.call('vhost_create_scsi_controller', { ctrlr: 'vhost.0' });
  await service.call('bdev_malloc_create', { name: 'M', num_blocks: 64, block_size: 512 });
  await service.call('add_vhost_scsi_lun', { ctrlr: 'vhost.0', scsi_target_num: 0, bdev_name: 'M' });
  const place = join(service.directory, 'vhost.0');
  const [hostile, neighbour] = [connectGuest(place), connectGuest(place)];
  await answers(hostile);
  await answers(neighbour);
  const { call, driver } = hostile.frontEnd.ring(2);
  driver.arm();
  call.drain();
  blockAndFill(call);
  hostile.scsi.submit(0, TEST_UNIT_READY);
  await new Promise((resolve) => setTimeout(resolve, 50)); // the reactor is in it now
  await answers(neighbour);
  await until(() => hostile.frontEnd.hungUp, 'the end of the hostile session');
  await answers(neighbour);
  const [controller] = (await service.call('vhost_get_controllers')) as { sessions: unknown[] }[];
  assert.is(controller.sessions.length, 1);
  hostile.close();
  neighbour.close();
  await service.stop();
});

test.run();
