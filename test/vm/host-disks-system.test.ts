/** The host-disk scenario with the machine's own QEMU (7.2 on Debian 12). */
import { hostDisks } from './host-disks.ts';

hostDisks('system');
