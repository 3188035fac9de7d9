import { z } from 'zod';
import type { BdevEntry } from '../../target/bdev-registry.ts';
import { TargetError } from '../../target/errors.ts';
import { type Method, method } from '../method.ts';
import { describeBdev } from '../results/bdev-object.ts';
import { describeIoStats } from '../results/io-stats-object.ts';
import { bdevName, blockSize, mibToBlocks, numBlocks, physicalBlockSize, uuid } from './fields.ts';

/**
 * Methods about disks: make, delete, resize, list, count. A kind's code is loaded with its first disk: the command line reads this
 * table too, and needs none of it.
 */

const limit = () => z.int().min(0).optional();

const byName = z.strictObject({ name: bdevName().describe('name of the disk') });

const resizeParams = z.strictObject({
  name: bdevName().describe('name of the disk'),
  new_size: z.number().positive().describe('new size in MiB'),
});

function deleteMethod(kind: string, names: readonly [string, ...string[]], what: string): Method {
  return method({
    names,
    summary: `Delete a ${what}. A target that serves it is removed first: its requests end with errors, its guest is told.`,
    params: byName,
    result: 'true',
    changesConfig: true,
    handler: async ({ name }, { target }) => {
      await target.deleteBdev(name, kind);
      return true;
    },
  });
}

function resizeMethod(kind: string, names: readonly [string, ...string[]], what: string): Method {
  return method({
    names,
    summary: `Change the size of a ${what}; guests that use it are told (capacity data has changed).`,
    params: resizeParams,
    result: 'true',
    changesConfig: true,
    handler: async ({ name, new_size }, { target }) => {
      const { blockSize } = target.bdevs.getKind(name, kind).bdev.info;
      await target.resizeBdev(name, kind, mibToBlocks(new_size, blockSize));
      return true;
    },
  });
}

