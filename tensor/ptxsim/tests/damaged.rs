//! Damaged PTX is refused or faults; it never takes the simulator down.

mod device;

use device::bytes_of;
use ptxsim::{Checks, Gpu, GpuConfig, Launch, Module};

const PTX: &str = include_str!("fixtures/basic.ptx");

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

/// The text with one to three lines or words changed.
fn damage(text: &str, random: &mut Random) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    for _ in 0..1 + random.below(3) {
        let (i, j) = (random.below(lines.len()), random.below(lines.len()));
        match random.below(7) {
            0 => {
                lines.remove(i);
            }
            1 => lines[i] = lines[j].clone(),
            2 => lines.swap(i, j),
            3 => {
                // A word of one line in place of a word of another.
                let from: Vec<&str> = lines[j].split([' ', ',', '\t']).collect();
                let word = from[random.below(from.len())].trim_end_matches(';').to_string();
                let mut to: Vec<String> = lines[i].split(' ').map(str::to_string).collect();
                let at = random.below(to.len());
                to[at] = if to[at].ends_with(';') { format!("{word};") } else { format!("{word},") };
                lines[i] = to.join(" ");
            }
            4 => {
                let n = random.below(1 << 20) as i64 - (1 << 19);
                lines[i] = lines[i].replace(['1', '3'], &n.to_string());
            }
            5 => {
                let cut = random.below(lines[i].len() + 1);
                if lines[i].is_char_boundary(cut) {
                    lines[i].truncate(cut);
                }
            }
            _ => lines[i] = lines[i].replace("32", "64").replace("u64", "u16"),
        }
    }
    lines.join("\n")
}

#[test]
fn any_damage_ends_in_an_error_a_fault_or_a_result() {
    let seeds = std::env::var("DAMAGED").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let (mut refused, mut ran, mut faulted) = (0, 0, 0);
    for seed in 0..seeds {
        let mut random = Random(seed);
        let text = damage(PTX, &mut random);
        let Ok(module) = Module::parse(&text) else {
            refused += 1;
            continue;
        };
        let checks = if seed % 3 == 0 { Checks::NONE } else { Checks::ALL };
        let config = GpuConfig {
            threads: 1,
            checks,
            counts: seed % 2 == 0,
            memory_bytes: 1 << 28,
            max_instructions: Some(2_000),
            ..GpuConfig::default()
        };
        let mut gpu = Gpu::new(config).unwrap();
        let Ok(loaded) = gpu.load(&module) else {
            refused += 1;
            continue;
        };
        let pointer = gpu.alloc(4096).unwrap();
        gpu.fill(pointer, 4096, 1).unwrap();
        for entry in module.entries() {
            let mut args: Vec<u8> = bytes_of(&vec![pointer; entry.param_bytes() / 8 + 1]);
            args.truncate(entry.param_bytes());
            let launch = Launch { grid: [2, 1, 1], block: [40, 2, 1], shared_bytes: 64 };
            match gpu.launch(&loaded, &entry.name, launch, &args) {
                Ok(_) => ran += 1,
                Err(fault) => {
                    assert!(!fault.message.is_empty());
                    faulted += 1;
                }
            }
        }
    }
    assert!(refused > 0 && ran > 0 && faulted > 0, "{refused} {ran} {faulted}");
}
