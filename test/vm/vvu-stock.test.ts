/** The appliance on a stock QEMU, with compute VMs of the machine's own QEMU and of a newer one. */
import { vvuStock } from './vvu-stock.ts';

vvuStock(['system', '11']);
