/** Whose files are mapped without waiting for their owner. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { O } from '../../src/sys/constants.ts';
import { EventFd } from '../../src/sys/eventfd.ts';
import { open } from '../../src/sys/fd.ts';
import { memfd } from '../../src/sys/mapping.ts';
import { typeOfMount, withheldPages } from '../../src/sys/withheld-pages.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('withheld pages');

const MOUNTS = `21 1 253:0 / / rw,relatime - ext4 /dev/root rw
22 21 0:20 / /dev/shm rw,nosuid shared:3 master:1 - tmpfs tmpfs rw
221 21 0:45 / /home/a/with\\040-\\040dash rw,nosuid shared:9 - fuse.sshfs a@b:/ rw,user_id=1000
3 21 8:1 / /mnt rw - fuseblk /dev/sda1 rw
`;

test('the type of a mount, whatever stands before it', () => {
  const types = ['21', '22', '221', '3', '2', '99', ''].map((id) => typeOfMount(MOUNTS, id));
  assert.equal(types, ['ext4', 'tmpfs', 'fuse.sshfs', 'fuseblk', undefined, undefined, undefined]);
});

test('memfds and files of this machine are taken, what lies on no mount is not', () => {
  const path = join(tempDir(), 'file');
  writeFileSync(path, 'x');
  const [memory, file, event] = [memfd('x', 4096), open(path, O.RDWR), new EventFd().fd];
  assert.equal([withheldPages(memory), withheldPages(file)], [null, null]);
  assert.match(String(withheldPages(event)), /no file of a mount seen from here .anon_inode:.eventfd..$/);
  for (const fd of [memory, file, event]) fd.close();
});

test.run();
