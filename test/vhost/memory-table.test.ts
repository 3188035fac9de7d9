/** The memory table: what is refused (row 18), and changes under running vrings with requests in flight (row 19). */
import { join } from 'node:path';
import { SgList } from '../../src/memory/sg-list.ts';
import { O } from '../../src/sys/constants.ts';
import { EventFd } from '../../src/sys/eventfd.ts';
import { ftruncate, open } from '../../src/sys/fd.ts';
import { memfd } from '../../src/sys/mapping.ts';
import { socketPair } from '../../src/sys/socket.ts';
import { tableError } from '../../src/vhost/memory-table.ts';
import { bit, ID, PF, pump, regionBytes, settle, tableBytes, u64 } from '../support/front-end.ts';
import { SharedGuest } from '../support/front-end-memory.ts';
import { read10, write10 } from '../support/front-end-scsi.ts';
import { assert, suite } from '../support/suite.ts';
import { withRig } from './rig.ts';

const test = suite('vhost memory table');
const PAGE = 4096;
const region = (gpa: number, size: number, uva: number, offset = 0) => ({ gpa, size, uva, offset });

/** Everything but CONFIGURE_MEM_SLOTS: the front end sends whole tables. */
const WHOLE_TABLES = bit(PF.MQ) | bit(PF.REPLY_ACK) | bit(PF.RESET_DEVICE);

test('row 18: tables that are refused, by what is wrong', () => {
  const top = 2 ** 53 - PAGE;
  const bad: [RegExp, ReturnType<typeof region>[]][] = [
    [/no bytes/, [region(0, 0, PAGE)]],
    [/not a multiple/, [region(1, PAGE, PAGE)]],
    [/not a multiple/, [region(0, PAGE + 1, PAGE)]],
    [/not a multiple/, [region(0, PAGE, PAGE + 8)]],
    [/not a multiple/, [region(0, PAGE, PAGE, 100)]],
    [/2\^52/, [region(2 ** 52, PAGE, PAGE)]],
    [/2\^52/, [region(2 ** 52 - PAGE, 2 * PAGE, PAGE)]],
    [/2\^53/, [region(0, PAGE, 2 ** 53)]],
    [/2\^53/, [region(0, 2 * PAGE, top)]],
    [/2\^53/, [region(0, 2 * PAGE, PAGE, top)]],
    [/2\^53/, [region(0, PAGE, 2 ** 64)]],
    [/bytes of memory in all/, [region(0, 2 ** 42, 0), region(2 ** 43, PAGE, 2 ** 43)]],
    [/overlaps.*guest/, [region(0, 2 * PAGE, 0x10_0000), region(PAGE, PAGE, 0x20_0000)]],
    [/overlaps.*user/, [region(0, 2 * PAGE, 0x10_0000), region(0x10_0000, PAGE, 0x10_1000)]],
    [/3 memory regions, at most 2/, [region(0, PAGE, 0), region(PAGE, PAGE, PAGE), region(2 * PAGE, PAGE, 2 * PAGE)]],
  ];
  for (const [why, regions] of bad) assert.match(tableError(regions, 2) ?? 'nothing wrong', why);
  assert.is(tableError([region(0, PAGE, 0), region(PAGE, PAGE, PAGE)], 2), null, 'neighbours do not overlap');
  assert.is(tableError([], 8), null);
});

test(
  'row 18: descriptors that cannot hold the region: too small, too few, no file; the table that was there stays',
  withRig((rig) => {
    const { frontEnd, driver } = rig.boot({ protocol: WHOLE_TABLES });
    driver.ready(0, write10(3, 1), { out: new Uint8Array(512).fill(3) });
    const { regions } = frontEnd.guest;
    const small = memfd('small', PAGE);
    const event = new EventFd();
    const pair = socketPair();
    const refused = (rows: Parameters<typeof tableBytes>[0], fds = regions.map((r) => r.fd)) => {
      assert.is(frontEnd.tell(ID.SET_MEM_TABLE, tableBytes(rows), fds, true), 1n);
      assert.match(rig.session.lastError ?? '', /memory-backend-memfd,share=on/);
      assert.is(driver.run(0, read10(3, 1), { inLength: 512 }).data[511], 3);
    };
    refused(regions, [regions[0].fd, regions[1].fd, small]);
    refused(regions, [regions[0].fd, regions[1].fd, event.fd]);
    refused(regions, [regions[0].fd, regions[1].fd, pair[0]]);
    refused(regions, [regions[0].fd, regions[1].fd]);
    refused(regions, []);
    refused([{ ...regions[0], offset: 0x10_0000 }], [regions[0].fd]);
    refused([{ ...regions[0], offset: 2 ** 50 }], [regions[0].fd]);
    assert.is(rig.session.memory.current.mapped.length, 3);
    small.close();
    event.close();
    for (const fd of pair) fd.close();
  }),
);

