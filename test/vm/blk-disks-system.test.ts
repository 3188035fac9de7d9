/** Block disks with the machine's own QEMU. */
import { blkDisks } from './blk-disks.ts';

blkDisks('system');
