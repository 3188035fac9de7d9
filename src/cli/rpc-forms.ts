import type { ParamDescription } from '../rpc/describe.ts';

/**
 * How rpc.py writes a method on the command line. Most forms follow from the schema: required parameters are
 * positional in their order, the others are `--name VALUE`. This table holds only what differs.
 */

export interface Argument {
  readonly name: string;
  readonly required: boolean;
  readonly type: string;
  readonly description: string;
}

export interface Form {
  readonly arguments: readonly Argument[];
  /** One-letter options by parameter. */
  readonly short: Readonly<Record<string, string>>;
  /** Options beside the schema's, for values that are not sent as they are typed. */
  readonly options: readonly ParamDescription[];
  /** Parameters that have another way in. */
  readonly hidden: readonly string[];
  /** From what was typed to what is sent. */
  readonly convert: (values: Record<string, unknown>) => Record<string, unknown>;
  /** How a list of names is printed: rpc.py writes some of them on one line. */
  readonly words: boolean;
}

const MIB = 1024 * 1024;

const size = (what: string): Argument => ({ name: 'total_size', required: true, type: 'number', description: what });
const blockSize: Argument = { name: 'block_size', required: true, type: 'integer', description: 'bytes of a block' };
const diskName: Argument = { name: 'name', required: true, type: 'string', description: 'name of the disk' };

/** SIZE_MB BLOCKSIZE → num_blocks. */
function sized(values: Record<string, unknown>): Record<string, unknown> {
  const { total_size: mib, ...rest } = values;
  const blocks = ((mib as number) * MIB) / (rest['block_size'] as number);
  return { ...rest, num_blocks: Math.floor(blocks) };
}

const same = (values: Record<string, unknown>) => values;

const SPECIAL: Readonly<Record<string, Partial<Form>>> = {
  bdev_malloc_create: {
    arguments: [size('size in MiB'), blockSize],
    short: { name: 'b', uuid: 'u', physical_block_size: 'p' },
    hidden: ['num_blocks', 'block_size'],
    convert: sized,
  },
  bdev_null_create: {
    arguments: [diskName, size('size in MiB'), blockSize],
    short: { uuid: 'u', physical_block_size: 'p' },
    hidden: ['name', 'num_blocks', 'block_size'],
    convert: sized,
  },
  bdev_aio_create: {
    arguments: [
      { name: 'filename', required: true, type: 'string', description: 'file or block device' },
      diskName,
      { ...blockSize, required: false },
    ],
    short: { readonly: 'r', uuid: 'u' },
    hidden: ['filename', 'name', 'block_size'],
  },
  bdev_get_bdevs: { short: { name: 'b', timeout: 't' } },
  bdev_get_iostat: { short: { name: 'b', per_channel: 'c' } },
  bdev_nvme_attach_controller: { arguments: [], short: { name: 'b', trtype: 't', traddr: 'a' }, words: true },
  bdev_nvme_get_controllers: { short: { name: 'n' } },
  bdev_virtio_attach_controller: {
    arguments: [{ name: 'name', required: true, type: 'string', description: 'name of the adapter' }],
    short: { trtype: 't', traddr: 'a', dev_type: 'd' },
    hidden: ['name'],
    words: true,
  },
  construct_virtio_pci_scsi_bdev: { words: true },
  construct_virtio_user_scsi_bdev: { words: true },
  vhost_create_blk_controller: { short: { readonly: 'r' } },
  vhost_get_controllers: { short: { name: 'n' } },
  rpc_get_methods: { short: { current: 'c', include_aliases: 'i' } },
};

/**
 * The form of a method.
 * @param canonical the method's modern name
 */
export function formOf(canonical: string, params: readonly ParamDescription[]): Form {
  const special = SPECIAL[canonical] ?? {};
  const hidden =
    special.hidden ?? (special.arguments === undefined ? params.filter((p) => p.required).map((p) => p.name) : []);
  return {
    arguments: special.arguments ?? params.filter((p) => p.required),
    short: special.short ?? {},
    options: params.filter((p) => !hidden.includes(p.name)),
    hidden,
    convert: special.convert ?? same,
    words: special.words ?? false,
  };
}
