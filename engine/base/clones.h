#pragma once

// QSHARD_CLONES before a function whose loops are written to be vectorized: it is compiled twice
// and chosen by the CPU at run time. Both give the same bits: products and sums are rounded
// separately
// (-ffp-contract=off). The choice runs before a sanitizer's own start, so sanitized builds have one
// version.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__clang__)
#define QSHARD_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define QSHARD_CLONES
#endif
