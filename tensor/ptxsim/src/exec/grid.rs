//! A launch: blocks handed out in order to the worker threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::block::{Block, Progress};
use super::context::{Context, Worker};
use crate::count::Accumulator;
use crate::error::Fault;

/// Blocks one worker may keep suspended while they wait for others.
const RESIDENT: usize = 512;

/// Runs every block of the grid on `threads` threads of `pool`.
///
/// Blocks begin in ascending order; the fault reported is that of the lowest block that has one.
pub(crate) fn run(
    context: &Context,
    pool: &rayon::ThreadPool,
    threads: usize,
) -> Result<Accumulator, Box<Fault>> {
    let [x, y, z] = context.grid.map(u64::from);
    let total = x * y * z;
    let next = AtomicU64::new(0);
    let first_fault: Mutex<Option<(u64, Box<Fault>)>> = Mutex::new(None);
    let merged = Mutex::new(Accumulator::new(context.program.code.len()));
    let work = || {
        let mut worker = Worker {
            site: vec![0; context.program.code.len()],
            counts: Accumulator::new(if context.counts { context.program.code.len() } else { 0 }),
            unreported: 0,
        };
        let mut resident: Vec<(u64, Block)> = Vec::new();
        let mut spare: Vec<Block> = Vec::new();
        let mut turn = 0;
        loop {
            // Suspended blocks wait for others: a new one comes first while there is room.
            let fresh = if resident.len() < RESIDENT && !context.stop.load(Relaxed) {
                Some(next.fetch_add(1, Relaxed)).filter(|&n| n < total)
            } else {
                None
            };
            let (number, mut block) = match fresh {
                Some(n) => {
                    let mut block = spare.pop().unwrap_or_else(|| Block::new(context));
                    let index = [n % x, n / x % y, n / x / y].map(|i| i as u32);
                    block.reset(context, index);
                    if context.counts {
                        worker.counts.block();
                    }
                    (n, block)
                }
                None if resident.is_empty() => break,
                None => {
                    turn = (turn + 1) % resident.len();
                    resident.swap_remove(turn)
                }
            };
            // After a fault only blocks before it still matter: theirs would be reported instead.
            let outdated = || {
                context.stop.load(Relaxed)
                    && first_fault.lock().is_ok_and(|f| f.as_ref().is_some_and(|(n, _)| *n < number))
            };
            if outdated() {
                continue;
            }
            match block.run(context, &mut worker) {
                Ok(Progress::Done) => spare.push(block),
                // What it waits for may never come once no new block starts.
                Ok(Progress::Spinning) if context.stop.load(Relaxed) => {}
                Ok(Progress::Spinning) => resident.push((number, block)),
                Err(fault) => {
                    context.stop.store(true, Relaxed);
                    if let Ok(mut first) = first_fault.lock()
                        && first.as_ref().is_none_or(|(n, _)| number < *n)
                    {
                        *first = Some((number, fault));
                    }
                }
            }
        }
        if context.counts
            && let Ok(mut all) = merged.lock()
        {
            all.merge(&worker.counts);
        }
    };
    if threads <= 1 || total == 1 {
        work();
    } else {
        let workers = (threads as u64).min(total);
        pool.scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|_| work());
            }
        });
    }
    let fault = first_fault.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    match fault {
        Some((_, fault)) => Err(fault),
        None => Ok(merged.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)),
    }
}
