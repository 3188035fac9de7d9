/** The host-disk scenario with QEMU 11 or later. */
import { hostDisks } from './host-disks.ts';

hostDisks('11');
