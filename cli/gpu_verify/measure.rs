//! How long something takes on a card.

use std::time::Instant;

use anyhow::Result;
use medley_tensor::device::{CudaDevice, Event};

/// Times of one thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// The middle run, milliseconds.
    pub median: f64,
    /// The fastest run, milliseconds.
    pub fastest: f64,
    /// Timed runs.
    pub runs: usize,
}

/// Times passes by events in the device's compute stream.
pub struct Clock<'a> {
    device: &'a CudaDevice,
    start: Event,
    end: Event,
    /// Runs until this many milliseconds are timed, at least five times.
    budget: f64,
}

impl<'a> Clock<'a> {
    /// A clock that spends about `budget` milliseconds on each thing it times.
    ///
    /// # Errors
    /// When the driver gives no event.
    pub fn new(device: &'a CudaDevice, budget: f64) -> Result<Clock<'a>> {
        let driver = device.driver();
        Ok(Clock { device, start: driver.create_event(true)?, end: driver.create_event(true)?, budget })
    }

    /// Times `pass`, after two passes that are not timed (they load modules and fill the allocator).
    ///
    /// # Errors
    /// What `pass` reports, and a kernel that failed.
    pub fn time(&self, mut pass: impl FnMut() -> Result<()>) -> Result<Sample> {
        for _ in 0..2 {
            pass()?;
        }
        self.device.synchronize()?;
        let (mut times, began) = (vec![], Instant::now());
        while times.len() < 5 || (times.iter().sum::<f64>() < self.budget && began.elapsed().as_secs() < 20) {
            times.push(self.total(1, &mut pass)?);
        }
        Ok(Sample::of(times))
    }

    /// Milliseconds of `passes` passes one after another.
    ///
    /// # Errors
    /// As [`Clock::time`].
    pub fn total(&self, passes: u64, mut pass: impl FnMut() -> Result<()>) -> Result<f64> {
        let (driver, stream) = (self.device.driver(), self.device.stream());
        driver.record(self.start, stream)?;
        for _ in 0..passes {
            pass()?;
        }
        driver.record(self.end, stream)?;
        driver.event_synchronize(self.end)?;
        Ok(f64::from(driver.elapsed(self.start, self.end)?))
    }
}

impl Drop for Clock<'_> {
    fn drop(&mut self) {
        for event in [self.start, self.end] {
            if let Err(error) = self.device.driver().destroy_event(event) {
                eprintln!("warning: an event is not given back: {error}");
            }
        }
    }
}

impl Sample {
    fn of(mut times: Vec<f64>) -> Sample {
        times.sort_by(f64::total_cmp);
        Sample { median: times[times.len() / 2], fastest: times[0], runs: times.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_run_counts() {
        assert_eq!(Sample::of(vec![9.0, 1.0, 2.0]), Sample { median: 2.0, fastest: 1.0, runs: 3 });
    }
}
