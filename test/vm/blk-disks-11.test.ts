/** Block disks with QEMU 11 or later. */
import { blkDisks } from './blk-disks.ts';

blkDisks('11');
