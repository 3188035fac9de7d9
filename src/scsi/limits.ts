/**
 * The emulation's limits. Each bounds something that a guest could otherwise make as large as it likes; those that a
 * guest must know are in VPD page B0h (block-limits.ts is made from these).
 */

/** Data of one READ, WRITE, VERIFY with data, ORWRITE: bytes (VPD B0h MAXIMUM TRANSFER LENGTH). */
export const MAX_TRANSFER_BYTES = 4 * 1024 * 1024;
/** COMPARE AND WRITE: blocks. Its CDB has one byte for the number. */
export const MAX_COMPARE_AND_WRITE_BLOCKS = 255;
/**
 * One WRITE SAME: bytes. Larger ones are refused, so that one command is never long: zeroes are one request to the disk
 * (ZERO_CHUNK_BYTES). Also fewer blocks than 16 bits count, so that the 10-byte CDB can say all of them.
 */
export const MAX_WRITE_SAME_BYTES = 16 * 1024 * 1024;
/** UNMAP: blocks in all descriptors of a command, and descriptors. */
export const MAX_UNMAP_BLOCKS = 0x10_0000;
export const MAX_UNMAP_DESCRIPTORS = 256;

/** One work buffer: what a multi-step command reads, compares or writes at a time. Bytes. */
export const CHUNK_BYTES = 128 * 1024;
/** One disk request of a command that moves no data of its own (UNMAP, WRITE_ZEROES) or compares: bytes. */
export const ZERO_CHUNK_BYTES = 16 * 1024 * 1024;
export const COMPARE_CHUNK_BYTES = 1024 * 1024;
/** Work buffers of one pool; commands beyond wait for one. */
export const MAX_WORK_BUFFERS = 8;
/** How far one command goes in a row when its disk completes at once; then others get their turn. */
export const MAX_STEPS_A_TURN = 8;
export const MAX_BYTES_A_TURN = 1024 * 1024;

/** Parameter data composed for one command, bytes. */
export const MAX_PARAMETER_BYTES = 64 * 1024;
/** A MODE SELECT or PERSISTENT RESERVE OUT parameter list, bytes; longer ones are refused. */
export const MAX_PARAMETER_LIST = 4096;

/** Logical units of one target. */
export const MAX_LUNS = 256;
/** I_T nexuses of one target. */
export const MAX_NEXUSES = 16;
/** Luns (controllers) that share one disk. */
export const MAX_LUN_SLOTS = 64;
/** I_T nexuses that one disk remembers: connected ones and registrants of persistent reservations. */
export const MAX_DISK_NEXUSES = 64;
