//! What cards can do at most.

/// A card's peaks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Card {
    /// A part of the name its driver reports.
    pub name: &'static str,
    /// Dense bf16 products with f32 accumulation, TFLOP/s at boost clock.
    pub tflops: f64,
    /// Device memory, GB/s.
    pub bandwidth: f64,
}

/// NVIDIA's data sheets and architecture white papers (GA102, AD102, A100, H100; on GeForce cards half the rate of f16
/// accumulation). The first name that fits counts.
const CARDS: [Card; 14] = [
    Card { name: "RTX 3090 Ti", tflops: 80.0, bandwidth: 1008.0 },
    Card { name: "RTX 3090", tflops: 71.0, bandwidth: 936.0 },
    Card { name: "RTX 4090", tflops: 165.2, bandwidth: 1008.0 },
    Card { name: "RTX 5090", tflops: 209.5, bandwidth: 1792.0 },
    Card { name: "RTX A6000", tflops: 154.8, bandwidth: 768.0 },
    Card { name: "RTX A5000", tflops: 111.0, bandwidth: 768.0 },
    Card { name: "A100-SXM4-80GB", tflops: 312.0, bandwidth: 2039.0 },
    Card { name: "A100 80GB PCIe", tflops: 312.0, bandwidth: 1935.0 },
    Card { name: "A100", tflops: 312.0, bandwidth: 1555.0 },
    Card { name: "H100 PCIe", tflops: 756.0, bandwidth: 2000.0 },
    Card { name: "H100", tflops: 989.0, bandwidth: 3350.0 },
    Card { name: "H200", tflops: 989.0, bandwidth: 4800.0 },
    Card { name: "A10", tflops: 125.0, bandwidth: 600.0 },
    Card { name: "L4", tflops: 121.0, bandwidth: 300.0 },
];

impl Card {
    /// The card of a name as drivers report it; `None` where it is not in the list.
    pub fn named(name: &str) -> Option<Card> {
        CARDS.into_iter().find(|card| {
            name.match_indices(card.name).any(|(at, found)| {
                let next = name[at + found.len()..].chars().next();
                !next.is_some_and(|c| c.is_ascii_alphanumeric())
            })
        })
    }

    /// Milliseconds below which no kernel does this much work.
    pub fn floor(&self, flops: f64, bytes: f64) -> f64 {
        (flops / self.tflops / 1e9).max(bytes / self.bandwidth / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_drivers_report_them() {
        let tflops = |name| Card::named(name).map(|card| (card.tflops, card.bandwidth));
        assert_eq!(tflops("NVIDIA GeForce RTX 3090"), Some((71.0, 936.0)));
        assert_eq!(tflops("NVIDIA A100-SXM4-40GB"), Some((312.0, 1555.0)));
        assert_eq!(tflops("NVIDIA H100 80GB HBM3"), Some((989.0, 3350.0)));
        assert_eq!(tflops("NVIDIA L4"), Some((121.0, 300.0)));
        assert_eq!(tflops("NVIDIA L40S"), None);
        assert_eq!(tflops("NVIDIA A10G"), None, "half an A10");
        assert_eq!(tflops("simulated sm_80"), None);
    }

    #[test]
    fn the_floor_is_the_slower_of_the_two() {
        let card = Card { name: "x", tflops: 100.0, bandwidth: 1000.0 };
        assert_eq!(card.floor(2e11, 1e6), 2.0);
        assert_eq!(card.floor(0.0, 3e9), 3.0);
    }
}
