/** What the rig reads and writes by itself: apt sources, ELF files, archives, and the output of guests' programs. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { debianMirror, parseDeb822, parseOneLine } from '../../vm/apt-sources.ts';
import { FileTree } from '../../vm/cpio.ts';
import { parseLsscsi } from '../../vm/disks.ts';
import { Elf } from '../../vm/elf.ts';
import { parseList, parseResults, skipReason } from '../../vm/iscsi-families.ts';
import { exclusively } from '../../vm/lock.ts';
import { guestTools } from '../../vm/packages.ts';
import { scratchFolder } from '../../vm/paths.ts';
import { run } from '../../vm/process.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('vm rig');

test('reads both formats of apt sources', () => {
  const lines = '# deb http://old/ x main\ndeb [arch=amd64 signed-by=/k.gpg] http://m/d bookworm main contrib # c\n';
  assert.equal(parseOneLine(lines), [
    { uri: 'http://m/d', suite: 'bookworm', components: ['main', 'contrib'], signedBy: '/k.gpg' },
  ]);
  const stanzas =
    'Types: deb\n# a comment\nURIs: http://m/d\nSuites: trixie\n trixie-updates\nComponents: main\nSigned-By: /k.gpg\n\n' +
    'Types: deb-src\nURIs: http://s/\nSuites: trixie\nComponents: main\n\n' +
    'Enabled: no\nTypes: deb\nURIs: http://n/\nSuites: trixie\nComponents: main\n';
  assert.equal(
    parseDeb822(stanzas).map((s) => `${s.uri} ${s.suite} ${s.signedBy}`),
    ['http://m/d trixie /k.gpg', 'http://m/d trixie-updates /k.gpg'],
  );
});

test('takes the Debian mirror and leaves other archives alone', () => {
  const scratch = scratchFolder('apt');
  const etc = join(scratch.path, 'apt');
  mkdirSync(join(etc, 'sources.list.d'), { recursive: true });
  writeFileSync(join(etc, 'sources.list'), 'deb http://m/d stable main\ndeb http://m/s stable-security main\n');
  writeFileSync(join(etc, 'sources.list.d/other.list'), 'deb http://other/ nodistro main\n');
  const release = join(scratch.path, 'os-release');
  writeFileSync(release, 'ID=debian\nVERSION_CODENAME=bookworm\n');
  const mirror = debianMirror(etc, release);
  assert.equal(
    mirror.own.map((s) => s.uri),
    ['http://m/d', 'http://m/s'],
  );
  assert.is(mirror.suite('trixie').uri, 'http://m/d');
  writeFileSync(release, 'ID=fedora\n');
  assert.throws(() => debianMirror(etc, release), /ID=fedora/);
  scratch.remove();
});

test('writes an archive that cpio programs read', async () => {
  const tree = new FileTree();
  tree.file('a/b/file', 'text', 0o640);
  tree.link('a/link', 'b/file');
  tree.characterDevice('dev/null', 1, 3);
  const busybox = join(await guestTools(), 'usr/bin/busybox');
  const listed = (await run(busybox, ['cpio', '-tv'], { input: tree.toCpio() })).toString();
  assert.match(listed, /^-rw-r----- 0\/0\s+4 .* a\/b\/file$/m);
  assert.match(listed, /a\/link -> b\/file/);
  assert.match(listed, /^crw------- .* dev\/null$/m);
  assert.equal(tree.toCpio(), tree.toCpio());
});

test('takes libraries out of a program, which then no longer asks for them', async () => {
  const fio = new Elf(readFileSync(join(await guestTools(), 'usr/bin/fio')));
  assert.ok(fio.needed.includes('librbd.so.1'));
  assert.is(fio.interpreter, '/lib64/ld-linux-x86-64.so.2');
  fio.removeLibraries((name) => name.startsWith('librbd'));
  const again = new Elf(fio.bytes);
  assert.not.ok(again.needed.includes('librbd.so.1'));
  assert.ok(again.needed.includes('libc.so.6'));
  assert.throws(() => again.removeLibraries(() => true), /C library/);
  assert.throws(() => new Elf(Buffer.from('#!/bin/sh\n')), /not a 64-bit/);
});

test('lets one process prepare a thing at a time', async () => {
  const order: string[] = [];
  const work = (name: string) =>
    exclusively('test-lock', async () => {
      order.push(`${name}+`);
      await new Promise((resolve) => setTimeout(resolve, 50));
      order.push(`${name}-`);
    });
  await Promise.all([work('a'), work('b')]);
  assert.equal(order.length, 4);
  assert.is(order[0].slice(0, 1), order[1].slice(0, 1));
});

test('reads the disks of lsscsi', () => {
  const output =
    '[0:0:0:0]    disk    INTEL    Malloc disk      0001  /dev/sda   /dev/sg0 \n' +
    '[0:0:7:0]    disk    INTEL    AIO disk         0001  -          /dev/sg1 \n' +
    '[1:0:0:0]    cd/dvd  QEMU     QEMU DVD-ROM     2.5+  /dev/sr0   /dev/sg2 \n';
  const disks = parseLsscsi(output);
  assert.is(disks.length, 2);
  assert.equal(disks[0], {
    target: 0,
    lun: 0,
    vendor: 'INTEL',
    product: 'Malloc disk',
    revision: '0001',
    device: '/dev/sda',
    generic: '/dev/sg0',
  });
  assert.is(disks[1].device, '-');
});

test('reads the verdicts of iscsi-test-cu', () => {
  const output = `Suite: Inquiry
  Test: Standard ...    [WARNING] Bad additional length returned.
passed
  Test: AllocLength ...FAILED
    1. test.c:97  - CU_ASSERT_EQUAL(ret,0)
  Test: BlockLimits ...    [FAILURE] Invalid PageLength returned.
FAILED
    1. test.c:72  - CU_FAIL("x")
Suite: Sanitize
  Test: Reset ...    [SKIPPED] WRITEATOMIC16 is not implemented.
passed
  Test: Control-SWP ...passed
Suite: Read6
  Test: Simple ...`;
  const results = parseResults(output);
  assert.equal(
    results.map((r) => `${r.test} ${r.result}`),
    [
      'Inquiry.Standard passed',
      'Inquiry.AllocLength failed',
      'Inquiry.BlockLimits failed',
      'Sanitize.Reset skipped',
      'Sanitize.Control-SWP passed',
      // It ended the program.
      'Read6.Simple failed',
    ],
  );
  assert.is(skipReason(results[3]), 'WRITE ATOMIC is refused (docs/scsi.md)');
  assert.is(skipReason({ ...results[3], detail: '[SKIPPED] Something new.' }), undefined);
  // The same words, for what is different.
  const overIscsi = (test: string) =>
    skipReason({ ...results[3], test, detail: '[SKIPPED] This test is only supported for iSCSI backends' });
  assert.match(overIscsi('CompareAndWrite.InvalidDataOutSize')!, /within the iSCSI request/);
  assert.match(overIscsi('ProutReserve.AccessEA')!, /second initiator/);
  assert.match(overIscsi('Reserve6.2Initiators')!, /second initiator by iSCSI only/);
  assert.match(overIscsi('Reserve6.Logout')!, /logs out/);
  assert.match(overIscsi('iSCSIResiduals.Read10Invalid')!, /about the iSCSI protocol/);
  assert.is(overIscsi('Read6.Simple'), undefined);
});

test('reads the list of iscsi-test-cu', () => {
  const lists = parseList(
    'ALL\nALL.Read6\nALL.Read6.Simple\nALL.Read6.BeyondEol\nSCSI\nSCSI.Read6\nSCSI.Read6.Simple\n',
  );
  assert.equal(
    [...lists],
    [
      ['ALL', ['Read6.Simple', 'Read6.BeyondEol']],
      ['SCSI', ['Read6.Simple']],
    ],
  );
});

test.run();
