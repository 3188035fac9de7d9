/**
 * Numbers of the Linux user-space interface, by the kernel's names. Only those that are the same on x86-64 and
 * arm64; what differs (O_DIRECT and friends) is taken from node:fs, which knows its platform.
 */
import { constants } from 'node:fs';

/** Flags of open(2). */
export const O = {
  RDONLY: 0,
  WRONLY: 1,
  RDWR: 2,
  CREAT: 0o100,
  EXCL: 0o200,
  TRUNC: 0o1000,
  NONBLOCK: 0o4000,
  CLOEXEC: 0o2000000,
  DIRECT: constants.O_DIRECT,
  DIRECTORY: constants.O_DIRECTORY,
  NOFOLLOW: constants.O_NOFOLLOW,
  DSYNC: constants.O_DSYNC,
} as const;

/** Protection of mmap(2). */
export const PROT = { NONE: 0, READ: 1, WRITE: 2 } as const;

/** Flags of mmap(2). */
export const MAP = {
  SHARED: 0x01,
  PRIVATE: 0x02,
  FIXED: 0x10,
  ANONYMOUS: 0x20,
  /** Below 2 GiB; x86-64 only. */
  LOW: 0x40,
  LOCKED: 0x2000,
  NORESERVE: 0x4000,
  POPULATE: 0x8000,
  HUGETLB: 0x40000,
  /** As FIXED, but fails with EEXIST where something is mapped; no more than a hint to kernels before 4.17. */
  FIXED_NOREPLACE: 0x10_0000,
  /** log2 of the huge page size goes into the flags from this bit on. */
  HUGE_SHIFT: 26,
} as const;

/** Advice of madvise(2). */
export const MADV = { HUGEPAGE: 14, NOHUGEPAGE: 15, DONTDUMP: 16, DODUMP: 17, DONTFORK: 10 } as const;

/** Commands of fcntl(2). */
export const F = {
  GETFD: 1,
  SETFD: 2,
  GETFL: 3,
  SETFL: 4,
  DUPFD_CLOEXEC: 1030,
  ADD_SEALS: 1033,
  GET_SEALS: 1034,
} as const;
export const FD_CLOEXEC = 1;

/** Seals of a memfd, fcntl(2). */
export const F_SEAL = { SEAL: 1, SHRINK: 2, GROW: 4, WRITE: 8 } as const;

/** Flags of memfd_create(2). */
export const MFD = { CLOEXEC: 1, ALLOW_SEALING: 2, HUGETLB: 4 } as const;

/** Modes of fallocate(2). */
export const FALLOC_FL = { KEEP_SIZE: 1, PUNCH_HOLE: 2, COLLAPSE_RANGE: 8, ZERO_RANGE: 16 } as const;

/** Block-device ioctls, linux/fs.h. Sizes and ranges are u64 bytes; DISCARD and ZEROOUT take u64[2] {start, length}. */
export const BLK = {
  ROGET: 0x125e,
  SSZGET: 0x1268,
  PBSZGET: 0x127b,
  ROTATIONAL: 0x127e,
  DISCARD: 0x1277,
  ZEROOUT: 0x127f,
  GETSIZE64: 0x8008_1272,
} as const;

/** Events of epoll(7). */
export const EPOLL = { IN: 0x001, OUT: 0x004, ERR: 0x008, HUP: 0x010, RDHUP: 0x2000, ET: 0x8000_0000 } as const;
/** Operations of epoll_ctl(2). */
export const EPOLL_CTL = { ADD: 1, DEL: 2, MOD: 3 } as const;

/** Socket numbers: families, types and type flags, levels, message flags. */
export const AF_UNIX = 1;
export const SOCK = { STREAM: 1, DGRAM: 2, NONBLOCK: 0o4000, CLOEXEC: 0o2000000 } as const;
export const SOL_SOCKET = 1;
export const SO_ERROR = 4;
export const SCM_RIGHTS = 1;
export const MSG = { CTRUNC: 0x08, TRUNC: 0x20, DONTWAIT: 0x40, NOSIGNAL: 0x4000, CMSG_CLOEXEC: 0x4000_0000 } as const;
/** Most file descriptors that one message can carry, net/scm.h. */
export const SCM_MAX_FD = 253;

/** Flags of eventfd(2). */
export const EFD = { NONBLOCK: 0o4000, CLOEXEC: 0o2000000 } as const;

/** Resources of getrlimit(2). */
export const RLIMIT = { CORE: 4, NOFILE: 7, MEMLOCK: 8, AS: 9 } as const;
/** f_type of hugetlbfs, statfs(2). */
export const HUGETLBFS_MAGIC = 0x958458f6;
