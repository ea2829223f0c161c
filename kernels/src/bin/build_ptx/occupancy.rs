//! How many warps of a kernel an SM can hold.
//!
//! Formula: NVIDIA's `cuda_occupancy.h` (CUDA 12.4), `cudaOccMaxActiveBlocksPerMultiprocessor`, for compute
//! capability 8.0 and later. Limits: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".

/// Registers are allocated to a warp in units of 256.
const REGISTER_UNIT: u32 = 256;
/// Shared memory is allocated to a block in units of 128 bytes.
const SHARED_UNIT: u32 = 128;
/// Shared memory that the driver keeps in every block, bytes.
const SHARED_RESERVED: u32 = 1024;
/// An SM's register file (65,536 registers) is split over four sub-partitions.
const PARTITIONS: u32 = 4;
const REGISTERS: u32 = 65_536;

/// The limits of one SM.
#[derive(Debug, Clone, Copy)]
pub struct Arch {
    /// As ptxas names it: `sm_86`.
    pub name: &'static str,
    warps: u32,
    blocks: u32,
    /// Shared memory of an SM, bytes.
    shared: u32,
}

/// The architectures every kernel is assembled for: A100, RTX 30xx, RTX 40xx and L4, H100.
pub const ARCHS: [Arch; 4] = [
    Arch { name: "sm_80", warps: 64, blocks: 32, shared: 164 << 10 },
    Arch { name: "sm_86", warps: 48, blocks: 16, shared: 100 << 10 },
    Arch { name: "sm_89", warps: 48, blocks: 24, shared: 100 << 10 },
    Arch { name: "sm_90", warps: 64, blocks: 32, shared: 228 << 10 },
];

impl Arch {
    /// Resident warps of a kernel as a share of the SM's warps, and the blocks that makes: `(percent, blocks)`.
    /// `registers` a thread; `threads` and `shared` bytes (static and dynamic) a block. `(0, 0)` does not launch.
    pub fn occupancy(&self, registers: u32, threads: u32, shared: u32) -> (u32, u32) {
        let warps = threads.div_ceil(32).max(1);
        let register_blocks = match (registers * 32).next_multiple_of(REGISTER_UNIT) {
            0 => u32::MAX,
            // The launch check assumes registers in every sub-partition.
            a_warp if a_warp * warps.next_multiple_of(PARTITIONS) > REGISTERS => 0,
            a_warp => REGISTERS / PARTITIONS / a_warp * PARTITIONS / warps,
        };
        let shared_blocks = self.shared / (shared + SHARED_RESERVED).next_multiple_of(SHARED_UNIT);
        let blocks = (self.warps / warps).min(self.blocks).min(register_blocks).min(shared_blocks);
        ((100 * blocks * warps + self.warps / 2) / self.warps, blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed by compiling `cuda_occupancy.h` of CUDA 12.4 itself:
    /// (architecture, registers, threads, shared) and the resident blocks.
    const REFERENCE: &[(&str, u32, u32, u32, u32)] = &[
        ("sm_80", 32, 256, 0, 8),
        ("sm_80", 255, 128, 49152, 2),
        ("sm_80", 128, 256, 65536, 2),
        ("sm_80", 168, 128, 81920, 2),
        ("sm_80", 96, 96, 1000, 6),
        ("sm_80", 64, 1024, 0, 1),
        ("sm_80", 65, 1024, 0, 0),
        ("sm_80", 40, 32, 0, 32),
        ("sm_80", 255, 256, 101376, 1),
        ("sm_80", 127, 160, 33000, 3),
        ("sm_80", 24, 512, 16384, 4),
        ("sm_80", 80, 384, 12345, 2),
        ("sm_86", 32, 256, 0, 6),
        ("sm_86", 255, 128, 49152, 2),
        ("sm_86", 128, 256, 65536, 1),
        ("sm_86", 168, 128, 81920, 1),
        ("sm_86", 96, 96, 1000, 6),
        ("sm_86", 64, 1024, 0, 1),
        ("sm_86", 65, 1024, 0, 0),
        ("sm_86", 40, 32, 0, 16),
        ("sm_86", 255, 256, 101376, 1),
        ("sm_86", 127, 160, 33000, 3),
        ("sm_86", 24, 512, 16384, 3),
        ("sm_86", 80, 384, 12345, 2),
        ("sm_89", 32, 256, 0, 6),
        ("sm_89", 255, 128, 49152, 2),
        ("sm_89", 128, 256, 65536, 1),
        ("sm_89", 168, 128, 81920, 1),
        ("sm_89", 96, 96, 1000, 6),
        ("sm_89", 64, 1024, 0, 1),
        ("sm_89", 65, 1024, 0, 0),
        ("sm_89", 40, 32, 0, 24),
        ("sm_89", 255, 256, 101376, 1),
        ("sm_89", 127, 160, 33000, 3),
        ("sm_89", 24, 512, 16384, 3),
        ("sm_89", 80, 384, 12345, 2),
        ("sm_90", 32, 256, 0, 8),
        ("sm_90", 255, 128, 49152, 2),
        ("sm_90", 128, 256, 65536, 2),
        ("sm_90", 168, 128, 81920, 2),
        ("sm_90", 96, 96, 1000, 6),
        ("sm_90", 64, 1024, 0, 1),
        ("sm_90", 65, 1024, 0, 0),
        ("sm_90", 40, 32, 0, 32),
        ("sm_90", 255, 256, 101376, 1),
        ("sm_90", 127, 160, 33000, 3),
        ("sm_90", 24, 512, 16384, 4),
        ("sm_90", 80, 384, 12345, 2),
    ];

    #[test]
    fn agrees_with_cuda_occupancy_h() {
        assert!(!REFERENCE.is_empty());
        for &(name, registers, threads, shared, blocks) in REFERENCE {
            let arch = ARCHS.iter().find(|arch| arch.name == name).unwrap();
            assert_eq!(
                arch.occupancy(registers, threads, shared).1,
                blocks,
                "{name}, {registers} registers, {threads} threads, {shared} bytes"
            );
        }
    }

    #[test]
    fn percent_counts_warps() {
        assert_eq!(ARCHS[0].occupancy(32, 256, 0), (100, 8));
        assert_eq!(ARCHS[1].occupancy(128, 128, 0), (33, 4));
        assert_eq!(ARCHS[1].occupancy(128, 128, 101 << 10), (0, 0));
    }
}
