import type { Case } from '../support/case.ts';

/** INQUIRY and its pages, READ CAPACITY, REPORT LUNS. */
export const identification: readonly Case[] = [
  {
    command: 'INQUIRY',
    kind: 'good',
    shows: 'standard data',
    cdb: '12 00 00 00 60 00',
    in: `00             // peripheral qualifier 0, direct access block device
         00             // not removable
         06             // SPC-4
         12             // HISUP, response data format 2
         5b             // 91 bytes follow
         00 10 02       // MULTIP; CMDQUE
         49 4e 54 45 4c 20 20 20                            // INTEL
         4d 61 6c 6c 6f 63 20 64 69 73 6b 20 20 20 20 20    // Malloc disk
         30 30 30 31    // 0001
         00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 // vendor specific
         00 00
         00 a0 04 60 04 c0 // SAM-5, SPC-4, SBC-3
         00 00 00 00 00 00 00 00 00 00
         00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00`,
  },
  {
    command: 'INQUIRY',
    kind: 'edge',
    shows: 'a short allocation length cuts without an error',
    cdb: '12 00 00 00 05 00',
    in: '00 00 06 12 5b',
  },
  { command: 'INQUIRY', kind: 'edge', shows: 'allocation length 0 sends nothing', cdb: '12 00 00 00 00 00', length: 0 },
  {
    command: 'INQUIRY',
    kind: 'edge',
    shows: 'a buffer shorter than what the CDB asks for is an overrun',
    cdb: '12 00 00 00 60 00',
    room: 36,
    response: 5,
    transferred: 36,
  },
  {
    command: 'INQUIRY',
    kind: 'edge',
    shows: 'a product name longer than 16 is cut',
    disk: { product: 'Virtio SCSI Disk of some length' },
    cdb: '12 00 00 00 24 00',
    in: `00 00 06 12 5b 00 10 02
         49 4e 54 45 4c 20 20 20
         56 69 72 74 69 6f 20 53 43 53 49 20 44 69 73 6b // Virtio SCSI Disk
         30 30 30 31`,
  },
  {
    command: 'INQUIRY',
    kind: 'refused',
    shows: 'a page code without EVPD',
    cdb: '12 00 80 00 60 00',
    sense: '05/24/00',
    field: 2,
  },
  { command: 'INQUIRY', kind: 'refused', shows: 'CMDDT', cdb: '12 02 00 00 60 00', sense: '05/24/00', field: 1 },
  {
    command: 'INQUIRY',
    kind: 'refused',
    shows: 'an unknown page',
    cdb: '12 01 b9 00 60 00',
    sense: '05/24/00',
    field: 2,
  },
  {
    command: 'INQUIRY',
    kind: 'good',
    shows: 'VPD 00h: supported pages',
    cdb: '12 01 00 00 ff 00',
    in: '00 00 00 0a  00 80 83 85 86 87 88 b0 b1 b2',
  },
  {
    command: 'INQUIRY',
    kind: 'edge',
    shows: 'VPD 00h of a disk without unmap has no b2h',
    disk: { unmap: false },
    cdb: '12 01 00 00 ff 00',
    in: '00 00 00 09  00 80 83 85 86 87 88 b0 b1',
  },
  {
    command: 'INQUIRY',
    kind: 'good',
    shows: 'VPD 80h: serial number is the name of the disk',
    cdb: '12 01 80 00 ff 00',
    in: '00 80 00 07  4d 61 6c 6c 6f 63 30', // Malloc0
  },
  {
    command: 'INQUIRY',
    kind: 'edge',
    shows: 'VPD 80h of a name over 32 characters',
    disk: { name: 'x'.repeat(40) },
    cdb: '12 01 80 00 ff 00',
    length: 36,
  },
  {
    command: 'INQUIRY',
    kind: 'good',
    shows: 'VPD 83h: designators',
    cdb: '12 01 83 00 ff 00',
    in: `00 83 00 7f
         01 03 00 08 3f 2b de 91 e2 c3 08 12                // unit: NAA 3, locally assigned
         02 01 00 3c 49 4e 54 45 4c 20 20 20                // unit: T10 vendor id INTEL
           4d 61 6c 6c 6f 63 20 64 69 73 6b 20 20 20 20 20  //   Malloc disk
           37 62 61 33 66 31 63 32 2d 30 65 35 62 2d 34 66 36 35 2d 39 64 33 61 2d 30 61 31 62 32 63 33 64 34 65 35 66  //   its uuid
         01 0a 00 12 10 00 7b a3 f1 c2 0e 5b 4f 65 9d 3a 0a 1b 2c 3d 4e 5f // unit: uuid
         01 14 00 04 00 00 00 01                            // port: relative target port 1
         02 10 00 05 76 68 6f 73 74                         // port: vendor specific, as no SCSI name begins so: vhost
         02 20 00 08 54 61 72 67 65 74 20 30                // device: Target 0`,
  },
  {
    command: 'INQUIRY',
    kind: 'edge',
    shows: 'VPD 83h is cut like any other',
    cdb: '12 01 83 00 04 00',
    in: '00 83 00 7f',
  },
  {
    command: 'INQUIRY',
    kind: 'good',
    shows: 'VPD 85h: no network address',
    cdb: '12 01 85 00 ff 00',
    in: '00 85 00 00',
  },
  {
    command: 'INQUIRY',
    kind: 'good',
    shows: 'VPD 86h: simple, ordered and head of queue tasks',
    cdb: '12 01 86 00 ff 00',
    starts: '00 86 00 3c 00 07 00 00',
    length: 64,
  },
  {
    command: 'INQUIRY',
    kind: 'edge',
    shows: 'VPD 86h of a disk with a volatile cache: V_SUP',
    disk: { writeCache: true },
    cdb: '12 01 86 00 ff 00',
    starts: '00 86 00 3c 00 07 01',
  },
  {
    command: 'INQUIRY',
    kind: 'good',
    shows: 'VPD 87h: all mode pages shared',
    cdb: '12 01 87 00 ff 00',
    in: '00 87 00 04 3f ff 00 00',
  },
  {
    command: 'INQUIRY',
    kind: 'good',
    shows: 'VPD 88h: one port',
    cdb: '12 01 88 00 ff 00',
    in: `00 88 00 15
         00 00 00 01           // relative port 1
         00 00 00 00           // no initiator port TransportID
         00 00 00 09           // target port descriptors
         02 10 00 05 76 68 6f 73 74 // vhost`,
  },
  {
    command: 'INQUIRY',
    kind: 'good',
    shows: 'VPD b0h: block limits',
    cdb: '12 01 b0 00 ff 00',
    in: `00 b0 00 3c
         01 ff                    // WSNZ, COMPARE AND WRITE to 255 blocks
         00 01                    // optimal transfer length granularity
         00 00 20 00 00 00 20 00  // 4 MiB transfers
         00 00 00 00              // prefetch
         00 10 00 00 00 00 01 00  // UNMAP: 1 Mi blocks, 256 descriptors
         00 00 00 01 80 00 00 00  // granularity 1, alignment 0 valid
         00 00 00 00 00 00 80 00  // WRITE SAME: 32768 blocks
         00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00`,
  },
  {
    command: 'INQUIRY',
    kind: 'edge',
    shows: 'VPD b0h of a 512e disk: granularity of 8 blocks',
    disk: { physicalBlockSize: 4096 },
    cdb: '12 01 b0 00 ff 00',
    starts: '00 b0 00 3c 01 ff 00 08 00 00 20 00 00 00 20 00 00 00 00 00 00 10 00 00 00 00 01 00 00 00 00 08',
  },
  {
    command: 'INQUIRY',
    kind: 'edge',
    shows: 'VPD b0h of a 4Kn disk without unmap',
    disk: { blockSize: 4096, physicalBlockSize: 4096, numBlocks: 16, unmap: false },
    cdb: '12 01 b0 00 ff 00',
    starts: `00 b0 00 3c 01 ff 00 01
             00 00 04 00 00 00 04 00 00 00 00 00          // 1024 blocks
             00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
             00 00 00 00 00 00 10 00                      // WRITE SAME: 4096 blocks`,
  },
  {
    command: 'INQUIRY',
    kind: 'good',
    shows: 'VPD b1h: solid state',
    cdb: '12 01 b1 00 ff 00',
    starts: '00 b1 00 3c 00 01 00 00',
    length: 64,
  },
  {
    command: 'INQUIRY',
    kind: 'edge',
    shows: 'VPD b1h of a disk of unknown kind',
    disk: { nonRotational: false },
    cdb: '12 01 b1 00 ff 00',
    starts: '00 b1 00 3c 00 00',
  },
  {
    command: 'INQUIRY',
    kind: 'good',
    shows: 'VPD b2h: thin, LBPU LBPWS LBPWS10 LBPRZ',
    cdb: '12 01 b2 00 ff 00',
    in: '00 b2 00 04 00 e4 02 00',
  },
  {
    command: 'INQUIRY',
    kind: 'edge',
    shows: 'VPD b2h where unmapped blocks do not read as zeroes',
    disk: { unmapZeroes: false },
    cdb: '12 01 b2 00 ff 00',
    in: '00 b2 00 04 00 e0 02 00',
  },
  {
    command: 'INQUIRY',
    kind: 'refused',
    shows: 'VPD b2h of a disk without unmap',
    disk: { unmap: false },
    cdb: '12 01 b2 00 ff 00',
    sense: '05/24/00',
  },

  {
    command: 'READ CAPACITY(10)',
    kind: 'good',
    shows: 'last block and block size',
    cdb: '25 00 00 00 00 00 00 00 00 00',
    in: '00 00 03 ff 00 00 02 00',
  },
  {
    command: 'READ CAPACITY(10)',
    kind: 'edge',
    shows: 'a disk of more than 2^32 blocks says ffffffff',
    before: (unit) => {
      unit.channel.info.numBlocks = 2 ** 40;
    },
    cdb: '25 00 00 00 00 00 00 00 00 00',
    in: 'ff ff ff ff 00 00 02 00',
  },
  {
    command: 'READ CAPACITY(10)',
    kind: 'edge',
    shows: 'a disk of 2^32 - 1 blocks does not',
    before: (unit) => {
      unit.channel.info.numBlocks = 2 ** 32 - 1;
    },
    cdb: '25 00 00 00 00 00 00 00 00 00',
    in: 'ff ff ff fe 00 00 02 00',
  },
  {
    command: 'READ CAPACITY(10)',
    kind: 'refused',
    shows: 'an LBA',
    cdb: '25 00 00 00 00 01 00 00 00 00',
    sense: '05/24/00',
    field: 2,
  },
  {
    command: 'READ CAPACITY(10)',
    kind: 'refused',
    shows: 'PMI',
    cdb: '25 00 00 00 00 00 00 00 01 00',
    sense: '05/24/00',
    field: 8,
  },
  {
    command: 'READ CAPACITY(16)',
    kind: 'good',
    shows: 'capacity, thin provisioned, zeroes',
    cdb: '9e 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00',
    in: `00 00 00 00 00 00 03 ff  00 00 02 00
         00 00                   // no protection, one logical block a physical one
         c0 00                   // LBPME, LBPRZ
         00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00`,
  },
  {
    command: 'READ CAPACITY(16)',
    kind: 'edge',
    shows: '512e: 2^3 logical blocks a physical one',
    disk: { physicalBlockSize: 4096, unmap: false },
    cdb: '9e 10 00 00 00 00 00 00 00 00 00 00 00 10 00 00',
    in: '00 00 00 00 00 00 03 ff 00 00 02 00 00 03 00 00',
  },
  {
    command: 'READ CAPACITY(16)',
    kind: 'edge',
    shows: 'a capacity over 2^32 blocks',
    before: (unit) => {
      unit.channel.info.numBlocks = 2 ** 40 + 5;
    },
    cdb: '9e 10 00 00 00 00 00 00 00 00 00 00 00 0c 00 00',
    in: '00 00 01 00 00 00 00 04 00 00 02 00',
  },
  {
    command: 'READ CAPACITY(16)',
    kind: 'edge',
    shows: 'allocation lengths 0 to 15 are no error',
    cdb: '9e 10 00 00 00 00 00 00 00 00 00 00 00 07 00 00',
    in: '00 00 00 00 00 00 03',
  },
  {
    command: 'READ CAPACITY(16)',
    kind: 'refused',
    shows: 'an LBA',
    cdb: '9e 10 00 00 00 00 00 00 00 01 00 00 00 20 00 00',
    sense: '05/24/00',
  },
  {
    command: 'READ CAPACITY(16)',
    kind: 'refused',
    shows: 'an unknown service action',
    cdb: '9e 11 00 00 00 00 00 00 00 00 00 00 00 20 00 00',
    sense: '05/24/00',
    field: 1,
  },

  {
    command: 'REPORT LUNS',
    kind: 'good',
    shows: 'the one LUN',
    cdb: 'a0 00 00 00 00 00 00 00 00 10 00 00',
    in: '00 00 00 08 00 00 00 00  00 00 00 00 00 00 00 00',
  },
  {
    command: 'REPORT LUNS',
    kind: 'edge',
    shows: 'well-known units only: none',
    cdb: 'a0 00 01 00 00 00 00 00 00 10 00 00',
    in: '00 00 00 00 00 00 00 00',
  },
  {
    command: 'REPORT LUNS',
    kind: 'edge',
    shows: 'all units',
    cdb: 'a0 00 02 00 00 00 00 00 10 00 00 00',
    in: '00 00 00 08 00 00 00 00  00 00 00 00 00 00 00 00',
  },
  {
    command: 'REPORT LUNS',
    kind: 'refused',
    shows: 'an allocation length below 16',
    cdb: 'a0 00 00 00 00 00 00 00 00 0f 00 00',
    sense: '05/24/00',
    field: 6,
  },
  {
    command: 'REPORT LUNS',
    kind: 'refused',
    shows: 'an unknown report',
    cdb: 'a0 00 13 00 00 00 00 00 00 10 00 00',
    sense: '05/24/00',
    field: 2,
  },
];