test(
  'the most memory that may be announced costs nothing until it is used',
  withRig((rig) => {
    // Each view of a buffer counts as memory that the collector could free, and makes it look for some.
    const viewed = () => process.memoryUsage().external;
    const frontEnd = rig.connect({ protocol: WHOLE_TABLES });
    frontEnd.init();
    const size = 2 ** 42 / 8;
    const file = memfd('sparse', size, { seal: false });
    const regions = Array.from({ length: 8 }, (_, i) => ({ gpa: i * size, size, uva: (i + 1) * size, offset: 0 }));
    const fds = regions.map(() => file);
    const before = viewed();
    assert.is(frontEnd.tell(ID.SET_MEM_TABLE, tableBytes(regions), fds, true), 0n);
    assert.is(rig.session.memory.current.guest.windows.length, 4096);
    assert.ok(viewed() - before < 2 ** 30, `${viewed() - before} bytes of views for an announcement`);
    const { guest } = rig.session.memory.current;
    const sg = new SgList(4);
    assert.ok(guest.translate(0, 0x3ff, 4096, sg));
    assert.is(sg.memory[0].u8[sg.offset[0]], 0);
    assert.ok(viewed() - before <= 2 ** 32 + 2 ** 30, `${viewed() - before} bytes of views for one page`);
    file.close();
  }),
);

test(
  'a descriptor that may shrink is sealed against it where it can be',
  withRig((rig) => {
    const { frontEnd } = rig.boot();
    assert.throws(() => ftruncate(frontEnd.guest.regions[0].fd, 0), /EPERM/);
  }),
);

test(
  'a file that cannot be sealed is taken, and the operator can see that its owner may shrink it',
  withRig((rig) => {
    const { frontEnd } = rig.boot();
    const memory = () => rig.session.describe()['memory'] as { may_shrink: boolean; size: number }[];
    assert.is(rig.session.memory.unsealed, null);
    const path = join(rig.folder, 'ram');
    const file = open(path, O.RDWR | O.CREAT);
    ftruncate(file, PAGE);
    const region = regionBytes({ gpa: 0x2_0000_0000, size: PAGE, uva: PAGE, offset: 0 });
    assert.is(frontEnd.tell(ID.ADD_MEM_REG, Buffer.concat([u64(0), region]), [file], true), 0n);
    assert.equal(
      memory().map((m) => m.may_shrink),
      [false, false, false, true],
    );
    assert.match(String(rig.session.memory.unsealed), /region gpa 0x200000000 size 0x1000/);
    file.close();
  }),
);

test(
  'row 19: a whole new table under a running vring, with a request in flight in the old memory',
  withRig((rig) => {
    const guest = new SharedGuest();
    const { frontEnd, driver } = rig.boot({ protocol: WHOLE_TABLES, guest });
    driver.ready(0, [0, 0, 0, 0, 0, 0]);
    rig.disk.data.u8.fill(0x5a, 0, 512);
    rig.disk.hold = true;
    const before = rig.memory.present.size;
    const waiting = driver.submit(0, read10(0, 1), { inLength: 512 });
    pump(rig.loop, () => rig.disk.held.length === 1);
    // The same bytes at another place in the front end: nothing can be kept.
    for (const r of guest.regions) Object.assign(r, { uva: r.uva + 0x10_0000_0000 });
    assert.is(
      frontEnd.tell(
        ID.SET_MEM_TABLE,
        tableBytes(guest.regions),
        guest.regions.map((r) => r.fd),
        true,
      ),
      0n,
    );
    // The ring's addresses are the old ones: they lead nowhere now.
    assert.match(String(rig.vring(2)['broken']), /not in the memory table/);
    assert.is(rig.memory.present.size, before * 2, 'the old memory stays while a request is in flight');
    rig.disk.release();
    settle(rig.loop);
    assert.is(rig.memory.present.size, before, 'and goes when that has ended');
    assert.is(waiting.answer, null);
    // A new start at the new addresses works again.
    frontEnd.stop();
    guest.reset();
    frontEnd.makeRings([0, 1, 2], 0xffff_ffff_ffffn);
    rig.disk.hold = false;
    frontEnd.start();
    guest.close();
  }),
);

