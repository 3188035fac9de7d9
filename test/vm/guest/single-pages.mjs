/**
 * Preloaded into a target (NODE_OPTIONS=--import): it never gets two pages of DMA memory in a row, as on a machine whose memory is in
 * pieces. A machine that has just booted has some rows, and how long they are changes from run to run.
 */
import { DmaMemory } from '/opt/vvu-target/dist/pci/dma-memory.js';

const { allocate } = DmaMemory.prototype;

DmaMemory.prototype.allocate = function (bytes, contiguous) {
  if (contiguous && bytes > 4096)
    throw new Error(`no ${bytes} bytes of DMA memory in one physical piece (a test says so)`);
  return allocate.call(this, bytes, contiguous);
};
