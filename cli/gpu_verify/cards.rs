//! What cards can do at most.

use ptxsim::roofline;

/// A card's peaks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// A part of the name its driver reports.
    pub name: &'static str,
    /// Dense bf16 products with f32 accumulation, TFLOP/s at boost clock.
    pub tflops: f64,
    /// Device memory, GB/s.
    pub bandwidth: f64,
}

/// Cards that the simulator's roofline does not know (NVIDIA's data sheets and architecture white papers), and variants
/// of those it does. The first name that fits counts.
const MORE: [Peaks; 8] = [
    Peaks { name: "RTX 3090 Ti", tflops: 80.0, bandwidth: 1008.0 },
    Peaks { name: "RTX 5090", tflops: 209.5, bandwidth: 1792.0 },
    Peaks { name: "RTX A6000", tflops: 154.8, bandwidth: 768.0 },
    Peaks { name: "RTX A5000", tflops: 111.0, bandwidth: 768.0 },
    Peaks { name: "A100-SXM4-40GB", tflops: 312.0, bandwidth: 1555.0 },
    Peaks { name: "H100 PCIe", tflops: 756.0, bandwidth: 2000.0 },
    Peaks { name: "H200", tflops: 989.0, bandwidth: 4800.0 },
    Peaks { name: "A10", tflops: 125.0, bandwidth: 600.0 },
];

/// Whether `part` stands in `name` as whole words.
fn has(name: &str, part: &str) -> bool {
    name.match_indices(part).any(|(at, _)| {
        let next = name[at + part.len()..].chars().next();
        !next.is_some_and(|c| c.is_ascii_alphanumeric())
    })
}

/// The card of the simulator's roofline that a driver's name means.
pub fn simulated(name: &str) -> Option<&'static roofline::Card> {
    let variant = MORE.iter().any(|more| has(name, more.name));
    roofline::CARDS.iter().find(|card| !variant && has(name, card.name))
}

impl Peaks {
    /// The peaks of a card named as drivers report it; `None` where it is not known.
    pub fn named(name: &str) -> Option<Peaks> {
        let known = simulated(name).map(|card| Peaks {
            name: card.name,
            tflops: card.tensor_tflops,
            bandwidth: card.dram_gbs,
        });
        known.or_else(|| MORE.into_iter().find(|more| has(name, more.name)))
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
        let peaks = |name| Peaks::named(name).map(|card| (card.tflops, card.bandwidth));
        assert_eq!(peaks("NVIDIA GeForce RTX 3090"), Some((71.0, 936.0)));
        assert_eq!(peaks("NVIDIA GeForce RTX 3090 Ti"), Some((80.0, 1008.0)));
        assert_eq!(peaks("NVIDIA A100-SXM4-40GB"), Some((312.0, 1555.0)));
        assert_eq!(peaks("NVIDIA A100-SXM4-80GB"), Some((312.0, 2039.0)));
        assert_eq!(peaks("NVIDIA H100 80GB HBM3"), Some((989.4, 3350.0)));
        assert_eq!(peaks("NVIDIA L4"), Some((121.0, 300.0)));
        for other in ["NVIDIA L40S", "NVIDIA A10G", "simulated sm_80"] {
            assert_eq!(peaks(other), None, "{other}");
        }
        assert_eq!(simulated("NVIDIA H100 PCIe"), None, "the roofline's H100 is the SXM card");
    }

    #[test]
    fn the_floor_is_the_slower_of_the_two() {
        let card = Peaks { name: "x", tflops: 100.0, bandwidth: 1000.0 };
        assert_eq!(card.floor(2e11, 1e6), 2.0);
        assert_eq!(card.floor(0.0, 3e9), 3.0);
    }
}