export const bdevMethods: readonly Method[] = [
  method({
    names: ['bdev_malloc_create', 'construct_malloc_bdev'],
    summary: "Make a disk in the target's memory. Its contents end with the process.",
    params: z.strictObject({
      num_blocks: numBlocks().describe('number of blocks'),
      block_size: blockSize().describe('bytes of a block, a power of two'),
      name: bdevName().optional().describe('name; without it the first free of Malloc0, Malloc1, ...'),
      uuid: uuid().optional().describe('UUID; without it a random one'),
      physical_block_size: physicalBlockSize()
        .optional()
        .describe('bytes of a physical block (4096 over 512 makes a 512e disk)'),
      hugepages: z.boolean().optional().describe('take reserved huge pages'),
    }),
    result: 'the name of the disk',
    changesConfig: true,
    handler: async (p, { target }) => {
      const name = p.name ?? target.bdevs.freeName('Malloc');
      await target.bdevs.create(name, async () => {
        const { createMallocBdev } = await import('../../bdev/malloc-bdev.ts');
        return createMallocBdev({
          name,
          numBlocks: p.num_blocks,
          blockSize: p.block_size,
          physicalBlockSize: p.physical_block_size,
          uuid: p.uuid,
          hugepages: p.hugepages,
        });
      });
      return name;
    },
  }),
  deleteMethod('malloc', ['bdev_malloc_delete', 'delete_malloc_bdev'], 'malloc disk'),
  resizeMethod('malloc', ['bdev_malloc_resize'], 'malloc disk'),

  method({
    names: ['bdev_null_create', 'construct_null_bdev'],
    summary: 'Make a disk that keeps nothing: writes are dropped, reads leave the buffer as it was. For measurements.',
    params: z.strictObject({
      name: bdevName().describe('name of the disk'),
      num_blocks: numBlocks().describe('number of blocks'),
      block_size: blockSize().describe('bytes of a block, a power of two'),
      uuid: uuid().optional().describe('UUID; without it a random one'),
      physical_block_size: physicalBlockSize().optional().describe('bytes of a physical block'),
    }),
    result: 'the name of the disk',
    changesConfig: true,
    handler: async (p, { target }) => {
      await target.bdevs.create(p.name, async () => {
        const { createNullBdev } = await import('../../bdev/null-bdev.ts');
        return createNullBdev({
          name: p.name,
          numBlocks: p.num_blocks,
          blockSize: p.block_size,
          physicalBlockSize: p.physical_block_size,
          uuid: p.uuid,
        });
      });
      return p.name;
    },
  }),
  deleteMethod('null', ['bdev_null_delete', 'delete_null_bdev'], 'null disk'),
  resizeMethod('null', ['bdev_null_resize'], 'null disk'),

  method({
    names: ['bdev_aio_create', 'construct_aio_bdev'],
    summary: 'Make a disk of a file or a block device of the host.',
    params: z.strictObject({
      name: bdevName().describe('name of the disk'),
      filename: z
        .string()
        .min(1)
        .max(4095)
        .describe('file or block device; a relative path counts from where the target was started'),
      block_size: blockSize().optional().describe("bytes of a block; without it the device's own, or 512"),
      readonly: z.boolean().optional().describe('refuse writes'),
      fallocate: z
        .boolean()
        .optional()
        .describe('false: do not pass UNMAP and WRITE SAME on to the file system (default: where it can)'),
      direct: z
        .boolean()
        .optional()
        .describe('true: O_DIRECT or fail; false: never; without it where alignment allows'),
      share: z.boolean().optional().describe('take no lock on the file: another program may use it too'),
      uuid: uuid().optional().describe('UUID; without it a random one'),
    }),
    result: 'the name of the disk',
    changesConfig: true,
    handler: async (p, { target }) => {
      await target.bdevs.create(p.name, async () => {
        const { createFileBdev } = await import('../../bdev/file-bdev.ts');
        return createFileBdev({
          name: p.name,
          filename: p.filename,
          blockSize: p.block_size,
          readOnly: p.readonly,
          fallocate: p.fallocate,
          direct: p.direct,
          share: p.share,
          uuid: p.uuid,
        });
      });
      return p.name;
    },
  }),
  deleteMethod('aio', ['bdev_aio_delete', 'delete_aio_bdev'], 'file disk'),
  method({
    names: ['bdev_aio_rescan'],
    summary: 'Look at the size of the file again, after it has grown; guests are told.',
    params: byName,
    result: 'true',
    changesConfig: true,
    handler: async ({ name }, { target }) => {
      await target.rescanBdev(name, 'aio');
      return true;
    },
  }),

  method({
    names: ['bdev_get_bdevs', 'get_bdevs'],
    summary: 'Describe all disks, or one.',
    params: z.strictObject({
      name: bdevName().optional().describe('name or UUID; without it all'),
      timeout: z.int().min(0).optional().describe('wait so many ms for the disk to appear'),
    }),
    result: 'array of disk objects',
    handler: async ({ name, timeout }, { target }) => {
      if (name === undefined) return target.bdevs.all().map(describeBdev);
      await appears(() => target.bdevs.find(name), timeout ?? 0);
      return [describeBdev(target.bdevs.get(name))];
    },
  }),
  method({
    names: ['bdev_get_iostat', 'get_bdevs_iostat'],
    summary: 'Counters of all disks, or of some. Latencies are sums in ticks.',
    params: z.strictObject({
      name: bdevName().optional().describe('one disk'),
      names: z.array(bdevName()).max(1024).optional().describe('several disks'),
      per_channel: z.boolean().optional().describe("true is refused: a disk's counters are kept as one sum"),
      reset_mode: z.enum(['all', 'maxmin', 'none']).optional().describe('start the counters afresh after reading them'),
    }),
    result: '{ tick_rate, ticks, bdevs: [ { name, bytes_read, num_read_ops, ... } ] }',
    handler: ({ name, names, per_channel, reset_mode }, { target }) => {
      if (per_channel === true) {
        throw new TargetError(
          'ENOTSUP',
          "per_channel: a disk's counters are kept as one sum over all channels; ask without per_channel",
        );
      }
      const wanted = names ?? (name === undefined ? undefined : [name]);
      const entries = wanted === undefined ? target.bdevs.all() : wanted.map((one) => target.bdevs.get(one));
      return ioStat(entries, reset_mode !== undefined && reset_mode !== 'none');
    },
  }),
  method({
    names: ['bdev_reset_iostat'],
    summary: 'Start the counters of all disks, or of one, afresh.',
    params: z.strictObject({ name: bdevName().optional().describe('one disk') }),
    result: 'true',
    handler: ({ name }, { target }) => {
      const entries = name === undefined ? target.bdevs.all() : [target.bdevs.get(name)];
      for (const entry of entries) entry.bdev.stats.reset();
      return true;
    },
  }),
  method({
    names: ['bdev_set_qos_limit', 'set_bdev_qos_limit'],
    summary: 'Limit the rates of a disk, over all controllers that serve it. What is not given stays as it is.',
    params: z.strictObject({
      name: bdevName().describe('name of the disk'),
      rw_ios_per_sec: limit().describe('reads and writes a second; 0: no limit'),
      rw_mbytes_per_sec: limit().describe('MiB a second of both directions together; 0: no limit'),
      r_mbytes_per_sec: limit().describe('MiB a second read; 0: no limit'),
      w_mbytes_per_sec: limit().describe('MiB a second written; 0: no limit'),
    }),
    result: 'true',
    changesConfig: true,
    handler: async ({ name, ...limits }, { target }) => {
      const given = Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== undefined));
      if (Object.keys(given).length === 0) {
        throw new TargetError(
          'EINVAL',
          'no rate limit is given; name at least one of rw_ios_per_sec, rw_mbytes_per_sec, r_mbytes_per_sec, w_mbytes_per_sec',
        );
      }
      await target.limitBdev(name, given);
      return true;
    },
  }),
  method({
    names: ['bdev_wait_for_examine'],
    summary:
      'For configurations written for SPDK: disks are ready as soon as they are made, so there is nothing to wait for.',
    params: z.strictObject({}),
    result: 'true',
    inConfig: true,
    handler: () => true,
  }),
];

/** Look every few milliseconds, for at most `timeoutMs`. */
async function appears(find: () => unknown, timeoutMs: number): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (find() === undefined && Date.now() < end) await new Promise((resolve) => setTimeout(resolve, 10));
}

/** Ticks are nanoseconds. */
const TICK_RATE = 1_000_000_000;

function ioStat(entries: readonly BdevEntry[], reset: boolean): Record<string, unknown> {
  const bdevs = entries.map(({ bdev, limiter }) => {
    const stats = describeIoStats(bdev.info.name, bdev.stats.snapshot(), limiter?.throttled ?? 0);
    if (reset) bdev.stats.reset();
    return stats;
  });
  return { tick_rate: TICK_RATE, ticks: Math.round(performance.now() * 1e6), bdevs };
}