test(
  'row 19: the same table again under a running vring changes nothing (QEMU 2.11 sends it twice)',
  withRig((rig) => {
    const { frontEnd, driver } = rig.boot({ protocol: WHOLE_TABLES });
    driver.ready(0, [0, 0, 0, 0, 0, 0]);
    const { added } = rig.memory;
    rig.disk.hold = true;
    const waiting = driver.submit(0, read10(0, 1), { inLength: 512 });
    pump(rig.loop, () => rig.disk.held.length === 1);
    for (let i = 0; i < 3; i++) frontEnd.sendMemory();
    settle(rig.loop);
    assert.is(rig.memory.added, added, 'no memory was mapped anew');
    rig.disk.hold = false;
    rig.disk.release();
    assert.is(driver.wait(waiting).status, 0);
    assert.is(driver.run(0, read10(1, 1), { inLength: 512 }).status, 0);
  }),
);

test(
  'row 19: regions added and removed while requests run; a request in flight keeps its region',
  withRig((rig) => {
    const { frontEnd, driver } = rig.boot();
    driver.ready(0, [0, 0, 0, 0, 0, 0]);
    const dimm = new SharedGuest([{ gpa: 0x2_0000_0000, size: 0x10_0000 }]);
    const [extra] = dimm.regions;
    const message = Buffer.concat([u64(0), regionBytes(extra)]);
    const before = rig.memory.present.size;
    assert.is(frontEnd.tell(ID.ADD_MEM_REG, message, [extra.fd], true), 0n);
    assert.is(frontEnd.tell(ID.ADD_MEM_REG, message, [extra.fd], true), 1n, 'twice is an overlap');
    // The guest uses it for data at once.
    frontEnd.guest.regions.push(extra);
    rig.disk.hold = true;
    const waiting = driver.submit(0, write10(9, 1), { out: new Uint8Array(512).fill(0x77) });
    pump(rig.loop, () => rig.disk.held.length === 1);
    assert.is(frontEnd.tell(ID.REM_MEM_REG, message, [extra.fd], true), 0n, 'a descriptor is tolerated here');
    assert.is(rig.memory.present.size, before + 1);
    rig.disk.hold = false;
    rig.disk.release();
    settle(rig.loop);
    assert.is(rig.memory.present.size, before);
    assert.is(rig.disk.data.u8[9 * 512], 0x77, 'the data came from memory that was still mapped');
    assert.is(frontEnd.tell(ID.REM_MEM_REG, message, [], true), 1n, 'it is gone');
    // Its answer lay in the region that went: written there, and the ring lives on.
    assert.is(driver.wait(waiting).used, 108);
    frontEnd.guest.regions.pop();
    assert.is(driver.run(0, read10(9, 1), { inLength: 512 }).data[0], 0x77);
    dimm.close();
  }),
);

test(
  'row 18: more regions than slots are refused, removed ones make room',
  withRig((rig) => {
    const frontEnd = rig.connect();
    frontEnd.init();
    assert.is(frontEnd.askU64(ID.GET_MAX_MEM_SLOTS), 32n);
    const [file] = frontEnd.guest.regions;
    const slot = (i: number) =>
      Buffer.concat([u64(0), regionBytes({ gpa: i * PAGE, size: PAGE, uva: i * PAGE, offset: 0 })]);
    for (let i = 0; i < 32; i++) assert.is(frontEnd.tell(ID.ADD_MEM_REG, slot(i), [file.fd], true), 0n);
    assert.is(frontEnd.tell(ID.ADD_MEM_REG, slot(32), [file.fd], true), 1n);
    assert.is(frontEnd.tell(ID.REM_MEM_REG, slot(5), [], true), 0n);
    assert.is(frontEnd.tell(ID.ADD_MEM_REG, slot(32), [file.fd], true), 0n);
    assert.is((rig.session.describe()['memory'] as unknown[]).length, 32);
  }),
);

test(
  'a refused table without a way to say so ends the session',
  withRig((rig) => {
    const frontEnd = rig.connect();
    frontEnd.send(ID.SET_MEM_TABLE, tableBytes(frontEnd.guest.regions), 1, []);
    assert.match(rig.waitEnd(), /SET_MEM_TABLE refused: 3 memory regions with 0 descriptors; start the VM with/);
  }),
);

test(
  'a vring that was kicked before its memory came starts with the table',
  withRig((rig) => {
    const frontEnd = rig.connect({ protocol: WHOLE_TABLES });
    frontEnd.init();
    frontEnd.makeRings([2], 0n);
    frontEnd.tell(ID.SET_FEATURES, u64(bit(32)));
    frontEnd.startRing(frontEnd.ring(2), 0);
    settle(rig.loop);
    assert.equal(rig.vring(2)['waits_for'], ['SET_MEM_TABLE']);
    frontEnd.sendMemory();
    assert.is(rig.vring(2)['state'], 'running');
  }),
);

test.run();
